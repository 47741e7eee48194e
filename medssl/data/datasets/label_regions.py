"""Regions: structures that are unions of label values, such as the whole tumor of BraTS.

A label map holds one value per voxel, and networks learn these values as classes that exclude each
other. A region is a set of them, so regions may lie in each other and overlap; its probability is
the sum of theirs. Where a dataset states regions, they are its structures: what is measured and
reported, and what a loss of regions is made from. They come in an order: a label map is made from
masks of regions by writing each region's value in turn, later over earlier (nnU-Net's
``regions_class_order``).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medssl.errors import MedSSLError

RegionClasses = tuple[tuple[tuple[int, ...], int], ...]
"""Regions in class indices: those that belong to one, and the one it writes."""


@dataclass(frozen=True)
class LabelRegion:
    """A structure of one or several label values.

    Attributes:
        name: of the structure.
        values: label values that belong to it, ascending; never background.
        writes: the value that stands for it where a label map is made from regions.
    """

    name: str
    values: tuple[int, ...]
    writes: int

    @property
    def label(self) -> int | str:
        """Its value as tables show it: ``3``, or ``1+2+3`` of several."""
        return self.values[0] if len(self.values) == 1 else "+".join(map(str, self.values))

    def mask(self, label: np.ndarray) -> np.ndarray:
        """Return where a map of label values holds the structure, bool of the same shape."""
        found: np.ndarray = label == self.values[0]
        for value in self.values[1:]:
            found |= label == value
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {"name": self.name, "values": list(self.values), "writes": self.writes}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> LabelRegion:
        """Read back what :meth:`as_dict` gave.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        values = tuple(int(value) for value in content["values"])
        writes = int(content["writes"])
        if not values or writes not in values:
            raise ValueError(f"a region of {values} writes {writes}")
        return cls(str(content["name"]), values, writes)


def make_regions(
    named: Mapping[str, Sequence[int]],
    names: Mapping[int, str],
    order: Sequence[int] | None,
    where: Path,
) -> tuple[LabelRegion, ...]:
    """Check regions and give each the value that it writes.

    Args:
        named: label values of each region. With ``order``, as they are written; else larger ones
            are written first.
        names: of all label values, background 0 included.
        order: the value that each region writes; None derives it.
        where: file that states the regions, for messages.

    Raises:
        MedSSLError: a value that no label has, or twice; background; a label that is in no region;
            names or regions that are alike; or an order from which other regions would come out
            than went in.
    """
    sets = {name.strip(): _values(name, values, names, where) for name, values in named.items()}
    if len(sets) < len(named):
        raise MedSSLError(
            "two regions have names that differ in spaces around them alone",
            where=where,
            fix="give each region a name of its own",
        )
    _refuse_alike(sets, names, where)
    alone = sorted(set(names) - {0} - {v for values in sets.values() for v in values})
    if alone:
        raise MedSSLError(
            f"label {alone[0]} '{names[alone[0]]}' is in no region, so nobody would measure it",
            where=where,
            fix=f'list it, too: "{names[alone[0]]}": [{alone[0]}]',
        )
    if order is None:
        sets = dict(sorted(sets.items(), key=lambda item: -len(item[1])))
        writes = _derived(list(sets.values()))
    else:
        writes = list(order)
        if len(writes) != len(sets):
            raise MedSSLError(
                f"'regions_class_order' has {len(writes)} values for {len(sets)} regions "
                f"({', '.join(sets)})",
                where=where,
                fix="give the value of each region, in the order of the regions",
            )
    _refuse_unfaithful(sets, writes, derived=order is None, where=where)
    return tuple(
        LabelRegion(name, values, value)
        for (name, values), value in zip(sets.items(), writes, strict=True)
    )


def _values(
    name: str, values: Sequence[int], names: Mapping[int, str], where: Path
) -> tuple[int, ...]:
    unknown = sorted(set(values) - set(names))
    known = ", ".join(str(v) for v in sorted(names) if v)
    if unknown or not values:
        what = f"names the label {unknown[0]}, which there is not" if unknown else "has no label"
        raise MedSSLError(
            f"region '{name}' {what}",
            where=where,
            fix=f"choose among {known}, or declare the label",
        )
    if 0 in values or len(set(values)) < len(values):
        what = "holds the background" if 0 in values else "names a label twice"
        raise MedSSLError(
            f"region '{name}' {what}: {list(values)}",
            where=where,
            fix="name labels of structures, each once",
        )
    return tuple(sorted(values))


def _refuse_alike(
    sets: Mapping[str, tuple[int, ...]], names: Mapping[int, str], where: Path
) -> None:
    """Refuse two names of one region, and one name of two structures."""
    by_values: dict[tuple[int, ...], str] = {}
    by_name = {_plain(name): (value,) for value, name in names.items()}
    seen: set[str] = set()
    for name, values in sets.items():
        other = by_values.setdefault(values, name)
        taken = by_name.get(_plain(name), values) != values or _plain(name) in seen
        if not name or taken or _plain(name) == "ignore":
            raise MedSSLError(
                f"region '{name}' has no name of its own",
                where=where,
                fix="give each structure its own name; 'ignore' marks voxels without annotation",
            )
        if other != name:
            raise MedSSLError(
                f"regions '{other}' and '{name}' are the same labels {list(values)}",
                where=where,
                fix="keep one of them, or mend the labels of the other",
            )
        seen.add(_plain(name))


def _plain(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).split()).lower()


def _derived(sets: Sequence[tuple[int, ...]]) -> list[int]:
    """Return for each region the lowest value that no later region holds, if there is one."""
    writes = []
    for number, values in enumerate(sets):
        later = {v for others in sets[number + 1 :] for v in others}
        writes.append(min(set(values) - later or values))
    return writes


def _refuse_unfaithful(
    sets: Mapping[str, tuple[int, ...]], writes: Sequence[int], *, derived: bool, where: Path
) -> None:
    """Refuse an order from whose label map other regions would be read than were written.

    A voxel of value v takes what the last region that holds v writes; that value has to be in the
    same regions as v.
    """
    pairs = list(zip(sets.items(), writes, strict=True))
    for value in sorted({v for values in sets.values() for v in values}):
        mine = [name for name, values in sets.items() if value in values]
        last, written = next((name, w) for (name, values), w in reversed(pairs) if value in values)
        if [name for name, values in sets.items() if written in values] == mine:
            continue
        if derived:
            theirs = [name for name, values in sets.items() if written in values]
            raise MedSSLError(
                f"a label map made from the regions could not tell label {value} (in "
                f"{_listed(mine)}) from label {written} (in {_listed(theirs)})",
                where=where,
                fix=f'add a region of one label, such as "label_{value}_alone": [{value}]',
            )
        raise MedSSLError(
            f"'regions_class_order' writes {written} for '{last}' where the label is {value}, "
            f"which is in {_listed(mine)}",
            where=where,
            fix="list larger regions first, each with the label that no later region holds",
        )


def _listed(names: Sequence[str]) -> str:
    return " and ".join(map(repr, names))


def regions_json(regions: Sequence[LabelRegion]) -> dict[str, Any]:
    """Return what dataset.json says of regions, beside labels of one value each."""
    if not regions:
        return {}
    return {
        "regions": {region.name: list(region.values) for region in regions},
        "regions_class_order": [region.writes for region in regions],
    }
