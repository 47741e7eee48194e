"""Which kind of scan a dataset or a DICOM series says it holds."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

_PATTERNS = (
    ("CBCT", r"cbct|cone.?beam"),
    ("OCT", r"\boct\b|optical coherence"),
    ("PET", r"positron"),
    ("CT", r"\bcta?\b|computed|tomogra"),
    ("MR", r"mr|t1|t2|flair|dwi|adc\b|swi\b|cine|lge|magnet"),
    ("PET", r"\bpet\b|\bpt\b"),
    ("US", r"\bus\b|ultraso"),
)
"""Kinds and how the names of channels say them, in the order in which they are tried."""
_DICOM = {"OPT": "OCT", "OP": "OCT", "PT": "PET", "OT": None, "SC": None, "": None}
"""DICOM's codes that say a kind by another name, or none."""
_FAMILY = {"CBCT": "CT"}
"""DICOM has one code for both, and most cone-beam scanners write it."""


def stated_kind(names: Sequence[str]) -> str | None:
    """Return MR, CT, CBCT, OCT, PET or US for the names of a dataset's channels; None: unstated.

    Example:
        >>> stated_kind(["FLAIR", "T1w"]), stated_kind(["channel 0"])
        ('MR', None)
    """
    words = " ".join(names).strip().lower()
    return next((kind for kind, pattern in _PATTERNS if re.search(pattern, words)), None)


def dicom_kind(code: str) -> str | None:
    """Return the kind of scan that DICOM's Modality states, None where it states none."""
    code = code.strip().upper()
    return _DICOM.get(code, code)


def is_another(kind: str | None, other: str | None) -> bool:
    """Tell whether two kinds are both stated and not the same; CT and CBCT count as the same."""
    if kind is None or other is None:
        return False
    return _FAMILY.get(kind, kind) != _FAMILY.get(other, other)


def kind_beside(image: Path) -> str | None:
    """Return what kind the dataset states that an image file lies in.

    Its dataset.json is looked for in the image's folder and the one above; None where there is none
    that can be read, or it states no kind.
    """
    if not image.is_file():
        return None
    for folder in (image.parent, image.parent.parent):
        file = folder / "dataset.json"
        try:
            kind = _kind_in(file, file.stat().st_mtime_ns)
        except OSError:
            continue
        if kind is not None:
            return kind
    return None


@lru_cache(maxsize=8)
def _kind_in(file: Path, _: int) -> str | None:
    """Read a dataset.json tolerantly; the second argument makes a changed file another one."""
    try:
        info = json.loads(file.read_bytes().decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(info, dict):
        return None
    found = info.get("modality") or info.get("channel_names") or info.get("modalities")
    if isinstance(found, dict):
        found = list(found.values())
    names = [found] if isinstance(found, str) else found
    if not isinstance(names, list):
        return None
    return stated_kind([name for name in names if isinstance(name, str)])
