"""Read DICOM files and their voxels within the limits of memory."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from medssl.data.images.limits import DEFLATE_RATIO, SizeError, check_claim, memory_limit
from medssl.optional import optional_module

_DEFLATED = b"1.2.840.10008.1.2.1.99"
"""Transfer syntax whose whole data set is one deflate stream; no other unpacks on reading."""
_META_BYTES = 2048
_LAST_OF_FIRST = 0x18
"""A data set without a file header begins with an element of group 2 or 8 up to this one (PS3.10,
7.1; PS3.6): character set, image type, dates, or UID of the object."""


def is_dicom(path: Path) -> bool:
    """Tell whether a file is DICOM: by its file header or, where that was cut off, its start.

    Raises:
        OSError: it cannot be opened.
    """
    with path.open("rb") as file:
        start = file.read(132)
    return start[128:] == b"DICM" or _lacks_header(start)


def _lacks_header(start: bytes) -> bool:
    if len(start) < 8 or start[128:] == b"DICM":
        return False
    group, element = struct.unpack("<HH", start[:4])
    if group not in (2, 8) or element > _LAST_OF_FIRST:
        return False
    explicit = start[4:6].isalpha() and start[4:6].isupper()
    length = struct.unpack("<H" if explicit else "<I", start[6:8] if explicit else start[4:8])[0]
    return length < _META_BYTES and length % 2 == 0


def read_dicom(path: Path, extra: str, **options: Any) -> Any:
    """Read a DICOM data set with pydicom; one without a file header is taken as uncompressed.

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
        start = file.read(_META_BYTES)
    deflated = _DEFLATED in start
    if deflated and path.stat().st_size * DEFLATE_RATIO > memory_limit():
        raise SizeError(
            "this deflated DICOM file could unpack to more than fits into memory",
            where=path,
            fix="export it in another transfer syntax",
        )
    data = pydicom.dcmread(path, force=_lacks_header(start[:132]), **options)
    if not data.file_meta.get("TransferSyntaxUID"):
        implicit, _ = data.original_encoding
        uids = pydicom.uid
        syntax = uids.ImplicitVRLittleEndian if implicit else uids.ExplicitVRLittleEndian
        data.file_meta.TransferSyntaxUID = syntax
    return data


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
