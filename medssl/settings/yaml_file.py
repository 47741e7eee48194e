"""Read YAML into typed settings; say what is wrong with file, line and the nearest right key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from medssl.errors import MedSSLError
from medssl.strict import KeyPath, first_mistake

Lines = dict[KeyPath, str]
"""Where each key of a recipe stands: ``FILE:LINE``, since a recipe may start from another file.

A key that was typed on the command line has a second entry, which begins with :data:`TYPED`."""
TYPED = "--set"
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
        found = first_mistake(error, model, data, prefix=prefix, synonyms=SYNONYMS)
    full = found.path
    above = [full[:n] for n in range(len(full), 0, -1)]
    places = [(lines or {}).get(key) for path in above for key in ((TYPED, *path), path)]
    line = next((place for place in places if place), str(where))
    raise MedSSLError(found.what, where=line, fix=found.fix)
