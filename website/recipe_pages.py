"""Pages of what ships as YAML, recipes and data specs, and of every key they may have."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from markdown_pages import table
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import medssl
from medssl.cli.method_table import takes
from medssl.settings.recipe import Recipe
from medssl.settings.specs import spec_files


def recipe_pages() -> Iterator[tuple[str, str]]:
    """Yield path and text of the pages of recipes, of data specs and of their keys."""
    yield (
        "reference/recipes.md",
        _files(
            "Recipes",
            "Train one with `medssl train NAME`, or `medssl recipes --copy NAME` and edit it. "
            "[Every key](recipe_keys.md).",
            medssl.list_recipes(),
        ),
    )
    yield (
        "reference/specs.md",
        _files(
            "Data specs",
            "What is true of a kind of data: `spec: NAME` in a recipe. "
            "[Every key](recipe_keys.md#spec).",
            spec_files(),
        ),
    )
    yield "reference/recipe_keys.md", _keys()


def _files(title: str, intro: str, files: dict[str, Path]) -> str:
    rows, parts = [], []
    for name, path in files.items():
        text = path.read_text(encoding="utf-8")
        rows.append([f"[`{name}`](#{name})", text.partition("\n")[0].lstrip("# ")])
        parts.append(f"## {name}\n\n```yaml\n{text.rstrip()}\n```\n")
    return f"# {title}\n\n{intro}\n\n{table(['name', 'what it is'], rows)}\n" + "\n".join(parts)


def _keys() -> str:
    parts = [
        "# Keys of a recipe\n",
        "A recipe is a YAML file with these keys; what it leaves out has the value below. A key "
        "that is not here is refused. Settings of a method are on "
        "[its page](../methods/index.md).\n",
        "## Top\n",
        _table(Recipe, ""),
    ]
    for path, model in _sections(Recipe, ""):
        parts += [f"## {path}\n", " ".join((model.__doc__ or "").split()) + "\n"]
        parts.append(_table(model, f"{path}."))
    return "\n".join(parts)


def _sections(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield the sections of a model and theirs, with the keys that lead there."""
    for key, field in model.model_fields.items():
        for inner in _models(field.annotation):
            yield f"{prefix}{key}", inner
            yield from _sections(inner, f"{prefix}{key}.")


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, list, dict):
        return [m for part in typing.get_args(annotation) for m in _models(part)]
    return []


def _table(model: type[BaseModel], prefix: str) -> str:
    rows = [
        [f"`{prefix}{key}`", _default(field), _takes(field), field.description or ""]
        for key, field in model.model_fields.items()
    ]
    return table(["key", "default", "takes", "what it is"], rows)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "to be given"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "see its section"
    return "`" + {None: "null", True: "true", False: "false"}.get(_plain(value), str(value)) + "`"


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, bool) else str(value)


def _takes(field: FieldInfo) -> str:
    models = [model.__name__ for model in _models(field.annotation)]
    return "a section" if models else takes(field).replace("NoneType", "null")
