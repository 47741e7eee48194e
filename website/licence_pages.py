"""The page of licences: what medssl needs, and what that needs, as installed where this runs.

python website/licence_pages.py    # prints it
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from markdown_pages import table
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


def licence_page() -> tuple[str, str]:
    """Return path and text of the page."""
    rows = [
        [name, found.version, licence_of(found), "yes" if required else "an extra"]
        for name, (found, required) in sorted(needed().items())
    ]
    return (
        "about/licences.md",
        "# Licences of what medssl uses\n\n"
        "medssl is under Apache-2.0. It contains none of these packages; pip installs them, in the "
        "versions that it finds. Listed are those that were installed when this page was made, as "
        "they say of themselves.\n\n"
        + table(["package", "version", "licence", "always needed"], rows),
    )


def needed() -> dict[str, tuple[Distribution, bool]]:
    """Return the installed packages that medssl needs, directly or not, and which always."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found: dict[str, tuple[Distribution, bool]] = {}
    extras = [r for rs in project["optional-dependencies"].values() for r in rs]
    for required, requirements in ((True, project["dependencies"]), (False, extras)):
        waiting = [Requirement(text) for text in requirements]
        while waiting:
            for name, package in _installed(waiting.pop()):
                if name not in found and name != "medssl":
                    found[name] = (package, required)
                    waiting += [Requirement(text) for text in package.requires or ()]
    return found


def _installed(requirement: Requirement) -> Iterator[tuple[str, Distribution]]:
    if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
        return
    try:
        package = distribution(requirement.name)
    except PackageNotFoundError:
        return
    yield re.sub(r"[-_.]+", "-", requirement.name).lower(), package


def licence_of(package: Distribution) -> str:
    """Return a package's licence as its metadata give it, in a few words."""
    said = package.metadata
    if expression := said.get("License-Expression"):
        return expression
    classified = [c for c in said.get_all("Classifier") or () if c.startswith("License :: ")]
    names = [c.rpartition(" :: ")[2] for c in classified if c != "License :: OSI Approved"]
    if names:
        return ", ".join(names)
    return (said.get("License") or "not stated").strip().splitlines()[0][:80]


if __name__ == "__main__":
    print(licence_page()[1])
