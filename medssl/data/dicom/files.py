"""Read DICOM files and their voxels within the limits of memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medssl.data.images.limits import DEFLATE_RATIO, SizeError, check_claim, memory_limit
from medssl.optional import optional_module

_DEFLATED = b"1.2.840.10008.1.2.1.99"
"""Transfer syntax whose whole data set is one deflate stream; no other unpacks on reading."""
_META_BYTES = 2048


def read_dicom(path: Path, extra: str, **options: Any) -> Any:
    """Read a DICOM data set with pydicom.

    Args:
        path: the file.
        extra: the extra of the installation that brings pydicom, for the message.
        options: of ``pydicom.dcmread``.

    Raises:
        SizeError: a deflated file might unpack to more than fits into memory.
        Exception: what pydicom raises for a damaged file.
    """
    pydicom = optional_module("pydicom", extra)
    with path.open("rb") as file:
        deflated = _DEFLATED in file.read(_META_BYTES)
    if deflated and path.stat().st_size * DEFLATE_RATIO > memory_limit():
        raise SizeError(
            "this deflated DICOM file could unpack to more than fits into memory",
            where=path,
            fix="export it in another transfer syntax",
        )
    return pydicom.dcmread(path, **options)


def pixel_array(data: Any, path: Path) -> np.ndarray:
    """Return the voxels of a data set, once its rows, columns and frames are found to fit.

    Raises:
        SizeError: they do not fit into memory.
        Exception: what pydicom and its decoders raise.
    """
    shape = [
        int(data.get(key) or 1) for key in ("NumberOfFrames", "Rows", "Columns", "SamplesPerPixel")
    ]
    bits = int(data.get("BitsAllocated") or 8)
    check_claim(shape, max(1, bits // 8), path=path)
    return np.asarray(data.pixel_array)
