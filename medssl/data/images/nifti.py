"""The one door to NIfTI files: what a header claims is checked before anything is allocated."""

from __future__ import annotations

import gzip
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError

from medssl.data.images.limits import DEFLATE_RATIO, SizeError, check_claim

NiftiImage = nib.Nifti1Image | nib.Nifti2Image

MAX_EXTENSION_BYTES = 2**26
EXCESS_BYTES = 2**20
"""A file may end in so many bytes that its header does not speak of."""

_NIFTI1, _NIFTI2 = 348, 540


@dataclass(frozen=True)
class _Claim:
    """A header's kind, and the bytes up to the end of its voxels."""

    kind: type[nib.Nifti1Image] | type[nib.Nifti2Image]
    end: int


def open_nifti(path: str | Path, *, voxels: bool = True) -> NiftiImage:
    """Open a NIfTI file; its voxels are read when asked for.

    Args:
        path: the file.
        voxels: whether they will be: for a look at the header their size does not matter.

    Raises:
        SizeError: the header claims more than fits into memory or than the file can hold.
        Exception: what nibabel raises for a damaged file.
    """
    path = Path(path)
    return _claim_of(path, voxels=voxels).kind.from_filename(path)


def read_whole_nifti(path: Path) -> NiftiImage:
    """Read a NIfTI file to its last byte, so that the checksum of a .gz is verified.

    A reader that stops at the last voxel never sees the checksum.

    Raises:
        SizeError: as :func:`open_nifti`, or more comes out of a .gz than its header claims.
        Exception: what gzip and nibabel raise for a damaged file.
    """
    claim = _claim_of(path)
    with _stream(path) as stream:
        raw = stream.read(claim.end)
        excess = 0
        while chunk := stream.read(2**16):
            excess += len(chunk)
            if excess > EXCESS_BYTES:
                raise SizeError(
                    f"more data follows than the {claim.end} bytes that the header claims",
                    where=path,
                    fix="export the file again: header and voxels do not belong together",
                )
    return claim.kind.from_bytes(raw)


def stated_unit(path: str | Path) -> str:
    """Return the spatial unit that a NIfTI header states: ``mm``, ``micron``, ... or ``unknown``.

    Raises:
        Exception: what nibabel raises for a damaged file.
    """
    try:
        return open_nifti(path, voxels=False).header.get_xyzt_units()[0]
    except KeyError:  # a code that stands for no unit
        return "unknown"


def _is_gzip(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _stream(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if _is_gzip(path) else path.open("rb")


def _claim_of(path: Path, *, voxels: bool = True) -> _Claim:
    capacity = path.stat().st_size * (DEFLATE_RATIO if _is_gzip(path) else 1)
    with _stream(path) as stream:
        block = stream.read(_NIFTI1)
        if len(block) < _NIFTI1:
            raise EOFError(f"only {len(block)} bytes, less than a header")
        length = struct.unpack("<i", block[:4])[0], struct.unpack(">i", block[:4])[0]
        if _NIFTI2 in length:
            kind, block = nib.Nifti2Image, block + stream.read(_NIFTI2 - _NIFTI1)
        elif _NIFTI1 in length:
            kind = nib.Nifti1Image
        else:
            raise ImageFileError("it does not start with a NIfTI header")
        header = kind.header_class(block, check=False)
        offset = _offset_of(header["vox_offset"], path)
        _check_extensions(stream, len(block), offset, header.endianness, path)
    if not voxels:
        return _Claim(kind, offset)
    shape = header.get_data_shape()
    try:
        itemsize = header.get_data_dtype().itemsize
    except KeyError:
        raise ImageFileError(f"its data type {header['datatype']} is unknown") from None
    size = check_claim(shape, itemsize, path=path, capacity=max(capacity - offset, 0))
    return _Claim(kind, offset + size)


def _offset_of(value: np.ndarray, path: Path) -> int:
    """Return where the voxels start; a header that leaves it out means right behind itself."""
    offset = float(value)
    if not 0 <= offset <= MAX_EXTENSION_BYTES:
        raise SizeError(
            f"the header places the voxels {offset:g} bytes into the file",
            where=path,
            fix="export the file again: its vox_offset is wrong",
        )
    return int(offset)


def _check_extensions(
    stream: IO[bytes], start: int, offset: int, endianness: str, path: Path
) -> None:
    """Refuse a header extension that claims to reach into the voxels or to have no length."""
    flag = stream.read(4)
    at = start + 4
    while flag[:1] > b"\0" and offset - at >= 16:
        raw = stream.read(8)
        if len(raw) < 8:
            return  # the reader says it
        size = struct.unpack(f"{endianness}i", raw[:4])[0]
        if not 8 <= size <= offset - at:
            raise SizeError(
                f"a header extension claims {size} bytes of {offset - at}",
                where=path,
                fix="export the file again, without extensions",
            )
        stream.read(size - 8)
        at += size
