"""Names of segments: those that 3D Slicer writes into the header of a .seg.nrrd, and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from medssl.data.images.itk import itk_header
from medssl.errors import MedSSLError


def segment_names(labels: Sequence[Path]) -> dict[int, str] | None:
    """Return the name of each label value if every label file names its segments, else None.

    Raises:
        MedSSLError: one value means different structures in two files, or one structure has two
            values; Slicer numbers segments file by file.
    """
    names: dict[int, str] = {}
    origin: dict[int, Path] = {}
    if not labels or any(not p.name.lower().endswith(".seg.nrrd") for p in labels):
        return None
    for path in labels:
        for value, name in _of_file(path).items():
            other = next((v for v, n in names.items() if n == name), value)
            if names.get(value, name) != name or other != value:
                known = value if value in names else other
                raise MedSSLError(
                    f"value {value} is '{name}' but in {origin[known].name} value {known} is "
                    f"'{names[known]}'",
                    where=path,
                    fix="export all cases with the same numbering (in 3D Slicer: as labelmap with "
                    "one color table)",
                )
            names[value], origin[value] = name, path
    return names or None


def values_by_name(
    names: Sequence[str],
    labels: Mapping[int, str] | None,
    *,
    whole: Path | None,
    unknown: str,
    mixed: str,
) -> dict[str, int]:
    """Give every structure that the source names a label value: as asked for, or in their order.

    Args:
        names: of the structures, in order.
        labels: names by value, as the user asked for; None: all of them.
        whole: where some cases have label maps, which hold values and no names; None: none does.
        unknown, mixed: what is wrong where no case has a structure that is asked for, and where
            names stand beside values and nobody said which value is which.

    Raises:
        MedSSLError: one of the two.
    """
    if not names:
        return {}
    if labels is not None:
        missing = [name for value, name in labels.items() if value and name not in names]
        if missing and whole is None:
            raise MedSSLError(
                f"{unknown} '{missing[0]}'",
                where="--option labels",
                fix="there are: " + ", ".join(names[:12]),
            )
        return {name: value for value, name in labels.items() if value}
    if whole is not None:
        raise MedSSLError(
            mixed,
            where=whole,
            fix="say which value is which with --option labels="
            + ",".join(f"{i}:{n}" for i, n in enumerate(names[:4], start=1)),
        )
    return {name: value for value, name in enumerate(names, start=1)}


def _of_file(path: Path) -> dict[int, str]:
    try:
        reader = itk_header(path)
    except (RuntimeError, MedSSLError):
        return {}  # reading the case will say what is wrong with it
    found = {}
    number = 0
    while reader.HasMetaDataKey(f"Segment{number}_LabelValue"):
        value = reader.GetMetaData(f"Segment{number}_LabelValue")
        key = f"Segment{number}_Name"
        if value.isdigit() and reader.HasMetaDataKey(key):
            found[int(value)] = reader.GetMetaData(key)
        number += 1
    return found
