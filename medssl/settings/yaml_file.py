"""Read YAML into typed settings; say what is wrong with file, line and the nearest right key."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from medssl.errors import MedSSLError

KeyPath = tuple[str | int, ...]
Lines = dict[KeyPath, str]
"""Where each key of a recipe stands: ``FILE:LINE``, since a recipe may start from another file."""
Model = TypeVar("Model", bound=BaseModel)

MAX_YAML_BYTES = 1_000_000
MAX_YAML_VALUES = 100_000


SYNONYMS = {
    "learning_rate": "lr",
    "batch_size": "labeled_batch",
    "patch_size": "patch",
    "roi_size": "patch",
    "epochs": "iterations",
    "max_iterations": "iterations",
    "steps": "iterations",
    "model": "network",
    "amp": "precision",
    "dataset": "data",
    "num_workers": "workers",
}
"""What other tools call our keys."""


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """Return the choice most like ``word``, or None if nothing is close."""
    options = {c.lower(): c for c in choices}
    for theirs, ours in SYNONYMS.items():
        if ours in options and difflib.SequenceMatcher(None, word.lower(), theirs).ratio() > 0.85:
            return options[ours]
    found = difflib.get_close_matches(word.lower(), options, n=1, cutoff=0.5)
    return options[found[0]] if found else None


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return ``use `x```-style advice: the nearest choice if there is one, else all of them."""
    options = list(choices)
    close = nearest(word, options)
    listed = ", ".join(sorted(options))
    return f"did you mean `{close}`? Known: {listed}" if close else f"use one of: {listed}"


def read_yaml(path: Path) -> tuple[dict[str, Any], Lines]:
    """Read a YAML mapping and where each key stands, as ``FILE:LINE`` with lines from 1.

    Raises:
        MedSSLError: the file is missing, unreadable, not YAML, not a mapping, or repeats a key.
    """
    try:
        if path.stat().st_size > MAX_YAML_BYTES:
            raise MedSSLError(
                f"the file has {path.stat().st_size} bytes; a recipe has a few kilobytes",
                where=path,
                fix="name a recipe (a .yaml file), not a data file",
            )
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise MedSSLError("no such file", where=path, fix="check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise MedSSLError(f"cannot be read: {error}", where=path, fix="name a YAML file") from None
    return parse_yaml(text, path)


def parse_yaml(text: str, path: Path | str) -> tuple[dict[str, Any], Lines]:
    """Parse YAML text; see :func:`read_yaml`."""
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        lines: Lines = {}
        if node is not None:
            _walk(node, (), lines, path, depth=0)
        data = loader.construct_document(node) if node is not None else {}
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise MedSSLError(
            f"not valid YAML: {error.problem or error.context}",
            where=f"{path}{line}",
            fix="mend that line (often indentation, a missing colon or an unclosed bracket)",
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MedSSLError(f"not valid YAML: {first}", where=path, fix="mend the file") from None
    if not isinstance(data, dict):
        raise MedSSLError(
            f"expected a mapping of keys to values, found {type(data).__name__}",
            where=path,
            fix="start from one of `medssl recipes`",
        )
    return data, lines


def _walk(node: yaml.Node, path: KeyPath, lines: Lines, where: Path | str, depth: int) -> None:
    if len(lines) > MAX_YAML_VALUES:
        # Aliases of aliases: a few lines that stand for billions of values.
        raise MedSSLError(
            f"it holds more than {MAX_YAML_VALUES} values",
            where=where,
            fix="write the values out instead of repeating them by aliases (*name)",
        )
    if depth > 20:
        raise MedSSLError("nested more than 20 levels deep", where=where, fix="flatten the file")
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value) if isinstance(key, yaml.ScalarNode) else "?"
            line = f"{where}:{key.start_mark.line + 1}"
            if name in seen:
                raise MedSSLError(
                    f"key `{name}` appears twice", where=line, fix="remove one of them"
                )
            seen.add(name)
            lines[(*path, name)] = line
            _walk(value, (*path, name), lines, where, depth + 1)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            lines[(*path, i)] = f"{where}:{value.start_mark.line + 1}"
            _walk(value, (*path, i), lines, where, depth + 1)


def set_override(data: dict[str, Any], assignment: str) -> KeyPath:
    """Apply ``a.b=value`` (value in YAML) to nested dictionaries; return the key path.

    Raises:
        MedSSLError: no ``=``, an empty key, a value that is not YAML, or a path through a value.
    """
    key, sep, raw = assignment.partition("=")
    parts = key.strip().split(".")
    if not sep or not all(parts):
        raise MedSSLError(
            f"cannot read the override {assignment!r}",
            where="--set",
            fix="write --set section.key=value, for instance --set training.iterations=2000",
        )
    try:
        value = yaml.safe_load(raw)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise MedSSLError(
            f"the value {raw!r} is not valid YAML", where=f"--set {key}", fix="quote the value"
        ) from None
    target = data
    for part in parts[:-1]:
        child = target.get(part)
        if isinstance(child, str) and part in ("spec", "data", "method", "network"):
            child = {"root" if part == "data" else "name": child}
        if child is None:
            child = {}
        if not isinstance(child, dict):
            raise MedSSLError(
                f"`{part}` is a value, not a section",
                where=f"--set {key}",
                fix=f"set `{part}` itself, or name a section",
            )
        target[part] = child = dict(child)
        target = child
    target[parts[-1]] = value
    return tuple(parts)


def validate_settings(
    model: type[Model],
    data: Mapping[str, Any],
    *,
    where: Path | str,
    lines: Lines | None = None,
    prefix: KeyPath = (),
) -> Model:
    """Build ``model`` from ``data``; the first problem becomes a message in the user's words.

    Args:
        prefix: where ``data`` sits inside the file, to look lines up and to name keys in full.

    Raises:
        MedSSLError: an unknown key (with the nearest known one), a wrong type or value.
    """
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        problems = error.errors(include_url=False)
    problem = min(problems, key=lambda p: p["type"] != "extra_forbidden")
    loc = _data_path(problem["loc"], data)
    full = (*prefix, *loc)
    line = next(
        (lines[full[:n]] for n in range(len(full), 0, -1) if lines and full[:n] in lines), None
    )
    name = ".".join(str(p) for p in full)
    if problem["type"] == "extra_forbidden":
        parent = _model_at(model, loc[:-1])
        known = list(parent.model_fields) if parent else []
        what = f"unknown key `{name}`"
        fix = did_you_mean(str(loc[-1]), known) if known else "remove it"
    else:
        # One value of a union fails once per alternative: name what is accepted, not each failure.
        same = [p["msg"] for p in problems if _data_path(p["loc"], data) == loc]
        message = problem["msg"].removeprefix("Value error, ")
        if len(same) > 1:
            message = "; or ".join(m.removeprefix("Value error, ") for m in same[:3])
        value = problem.get("input")
        shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
        what = f"`{name}`: {message} (got {shown})" if name else message
        described = _description(model, loc)
        fix = f"correct `{name}`" + (f" ({described})" if described else "")
        if not name:
            fix = "correct the file"
    others = len({_data_path(p["loc"], data) for p in problems}) - 1
    if others > 0:
        what += f" (and {others} more)"
    raise MedSSLError(what, where=line or str(where), fix=fix)


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
