"""The files of one preprocessed case: its arrays, indices of its classes, and what it was."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medssl.data.datasets.case import IGNORE_INDEX, CachedCase, Case
from medssl.data.preprocessing.scan_facts import ScanFacts
from medssl.files import all_or_nothing, write_array, write_arrays, write_json

MAX_CLASS_INDICES = 20_000
FACTS = "scan.json"
"""File of an entry that describes the scan before preprocessing."""
DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
"""What reading a damaged entry raises."""


def write_entry(
    folder: Path, case: Case, arrays: Mapping[str, np.ndarray], facts: ScanFacts | None
) -> None:
    """Write an entry; it is there whole or not at all.

    Args:
        folder: of the entry, named by its hash.
        case: whose arrays these are.
        arrays: ``image`` and, where the case is labeled, ``label`` and ``outside``.
        facts: of the scan before preprocessing, if they are known.

    Raises:
        MedSSLError: it cannot be written, or another process wrote it meanwhile.
    """
    meta: dict[str, Any] = {"case": case.id, "files": [str(p) for p in case.images]}
    with all_or_nothing(folder, "an entry of the preprocessing cache") as building:
        for name, array in arrays.items():
            write_array(building / f"{name}.npy", array)
            meta[name] = {"shape": array.shape, "dtype": array.dtype.name}
        if "label" in arrays:
            indices = class_indices(arrays["label"], seed=int(folder.name[:16], 16))
            write_arrays(building / "indices.npz", {str(c): v for c, v in indices.items()})
        if facts is not None:
            write_json(building / FACTS, facts.as_dict())
        write_json(building / "meta.json", meta)


def open_entry(folder: Path, case: Case) -> CachedCase:
    """Open an entry; what is missing, truncated or inconsistent raises one of :data:`DAMAGED`."""
    meta = json.loads((folder / "meta.json").read_text())
    names = ["image"] if case.label is None else ["image", "label"]
    if "outside" in meta and case.label is not None:
        names.append("outside")
    arrays = {}
    for name in names:
        array = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        if list(array.shape) != meta[name]["shape"] or array.dtype.name != meta[name]["dtype"]:
            raise ValueError(f"{name}.npy is not what meta.json says")
        arrays[name] = array
    indices: dict[int, np.ndarray] = {}
    if case.label is not None:
        with np.load(folder / "indices.npz", allow_pickle=False) as stored:
            indices = {int(name): stored[name] for name in stored.files}
    outside = tuple(int(n) for n in arrays.get("outside", ()))
    return CachedCase(case.id, case.patient, arrays["image"], arrays.get("label"), indices, outside)


def class_indices(label: np.ndarray, *, seed: int) -> dict[int, np.ndarray]:
    """Return flat voxel indices (int32, sorted) of each class present, IGNORE_INDEX excluded.

    A class of more than ``MAX_CLASS_INDICES`` voxels is represented by a random subset.
    """
    if label.size >= 2**31:
        raise ValueError(f"a volume of {label.size} voxels is too large to index")
    flat = label.ravel()
    rng = np.random.default_rng(seed)
    out = {}
    for value in np.flatnonzero(np.bincount(flat, minlength=1)):
        if value == IGNORE_INDEX:
            continue
        where = np.flatnonzero(flat == value).astype(np.int32)
        if len(where) > MAX_CLASS_INDICES:
            where = np.sort(rng.choice(where, MAX_CLASS_INDICES, replace=False))
        out[int(value)] = where
    return out
