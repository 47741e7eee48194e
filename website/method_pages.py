"""A page for each method: what its file says, its settings, and what was measured with it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from markdown_pages import OUTSIDE, of_docstring, table, tables_of

import medssl
from medssl.cli.method_table import method_table
from medssl.methods.registry import get_settings
from medssl.settings.yaml_file import read_yaml

ROOT = Path(__file__).parents[1]
ALONE = "`supervised`"


def method_pages() -> Iterator[tuple[str, str]]:
    """Yield path and text of the page of each method, and of their list."""
    recipes = _recipes()
    rows = []
    for name in medssl.list_methods():
        settings = get_settings(name)
        rows.append(
            [f"[`{name}`]({name}.md)", "yes" if settings.uses_unlabeled else "no", settings.paper]
        )
        yield f"methods/{name}.md", _page(name, recipes.get(name, []))
    yield (
        "methods/index.md",
        "# Methods\n\n"
        "`method: {name: NAME}` in a recipe, or `--set method=NAME`. What they do in "
        "each iteration and what it costs: [the table of the first page](../index.md#methods).\n\n"
        + table(["method", "uses unlabeled scans", "paper"], rows),
    )


def _page(name: str, recipes: list[str]) -> str:
    head, _, rest = docstring(name).partition("\n")
    parts = [f"# {name}\n", f"*{head}*\n", of_docstring(rest.strip())]
    parts += ["## What was measured\n", _measured(name)]
    parts += ["## Settings\n", f"As `medssl methods {name}` shows them.\n", _settings(name)]
    if recipes:
        shown = [f"[`{recipe}`](../reference/recipes.md#{recipe})" for recipe in recipes]
        parts += ["## Recipes\n", ", ".join(shown) + "\n"]
    return "\n".join(parts)


def docstring(name: str) -> str:
    """Return what stands at the top of a method's file, and of its file of presets, without
    importing them.
    """
    files = [ROOT / "medssl" / "methods" / f"{name}{part}.py" for part in ("", "_presets")]
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
    return "\n\n".join(ast.get_docstring(tree) or "" for tree in trees)


def _settings(name: str) -> str:
    shown = method_table(name)
    columns = [[str(cell) for cell in column.cells] for column in shown.columns]
    rows = [[f"`{row[0]}`", *map(_plain, row[1:])] for row in zip(*columns, strict=True)]
    return table([str(column.header) for column in shown.columns], rows)


def _plain(text: str) -> str:
    return text.replace("<", "&lt;").replace("*", r"\*")


def _measured(name: str) -> str:
    """Return the rows about a method of every table that has a column ``method``."""
    parts = []
    sources = {f"docs/{path.name}": path.name for path in sorted((ROOT / "docs").glob("*.md"))}
    for source, page in {"README.md": OUTSIDE["README.md"], **sources}.items():
        for heading, (header, *rows) in tables_of((ROOT / source).read_text(encoding="utf-8")):
            column = header.index("method") if "method" in header else None
            if column is None or all(row[column] != f"`{name}`" for row in rows):
                continue
            mine = [row for row in rows if row[column] in (f"`{name}`", ALONE)]
            mine = [[_linked(cell) for cell in row] for row in mine]
            parts += [f"[{heading}](../{page}):\n", table(header, mine)]
    return "\n".join(parts) or "Nothing is published here about this method yet.\n"


def _linked(cell: str) -> str:
    """Let a link of a page in ``docs/`` or beside it lead there from a method's page."""
    return re.sub(r"\]\((?:docs/)?(?!https?:)", "](../", cell)


def _recipes() -> dict[str, list[str]]:
    """Return the names of the shipped recipes of each method."""
    found: dict[str, list[str]] = {}
    for recipe, path in medssl.list_recipes().items():
        method = read_yaml(path)[0].get("method")
        name = method.get("name", "supervised") if isinstance(method, dict) else method
        found.setdefault(str(name), []).append(recipe)
    return found
