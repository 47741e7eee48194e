"""Read the regions that dataset.json states, in either of two forms.

nnU-Net's: ``labels`` maps names to values, that of a region to a list of them. Or ``labels`` names
each value as ever, and beside it ``regions`` maps names to lists. In both, all structures that are
to be measured are listed, those of one value too, and ``regions_class_order`` may say which value
each of them writes (see :mod:`medssl.data.datasets.label_regions`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medssl.errors import MedSSLError

_ORDER = "regions_class_order"


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


def split_labels(raw: Any, where: Path) -> tuple[Any, dict[str, list[int]]]:
    """Take the regions out of nnU-Net's ``labels``.

    Args:
        raw: as it stands in dataset.json.
        where: the file.

    Returns:
        What names single values, and the values of all structures by name; without regions ``raw``
        and nothing. A value that has no name of its own is called ``label_VALUE``.

    Raises:
        MedSSLError: a region is not a list of whole numbers, or holds what nobody annotated.
    """
    if not isinstance(raw, Mapping) or not any(isinstance(v, list) for v in raw.values()):
        return raw, {}
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
        if ignored in values or name.strip().lower() == "ignore":
            raise MedSSLError(
                f"region '{name}' holds voxels that nobody annotated ('ignore')",
                where=where,
                fix="give 'ignore' one value of its own, which no region names",
            )
    named = {*single.values(), 0}
    for value in sorted({v for values in several.values() for v in values} - named):
        name = f"label_{value}"
        while name in lists:  # of another value
            name += "_"
        single[name] = value
    aside = ("ignore", "background")
    return single, {n: v for n, v in lists.items() if n.strip().lower() not in aside}


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
            fix='write "regions": {"whole_tumor": [1, 2, 3], "core": [2, 3]}, or leave it out and '
            "state data.regions in the recipe",
        )
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
