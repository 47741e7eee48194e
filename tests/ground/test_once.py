"""What is said or done in one way has one home."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import medssl

PACKAGE = Path(medssl.__file__).parent
HOMES = {
    "difflib": ("errors.py",),
    "importlib": ("optional.py", "plugins.py", "__init__.py"),
    "importlib.util": ("optional.py", "plugins.py", "bundle/scripts.py"),
    "rich.progress": ("progress.py",),
}
"""Modules and the only files that import them."""
BASE = ("BaseModel", ("strict.py",))
"""The class that settings derive from by `Strict`."""


def violations(source: str, file: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{a.name}" for a in node.names]
            names += [node.module or ""] if node.module != "importlib" else []
        else:
            names = []
        found += [f"{n}" for n in names if n in HOMES and file not in HOMES[n]]
        if isinstance(node, ast.ClassDef):
            bases = {ast.unparse(b).rpartition(".")[2] for b in node.bases}
            if BASE[0] in bases and file not in BASE[1]:
                found.append(f"class {node.name}({BASE[0]})")
        if isinstance(node, ast.ExceptHandler) and node.type is not None:
            caught = ast.unparse(node.type)
            missing = "ImportError" in caught or "ModuleNotFound" in caught
            if missing and file not in ("optional.py", "files/lock.py"):
                found.append(f"except {caught}")
    return [f"{file}: {line}" for line in found]


def test_each_has_one_home() -> None:
    found = [
        line
        for path in sorted(PACKAGE.rglob("*.py"))
        for line in violations(path.read_text("utf-8"), path.relative_to(PACKAGE).as_posix())
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "import difflib",
        "from difflib import get_close_matches",
        "from importlib import util",
        "class Own(pydantic.BaseModel): ...",
        "try:\n    import cc3d\nexcept ImportError:\n    cc3d = None",
        "from rich.progress import Progress",
    ],
)
def test_finds_a_second_home(source: str) -> None:
    assert violations(source, "data/x.py")


def test_leaves_the_others() -> None:
    source = "from importlib import metadata\nclass Own(Strict): ..."
    assert not violations(source, "data/x.py")
