"""Load data specs: what is true of a kind of data, whoever trains on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medssl import plugins
from medssl.errors import MedSSLError, did_you_mean
from medssl.paths import AnyPath
from medssl.settings.shipped import shipped_folder
from medssl.settings.spec import DataSpec
from medssl.settings.yaml_file import Lines, read_yaml, validate_settings

_AXIS_LETTERS = ("RL", "AP", "SI")


_OWN: dict[str, Path] = {}
"""Data specs of plugins, by name."""


def register_spec(name: str, file: AnyPath) -> None:
    """Make a data spec available under ``name``; a plugin calls it.

    Args:
        name: as recipes write it.
        file: a YAML file; its first comment describes it.

    Raises:
        MedSSLError: there is no such file, or the name is taken.
    """
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        raise MedSSLError("there is no such data spec", where=path, fix="correct register_spec")
    if name in spec_files():
        raise MedSSLError(
            f"there is a data spec {name!r} already", where=path, fix="choose another name"
        )
    _OWN[name] = path
    plugins.note("spec", name)


def spec_files() -> dict[str, Path]:
    """Return the files of all data specs by name: those that ship and those of plugins."""
    for name in plugins.offered("spec"):
        plugins.look_up("spec", name)
    shipped = {p.stem: p for p in sorted(shipped_folder("data_specs").glob("*.yaml"))}
    return {**shipped, **_OWN}


def list_specs() -> dict[str, str]:
    """Return the shipped data specs and their descriptions: the first comment of each file.

    Example:
        >>> medssl.list_specs()["mr_cardiac"]
        'Cardiac cine MR, short axis: thick slices with fine pixels, trained slice by slice.'
    """
    found = {}
    for name, path in spec_files().items():
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        found[name] = first.lstrip("# ").strip()
    return found


def load_spec(
    name_or_path: AnyPath,
    overrides: Mapping[str, Any] | None = None,
    *,
    where: Path | str | None = None,
    lines: Lines | None = None,
) -> DataSpec:
    """Load a data spec by file or by name, and change single fields of it.

    Args:
        name_or_path: a YAML file, or the name of a shipped spec.
        overrides: fields to replace. ``intensity`` is merged key by key unless it names another
            rule, whose bounds the spec cannot know.
        where: the file the overrides come from, for messages.
        lines: their lines in that file, keyed from the overrides' own top.

    Raises:
        MedSSLError: no such spec (names the nearest), an unknown key or an impossible value.
    """
    path = _find(name_or_path)
    data, own_lines = read_yaml(path)
    data.setdefault("name", path.stem)
    spec = validate_settings(DataSpec, data, where=path, lines=own_lines)
    check_spec(spec, where=path)
    if not overrides:
        return spec
    where = where or f"spec {spec.name}"
    merged = validate_settings(DataSpec, merge_overrides(spec, overrides), where=where, lines=lines)
    check_spec(merged, where=where)
    return merged


def merge_overrides(spec: DataSpec, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return a spec's fields with some replaced; see :func:`load_spec`."""
    merged = {**spec.model_dump(), **overrides}
    change = overrides.get("intensity")
    if isinstance(change, Mapping) and change.get("rule", spec.intensity.rule) == (
        spec.intensity.rule
    ):
        merged["intensity"] = {**spec.intensity.model_dump(), **change}
    return merged


def axis_along(spec: DataSpec, letter: str) -> int | None:
    """Return the axis of prepared volumes that an axis code lies on, None if the file decides.

    With ``orientation: RAS``, ``R`` and ``L`` lie on axis 0, ``A`` and ``P`` on axis 1.
    """
    if spec.orientation is None:
        return None
    pair = next(pair for pair in _AXIS_LETTERS if letter in pair)
    return next(i for i, code in enumerate(spec.orientation) if code in pair)


def depth_axis(spec: DataSpec) -> int | None:
    """Return the axis of prepared volumes along which the depth is, None where unknown."""
    return None if spec.depth_direction is None else axis_along(spec, spec.depth_direction)


def _find(name_or_path: AnyPath) -> Path:
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path
    shipped = spec_files()
    if path.stem in shipped and str(path.parent) in (".", "data_specs"):
        return shipped[path.stem]
    raise MedSSLError(
        "there is no such data spec", where=path, fix=did_you_mean(path.stem, shipped)
    )


def check_spec(spec: DataSpec, *, where: Path | str) -> None:
    """Refuse values that no image with three axes can have.

    Raises:
        MedSSLError: names the field, its value and what it must be.
    """

    def refuse(field: str, must: str) -> None:
        value = getattr(spec, field)
        raise MedSSLError(
            f"`{field}` is {value!r} in data spec '{spec.name}'",
            where=where,
            fix=f"`{field}` must be {must}",
        )

    code = spec.orientation
    if code is not None:
        pairs = [next((pair for pair in _AXIS_LETTERS if c in pair), None) for c in code]
        if len(code) != 3 or None in pairs or len(set(pairs)) != 3:
            refuse("orientation", "three letters such as RAS (one each of R/L, A/P, S/I), or null")
    if isinstance(spec.spacing, list) and (
        len(spec.spacing) != 3 or any(v is not None and v <= 0 for v in spec.spacing)
    ):
        refuse(
            "spacing",
            f"median, native or three positive numbers in {spec.spatial_unit}, null for an axis "
            "that is kept",
        )
    if spec.resize is not None and (
        len(spec.resize) != 3 or any(n is not None and n < 1 for n in spec.resize)
    ):
        refuse("resize", "three numbers of voxels, null for an axis that is kept")
    if any(axis not in (0, 1, 2) for axis in spec.flip_axes):
        refuse("flip_axes", "a list of axes 0, 1, 2")
    for field in ("rot90_planes", "rotate_planes"):
        planes = getattr(spec, field)
        if any(len(set(p)) != 2 or len(p) != 2 or not set(p) <= {0, 1, 2} for p in planes):
            refuse(field, "a list of planes, each two different axes such as [0, 1]")
    if spec.depth_direction is not None and spec.depth_direction not in tuple("RLAPSI"):
        refuse("depth_direction", "one letter of R, L, A, P, S, I, or null")
    for field in ("align_slices", "metrics"):
        if getattr(spec, field) and spec.depth_direction is None:
            refuse(field, "left out unless depth_direction says along which axis the depth is")
    if spec.modality.upper() == "OCT":
        for field in ("rot90_planes", "rotate_planes"):
            if any(spec.slice_axis in plane for plane in getattr(spec, field)):
                refuse(
                    field,
                    f"without axis {spec.slice_axis}: B-scans lie along it, far apart, and turning "
                    "it into another axis invents anatomy",
                )
        for field in ("spacing", "resize"):
            value = getattr(spec, field)
            if isinstance(value, list) and value[spec.slice_axis] is not None:
                refuse(
                    field,
                    f"null for axis {spec.slice_axis}: between two B-scans nothing was scanned, "
                    "and resampling would invent it",
                )
        if depth_axis(spec) in spec.flip_axes:
            refuse("flip_axes", "without the depth: a retina upside down does not exist")
    flat = [value for pair in spec.label_pairs for value in pair]
    if any(len(pair) != 2 for pair in spec.label_pairs) or len(flat) != len(set(flat)):
        refuse("label_pairs", "a list of pairs of label values, each value in one pair only")
    if any(value < 1 or count < 1 for value, count in spec.pieces.items()):
        refuse("pieces", "a number of pieces, from 1 on, for each of some label values: {3: 2}")
