"""What can be known of the container files without a daemon to build them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile and what follows each."""
    text = re.sub(r"(?m)^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines if line.strip()]


def test_dockerfile() -> None:
    found = instructions()
    known = {"FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in found} <= known
    assert found[0] == ("FROM", "python:3.12-slim")
    assert ("ARG", "DEVICE=cpu") in found
    assert ("USER", "medssl") in found
    assert [name for name, _ in found].index("USER") > max(
        at for at, (name, _) in enumerate(found) if name in ("RUN", "COPY")
    )
    assert any("-c constraints.txt" in what for name, what in found if name == "RUN")


def test_what_is_copied_is_there_and_the_extras_exist() -> None:
    allowed = re.findall(r"(?m)^!(.+)$", (ROOT / ".dockerignore").read_text())
    definition = (ROOT / "apptainer.def").read_text()
    copied = re.findall(r"(?m)^    (\S+) /build/", definition)
    assert set(allowed) - {"site"} == set(copied)  # the site is built, or not
    assert all((ROOT / name).exists() for name in copied)
    for section in ("%files", "%post", "%environment", "%runscript"):
        assert section in definition
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for text in ((ROOT / "Dockerfile").read_text(), definition):
        asked = re.search(r'"\.\[(.*?)\]"', text)[1].split(",")
        assert set(asked) <= set(extras)
