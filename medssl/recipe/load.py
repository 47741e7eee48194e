"""From a recipe file to a checked experiment, before any image is opened."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from medssl.errors import MedSSLError, located
from medssl.files import write_text
from medssl.methods.settings import MethodSettings
from medssl.paths import AnyPath
from medssl.plugins import check_plugins, record_plugins
from medssl.recipe.contradictions import idle_settings, refuse_contradictions, spec_warnings
from medssl.recipe.find import find_recipe
from medssl.recipe.inherit import BASE, is_of_a_run, laid_over, read_recipe
from medssl.recipe.method import Recorded, open_record, resolve_method
from medssl.recipe.paths import locate, locate_init, locate_teacher, refuse_no_data
from medssl.settings.recipe import Recipe
from medssl.settings.spec import DataSpec
from medssl.settings.specs import check_spec, load_spec
from medssl.settings.yaml_file import (
    TYPED,
    Lines,
    set_override,
    validate_settings,
)

logger = logging.getLogger(__name__)

SAVED_SPEC_FIELDS = {
    *("modality", "spatial_unit", "orientation", "spacing", "resize", "resize_mode", "intensity"),
    *("slice_axis", "flip_axes", "rot90_planes", "rotate_planes", "label_pairs"),
    *("nsd_tolerance", "refuse", "largest_component"),
}
"""A section `spec` with all of these is a whole spec; runs of every version have saved them."""


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe with its method's settings resolved, and where it came from.

    Attributes:
        recipe: its section ``method`` holds every setting.
        settings: the same, typed.
        source: the file.
        warnings: about settings that can do nothing, or not what they seem to.
    """

    recipe: Recipe
    settings: MethodSettings
    source: Path
    warnings: tuple[str, ...] = ()


def load_recipe(name_or_path: AnyPath, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Read, override, resolve and check a recipe. No image is opened.

    Args:
        name_or_path: a YAML file, the name of a shipped recipe, or a run folder.
        overrides: ``section.key=value`` assignments, applied in order.

    A recipe may start from another one, see :mod:`medssl.recipe.inherit`. One of the literature's
    protocol may hold a section ``clean``: what changes under ``--set protocol=clean``.

    Raises:
        MedSSLError: anything wrong with the file, a key, a value, or their combination.

    Example:
        >>> loaded = medssl.load_recipe("quickstart", ["training.iterations=50"])
        >>> loaded.recipe.method.name, loaded.recipe.training.iterations
        ('bcp', 50)
    """
    path = find_recipe(name_or_path)
    _check_plugins_of(path)
    data, lines = read_recipe(path)
    trial = dict(data)
    for assignment in overrides:
        set_override(trial, assignment)
    clean = data.pop("clean", None) or {}
    if not isinstance(clean, dict):
        raise MedSSLError("`clean` must be a section", where=path, fix="indent keys below it")
    data, recorded = open_record(data, where=path, of_a_run=is_of_a_run(path))
    if trial.get("protocol", "clean") == "clean":
        data = laid_over(data, clean)
        lines |= {key[1:]: line for key, line in lines.items() if key[0] == "clean" and key[1:]}
    changed = bool(clean)
    for assignment in overrides:
        key = set_override(data, assignment)
        changed |= key[0] in ("training", "network", "spec")
        if key == (BASE,):
            raise MedSSLError(
                f"`{BASE}` cannot be set",
                where=f"--set {assignment}",
                fix=f"write `{BASE}` into the recipe, or train the other recipe",
            )
        # A value given on the command line has no line in the file.
        for known in [k for k in lines if k[: len(key)] == key]:
            del lines[known]
        lines[TYPED, *key] = f"{TYPED} {'.'.join(map(str, key))}"
    if isinstance(data.get("data"), str) and ("data",) in lines:
        lines["data", "root"] = lines["data",]
    loaded = resolve(data, path=path, lines=lines, recorded=recorded, as_recorded=not changed)
    refuse_no_data(loaded.recipe.data, path=path, lines=lines)
    located_paths = {
        "data": locate(loaded.recipe.data, lines, path),
        "network": locate_init(loaded.recipe.network, lines, path),
        "method": locate_teacher(loaded.recipe.method, lines, path),
    }
    return replace(loaded, recipe=loaded.recipe.model_copy(update=located_paths))


def _check_plugins_of(recipe: Path) -> None:
    """Ask for the plugins of a run, if the recipe is a run's record."""
    if not is_of_a_run(recipe):
        return
    manifest = recipe.with_name("manifest.json")
    try:
        recorded = json.loads(manifest.read_text(encoding="utf-8")).get("plugins", [])
    except (OSError, ValueError, AttributeError):
        return  # whoever needs the manifest says what is wrong with it
    check_plugins(recorded, where=manifest)


def plugins_of(recipe: Recipe) -> list[dict[str, Any]]:
    """Return the plugins that a recipe's method, networks and data spec come from."""
    named = {recipe.network.name, *map(str, recipe.method.settings.values())}
    return record_plugins(
        {
            f"method {recipe.method.name}",
            f"spec {recipe.spec.name}",
            f"intensity {recipe.spec.intensity.rule}",
            *(f"network {name}" for name in named),
        }
    )


def resolve(
    data: Mapping[str, Any],
    *,
    path: Path,
    lines: Lines | None = None,
    recorded: Recorded | None = None,
    as_recorded: bool = True,
) -> LoadedRecipe:
    """Turn a mapping into a checked recipe; see :func:`load_recipe`.

    Args:
        data: the recipe, as a user writes it or as a run records it.
        path: the file it comes from, for messages.
        lines: of its keys.
        recorded, as_recorded: what a record says of its method, see
            :func:`medssl.recipe.method.resolve_method`.
    """
    if recorded is None:
        data, recorded = open_record(data, where=path)
    data = dict(data)
    for section, key in (("data", "root"), ("network", "name"), ("method", "name")):
        if isinstance(data.get(section), str):
            data[section] = {key: data[section]}
    if data.get("data", {}) is None:
        data["data"] = {}
    spec = _resolve_spec(data.pop("spec", {}), path=path, lines=lines)
    recipe = validate_settings(Recipe, data, where=path, lines=lines)
    recipe = recipe.model_copy(update={"spec": spec})
    with located(path):
        method = resolve_method(recipe, recorded, where=path, lines=lines, as_recorded=as_recorded)
        settings = method.settings
        recipe = recipe.model_copy(update={"method": method.record(recipe.method.name)})
        refuse_contradictions(recipe, settings, path)
    warnings = (
        *idle_settings(recipe, settings, record=recorded is not None),
        *settings.warn_recipe(recipe, method.overridden),
        *method.warnings,
        *spec_warnings(recipe, settings),
    )
    return LoadedRecipe(recipe, settings, path, warnings)


def _resolve_spec(value: Any, *, path: Path, lines: Lines | None) -> DataSpec:
    if isinstance(value, str):
        return load_spec(value)
    if not isinstance(value, Mapping):
        raise MedSSLError(
            f"`spec` must be the name of a data spec or a section, not {value!r}",
            where=path,
            fix="write `spec: mr_cardiac`; `medssl specs` lists them",
        )
    fields = {k: v for k, v in value.items() if k != "name"}
    name = str(value.get("name", "custom"))
    own = {k[1:]: n for k, n in (lines or {}).items() if k[:1] == ("spec",)}
    own |= {(TYPED, *k[2:]): n for k, n in (lines or {}).items() if k[:2] == (TYPED, "spec")}
    # A saved recipe holds every field of its spec, which may have been a file of the user's.
    if name == "custom" or fields.keys() >= SAVED_SPEC_FIELDS:
        spec = validate_settings(DataSpec, value, where=path, lines=lines, prefix=("spec",))
        check_spec(spec, where=path)
        return spec
    return load_spec(name, fields, where=path, lines=own)


def save_recipe(recipe: Recipe, path: Path, *, notes: Sequence[str] = ()) -> None:
    """Write the resolved recipe so that it can be run again; atomic.

    Args:
        notes: lines of comment at its head.
    """
    text = (
        f"# {recipe.name}: resolved recipe. Run it again: medssl train THIS_FILE\n"
        + "".join(f"# {note}\n" for note in notes)
        + yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    )
    write_text(path, text)
