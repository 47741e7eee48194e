"""Read the segments' names that 3D Slicer writes into the header of a .seg.nrrd."""

from __future__ import annotations

from collections.abc import Sequence
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
