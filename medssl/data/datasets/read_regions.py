"""Read the regions that dataset.json states, in either of two forms.

nnU-Net's: ``labels`` maps names to values, that of a region to a list of them. Or ``labels`` names
each value as ever, and beside it ``regions`` maps names to lists. In both, all structures that are
to be measured are listed, those of one value too, and ``regions_class_order`` may say which value
each of them writes (see :mod:`medssl.data.datasets.label_regions`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medssl.data.datasets.label_regions import LabelRegion, make_regions
from medssl.errors import MedSSLError

_ORDER = "regions_class_order"
_OR_RECIPE = "; or let the recipe say what the regions are: data.regions takes the place of these"


def whole_number(value: Any) -> int | None:
    """Return the integer that a number or a string like ``"3"`` stands for, else None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"\s*-?\d{1,100}\s*", value):
        return int(value)
    return None


def split_labels(
    raw: Any, where: Path, *, believed: bool = True
) -> tuple[Any, dict[str, list[int]]]:
    """Take the regions out of nnU-Net's ``labels``.

    Args:
        raw: as it stands in dataset.json.
        where: the file.
        believed: False where others take the place of these regions: what of them cannot be
            understood is passed over.

    Returns:
        What names single values, and the values of all structures by name; without regions ``raw``
        and nothing. A value that has no name of its own is called ``label_VALUE``.

    Raises:
        MedSSLError: a region is not a list of whole numbers, or holds what nobody annotated.
    """
    if not isinstance(raw, Mapping) or not any(isinstance(v, list) for v in raw.values()):
        return raw, {}
    if not believed:
        raw = {name: value for name, value in raw.items() if _is_plain(value)}
    with _of_key("labels", _OR_RECIPE):
        lists = {
            str(name): region_values(name, value if isinstance(value, list) else [value], where)
            for name, value in raw.items()
        }
    single = {name: values[0] for name, values in lists.items() if len(values) == 1}
    several = {name: values for name, values in lists.items() if len(values) > 1}
    if not several:
        return single, {}
    ignored = next((v for n, v in single.items() if n.strip().lower() == "ignore"), None)
    for name, values in several.items():
        if (believed and ignored in values) or name.strip().lower() == "ignore":
            raise MedSSLError(
                f"labels: region '{name}' holds voxels that nobody annotated ('ignore')",
                where=where,
                fix="give 'ignore' one value of its own, which no region names" + _OR_RECIPE,
            )
    named = {*single.values(), 0}
    for value in sorted({v for values in several.values() for v in values} - named):
        name = f"label_{value}"
        while name in lists:  # of another value
            name += "_"
        single[name] = value
    aside = ("ignore", "background")
    return single, {n: v for n, v in lists.items() if n.strip().lower() not in aside}


def _is_plain(value: Any) -> bool:
    if not isinstance(value, list):
        return True
    return bool(value) and all(whole_number(v) is not None for v in value)


def chosen_regions(
    info: Mapping[str, Any],
    of_labels: Mapping[str, Sequence[int]],
    of_recipe: Mapping[str, Sequence[int]] | None,
    names: Mapping[int, str],
    where: Path,
) -> tuple[LabelRegion, ...]:
    """Return the recipe's regions, or those of one of dataset.json's two forms.

    Args:
        info: content of dataset.json.
        of_labels: regions that stand in its ``labels``.
        of_recipe: in place of all that dataset.json says of regions; None: it decides.
        names: of all label values, background 0 included.
        where: dataset.json.

    Raises:
        MedSSLError: they are stated in both forms, or contradict themselves; names the key.
    """
    if of_recipe is not None:
        with _of_key("data.regions"):
            return make_regions(of_recipe, names, None, where)
    beside = stated_regions(info, where)
    if of_labels and beside:
        raise MedSSLError(
            "regions are stated in 'labels' and in 'regions'",
            where=where,
            fix="state all of them in one place" + _OR_RECIPE,
        )
    if not of_labels and not beside:
        return ()
    order = stated_order(info, where)
    with _of_key("labels" if of_labels else "regions", _OR_RECIPE):
        return make_regions(of_labels or beside, names, order, where)


@contextmanager
def _of_key(key: str, other_fix: str = "") -> Iterator[None]:
    """Say of an error raised inside which key holds what is wrong, and what else can be done."""
    try:
        yield
    except MedSSLError as error:
        fix = f"{error.fix}{other_fix}"
        raise MedSSLError(f"{key}: {error.what}", where=error.where, fix=fix) from None


def stated_regions(info: Mapping[str, Any], where: Path) -> dict[str, list[int]]:
    """Return the values of the regions that dataset.json lists beside ``labels``.

    Raises:
        MedSSLError: they are no mapping from names to lists of whole numbers.
    """
    raw = info.get("regions") or {}
    if not isinstance(raw, Mapping):
        raise MedSSLError(
            "'regions' is not a mapping",
            where=where,
            fix='write "regions": {"whole_tumor": [1, 2, 3], "core": [2, 3]}' + _OR_RECIPE,
        )
    with _of_key("regions", _OR_RECIPE):
        return {
            str(name): region_values(name, value if isinstance(value, list) else [value], where)
            for name, value in raw.items()
        }


def stated_order(info: Mapping[str, Any], where: Path) -> list[int] | None:
    """Return ``regions_class_order``; None if there is none.

    Raises:
        MedSSLError: it is no list of whole numbers.
    """
    raw = info.get(_ORDER)
    return None if raw is None else region_values(_ORDER, raw, where)


def region_values(name: Any, raw: Any, where: Path) -> list[int]:
    """Return the whole numbers of a list.

    Raises:
        MedSSLError: it holds something else, or nothing.
    """
    listed = raw if isinstance(raw, Sequence) and not isinstance(raw, str) else []
    values = [whole_number(value) for value in listed]
    if not values or None in values:
        raise MedSSLError(
            f"'{name}' is {raw!r}, not a list of label values",
            where=where,
            fix="write for instance [1, 2, 3]",
        )
    return [value for value in values if value is not None]
