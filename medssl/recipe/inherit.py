"""Recipes that start from another one: ``base: other.yaml`` at the top of a recipe.

What the recipe itself says is laid over its base, section by section. The base may not have a base
of its own, so that two files are all there is to read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medssl.errors import MedSSLError, did_you_mean
from medssl.recipe.find import find_shipped, list_recipes
from medssl.recipe.method import is_record
from medssl.settings.yaml_file import Lines, read_yaml
from medssl.strict import KeyPath

BASE = "base"
WORDS = {"data": "root", "spec": "name", "network": "name", "method": "name"}
"""Sections that may be one word, and the key that it stands for."""

KINDS = ("name", "rule")
"""Keys that say what the rest of their section means: another one, and the rest is another's."""


def read_recipe(path: Path) -> tuple[dict[str, Any], Lines]:
    """Read a recipe, laid over its base if it names one; see :func:`read_yaml`.

    Raises:
        MedSSLError: either file cannot be read, or the base has a base itself or is the record of a
            run.
    """
    data, lines = read_yaml(path)
    if BASE not in data:
        return data, lines
    named, here = data.pop(BASE), lines.pop((BASE,))
    base_path = _find_base(named, path, here)
    base, base_lines = read_yaml(base_path)
    if BASE in base:
        raise MedSSLError(
            f"its base {base_path} starts from another recipe itself (`base: {base[BASE]}`)",
            where=here,
            fix=f"write what is needed of {base[BASE]} into one of the two; a base stands alone",
        )
    if is_record(base) or is_of_a_run(base_path):
        raise MedSSLError(
            f"its base {base_path} is the record of a run, which holds every value there was",
            where=here,
            fix="name the recipe that the run was trained with, or copy what is needed of it",
        )
    if isinstance(data.get("data"), str):
        data["data"] = {WORDS["data"]: data["data"]}  # other cases of the same kind
        lines["data", WORDS["data"]] = lines["data",]
    kept = {key: line for key, line in base_lines.items() if _is_kept(key, base, data)}
    return laid_over(base, data), {**kept, **lines}


def _find_base(named: Any, path: Path, here: str) -> Path:
    """Return the file that a recipe's ``base`` names: relative to the recipe, or a shipped name."""
    if not isinstance(named, str) or not named:
        raise MedSSLError(
            f"`{BASE}` must name one recipe, not {named!r}",
            where=here,
            fix=f"write `{BASE}: FILE`, relative to this file, or the name of a shipped recipe",
        )
    beside = path.parent / Path(named).expanduser()
    found = beside if beside.is_file() else find_shipped(named)
    if found is None:
        raise MedSSLError(
            f"its base {named!r} is neither a recipe beside it nor a shipped one",
            where=here,
            fix=f"correct the path, which is relative to this file, or "
            f"{did_you_mean(Path(named).stem, list_recipes())}",
        )
    if found.resolve() == path.resolve():
        raise MedSSLError(
            f"`{BASE}: {named}` is this recipe itself", where=here, fix="name another recipe"
        )
    return found


def is_of_a_run(recipe: Path) -> bool:
    """Tell whether a file is the record in a run folder; one of 0.1.0 looks like any recipe."""
    return recipe.name == "recipe.yaml" and recipe.with_name("manifest.json").is_file()


def laid_over(data: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe with ``changes`` laid over it, section by section; a null replaces.

    A section that names another network, method, spec, optimizer, schedule or rule replaces the
    old one, whose other keys mean nothing to it.
    """
    merged = dict(data)
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(old, str) and isinstance(value, Mapping) and key in WORDS:
            old = {WORDS[key]: old}
        merged[key] = laid_over(old or {}, value) if _continues(value, old) else value
    return merged


def _continues(new: Any, old: Any) -> bool:
    """Tell whether a value changes some keys of an old section, and is not one of its own."""
    if not isinstance(new, Mapping) or not isinstance(old, Mapping):
        return False
    same = all(new.get(kind, old.get(kind)) == old.get(kind) for kind in KINDS)
    # A selection ({file, key}) is one value, not a section to be mixed with another.
    return same and "file" not in old


def _is_kept(key: KeyPath, base: Mapping[str, Any], data: Mapping[str, Any]) -> bool:
    """Tell whether the value that a key of the base has is still there with ``data`` laid over."""
    for part in key:
        if part not in data:
            return True
        new, old = data[str(part)], base.get(str(part))
        if not _continues(new, old):
            return False
        base, data = old or {}, new
    return False
