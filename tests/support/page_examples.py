"""The examples of a page of the documentation, in order, for a test to run."""

from __future__ import annotations

import ast
import re
from pathlib import Path

_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def examples_of(page: str) -> list[str]:
    """Return the Python blocks of ``docs/PAGE``."""
    path = Path(__file__).parents[2] / "docs" / page
    return _BLOCK.findall(path.read_text(encoding="utf-8"))


def called(source: str) -> set[str]:
    """Return the names of ``medssl`` that some code calls."""
    return {
        node.func.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and ast.unparse(node.func.value) == "medssl"
    }
