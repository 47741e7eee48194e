"""The base of everything a user may write, and what is wrong with it in the user's own words."""

from __future__ import annotations

import types
import typing
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from medssl.errors import did_you_mean

KeyPath = tuple[str | int, ...]


class Strict(BaseModel):
    """Base of every settings model: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


@dataclass(frozen=True)
class Mistake:
    """What is wrong with a value that a user wrote.

    Attributes:
        path: of the key.
        what: what is wrong, with the key in full.
        fix: what to do.
    """

    path: KeyPath
    what: str
    fix: str


def first_mistake(
    error: ValidationError,
    model: type[BaseModel],
    data: Mapping[str, Any],
    *,
    prefix: KeyPath = (),
    synonyms: Mapping[str, str] | None = None,
) -> Mistake:
    """Say what is wrong with ``data``: an unknown key first, with the nearest known one.

    Args:
        error: what ``model`` says about ``data``.
        prefix: where ``data`` sits inside what the user wrote, to name keys in full.
        synonyms: what others call some of the keys.
    """
    problems = error.errors(include_url=False)
    problem = min(problems, key=lambda p: p["type"] != "extra_forbidden")
    path = _data_path(problem["loc"], data)
    full = (*prefix, *path)
    name = ".".join(str(p) for p in full)
    if problem["type"] == "extra_forbidden":
        parent = _model_at(model, path[:-1])
        known = list(parent.model_fields) if parent else []
        what = f"unknown key `{name}`"
        fix = did_you_mean(str(path[-1]), known, synonyms=synonyms) if known else "remove it"
    else:
        # One value of a union fails once per alternative: name what is accepted, not each failure.
        same = [p["msg"] for p in problems if _data_path(p["loc"], data) == path]
        message = problem["msg"].removeprefix("Value error, ")
        if len(same) > 1:
            message = "; or ".join(m.removeprefix("Value error, ") for m in same[:3])
        value = problem.get("input")
        shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
        what = f"`{name}`: {message} (got {shown})" if name else message
        described = _description(model, path)
        fix = f"correct `{name}`" + (f" ({described})" if described else "")
        if not name:
            fix = "correct the file"
    others = len({_data_path(p["loc"], data) for p in problems}) - 1
    if others > 0:
        what += f" (and {others} more)"
    return Mistake(full, what, fix)


def _data_path(loc: tuple[Hashable, ...], data: Any) -> KeyPath:
    """Drop the parts of a pydantic location that name union members rather than keys."""
    path: list[str | int] = []
    here = data
    for position, part in enumerate(loc):
        if isinstance(here, Mapping):
            last = position == len(loc) - 1
            if part in here or (last and "[" not in str(part) and str(part)[:1].islower()):
                path.append(typing.cast("str", part))
                here = here.get(part)
        elif isinstance(here, list) and isinstance(part, int) and part < len(here):
            path.append(part)
            here = here[part]
    return tuple(path)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, list, dict):
        return [m for a in typing.get_args(annotation) for m in _models_in(a)]
    return []


def _model_at(model: type[BaseModel], path: KeyPath) -> type[BaseModel] | None:
    """Return the settings model found by following ``path``; a mapping's own keys are skipped."""
    here: type[BaseModel] | None = model
    inside_mapping = False
    for part in path:
        if inside_mapping:
            inside_mapping = False
            continue
        field = here.model_fields.get(str(part)) if here else None
        if field is None:
            return None
        inside_mapping = typing.get_origin(field.annotation) is dict
        found = _models_in(field.annotation)
        here = found[0] if found else None
    return here


def _description(model: type[BaseModel], path: KeyPath) -> str:
    parent = _model_at(model, path[:-1]) if path else None
    field = parent.model_fields.get(str(path[-1])) if parent and path else None
    return (field.description or "") if field else ""
