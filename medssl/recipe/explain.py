"""A recipe line by line: each key, the value it has once resolved, and what it is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from medssl.networks.registry import resolve_network
from medssl.paths import AnyPath
from medssl.recipe.load import load_recipe


@dataclass(frozen=True)
class ExplainedKey:
    """A key of a recipe: in full, its value as YAML would take it, and what it is."""

    key: str
    value: str
    meaning: str


def explain_recipe(name_or_path: AnyPath) -> list[ExplainedKey]:
    """Explain all keys of a recipe, those that it leaves to their defaults included.

    Args:
        name_or_path: a YAML file, the name of a shipped recipe, or a run folder.

    Raises:
        MedSSLError: no such recipe, or it is wrong.
    """
    loaded = load_recipe(name_or_path)
    recipe = loaded.recipe
    _, network = resolve_network(recipe.network.name, recipe.network.settings)
    out = []
    for name, field in type(recipe).model_fields.items():
        value = getattr(recipe, name)
        if not isinstance(value, BaseModel):
            out.append(_line(name, value, field.description))
            continue
        own: dict[str, BaseModel] = {"network": network, "method": loaded.settings}
        out += _section(name, value)
        out += _section(name, own[name]) if name in own else ()
    return list({line.key: line for line in out}.values())


def _section(name: str, section: BaseModel) -> Iterator[ExplainedKey]:
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        if isinstance(value, BaseModel):
            yield from _section(f"{name}.{key}", value)
        else:
            yield _line(f"{name}.{key}", value, field.description)


def _line(key: str, value: Any, meaning: str | None) -> ExplainedKey:
    return ExplainedKey(key, _shown(value), " ".join((meaning or "").split()))


def _shown(value: Any) -> str:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping | list | tuple | bool) or value is None:
        return json.dumps(value, default=str)
    return f"{value:g}" if isinstance(value, float) else str(value)
