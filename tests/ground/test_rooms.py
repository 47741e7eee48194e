"""No room's ``__init__`` gives out a name that one of its modules bears: it would hide that."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import medssl

PACKAGE = Path(medssl.__file__).parent
ROOMS = sorted(path.parent for path in PACKAGE.rglob("__init__.py"))


def names_of(source: str, room: str) -> set[str]:
    """Return what an ``__init__`` defines or imports at its top, but for the room's own modules."""
    found: set[str] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import):
            found |= {a.asname or a.name.partition(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module != room:
            found |= {a.asname or a.name for a in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {t.id for t in node.targets if isinstance(t, ast.Name)}
    return found


def modules_of(room: Path) -> set[str]:
    """Return the names of the modules and rooms in a room."""
    inside = {path.stem for path in room.glob("*.py")} | {
        path.parent.name for path in room.glob("*/__init__.py")
    }
    return inside - {"__init__", "__main__"}


@pytest.mark.parametrize("room", ROOMS, ids=lambda p: p.relative_to(PACKAGE.parent).as_posix())
def test_a_room_hides_none_of_its_modules(room: Path) -> None:
    name = ".".join(room.relative_to(PACKAGE.parent).parts)
    source = (room / "__init__.py").read_text(encoding="utf-8")
    assert not names_of(source, name) & modules_of(room)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from medssl.reports.page import report", {"report"}),
        ("from medssl.reports.page import render as report", {"report"}),
        ("def report(): ...", {"report"}),
        ("report = None", {"report"}),
        ("import report.page", {"report"}),
        ("from medssl.reports import report", set()),
        ("from __future__ import annotations", {"annotations"}),
    ],
)
def test_names_of_an_init(source: str, found: set[str]) -> None:
    assert names_of(source, "medssl.reports") == found
