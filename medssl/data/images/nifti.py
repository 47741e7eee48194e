"""The one door to NIfTI files: what a header claims is checked before anything is allocated.

Where a header's two transforms disagree, or both lack their codes, ITK is asked how it reads them:
that is where viewers show the voxels. (ITK takes the voxel size from ``pixdim`` alone; directions
and origin from the sform if that has right angles and is coded 1 or agrees with the qform, else
from the qform, else from the voxel order.)
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from medssl.data.images.explain import GZIP
from medssl.data.images.geometry import (
    GRID_WARNING_VOXELS,
    corner_distance,
    grid_distance,
    is_usable,
    spacing_of,
    straightened,
)
from medssl.data.images.limits import DEFLATE_RATIO, SizeError, check_claim
from medssl.errors import MedSSLError

RawHeader = nib.Nifti1Header | nib.Nifti2Header

MAX_EXTENSION_BYTES = 2**26
EXCESS_BYTES = 2**20
"""A file may end in so many bytes that its header does not speak of."""

GEOMETRY_FIELDS = (
    *("qform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z"),
    *("sform_code", "srow_x", "srow_y", "srow_z"),
)
"""What of a header says where the voxels are, with ``pixdim`` and ``xyzt_units``."""

ROUNDING = 5e-4
"""Readings of a header that put no corner further apart, in mm or in the finest voxel edge, are
one: nibabel's, to the last bit."""

_NIFTI1, _NIFTI2 = 348, 540
_MM_PER_UNIT = {1: 1000.0, 3: 1e-3}


@dataclass(frozen=True)
class NiftiHeader:
    """The header of a NIfTI file.

    Attributes:
        raw: as nibabel has it, unchecked.
        shape: as in the file, all axes.
        affine: ``(4, 4)``, voxel to RAS in the file's own unit, as ITK reads it; not usable
            where the header has no such transform.
        mm_per_unit: the file's own unit; mm where it states none.
        note: how ITK's reading differs from nibabel's; empty where it does not.
        is_plain: all programs read the same from it, so that it may be copied.
    """

    raw: RawHeader
    shape: tuple[int, ...]
    affine: np.ndarray
    mm_per_unit: float
    note: str = ""
    is_plain: bool = True

    @property
    def scale(self) -> tuple[float, float]:
        """Factor and offset from stored to true values, 1 and 0 where there are none."""
        slope, offset = float(self.raw["scl_slope"]), float(self.raw["scl_inter"])
        return (
            slope if np.isfinite(slope) and slope else 1.0,
            offset if np.isfinite(offset) else 0.0,
        )


def nifti_header(path: Path) -> NiftiHeader:
    """Read the header of a NIfTI file.

    Raises:
        SizeError: an extension of the header claims more than the file can hold.
        Exception: what gzip, nibabel and struct raise for a damaged file.
    """
    with _stream(path) as stream:
        return _understood(_header(stream, path)[0])


def read_nifti(path: Path) -> tuple[NiftiHeader, np.ndarray]:
    """Read a NIfTI file to its last byte, so that the checksum of a packed one is verified.

    A reader that stops at the last voxel never sees the checksum.

    Returns:
        The header, and the stored values without the header's scaling in the machine's byte order.

    Raises:
        SizeError: the header claims more than fits into memory or than the file can hold, or more
            comes out of a packed file than its header claims.
        Exception: what gzip and nibabel raise for a damaged file.
    """
    with _stream(path) as stream:
        header, start = _header(stream, path)
        shape = tuple(int(n) for n in header.get_data_shape())
        try:
            dtype = header.get_data_dtype()
        except KeyError:
            raise ImageFileError(f"its data type {header['datatype']} is unknown") from None
        offset = _offset_of(header["vox_offset"], path) or len(header.binaryblock) + 4
        packed = isinstance(stream, gzip.GzipFile)
        capacity = path.stat().st_size * (DEFLATE_RATIO if packed else 1)
        size = check_claim(shape, dtype.itemsize, path=path, capacity=max(capacity - offset, 0))
        stream.read(offset - start)
        raw = stream.read(size)
        if len(raw) < size:
            raise EOFError(f"{len(raw)} bytes of voxels, the header claims {size}")
        _read_to_the_end(stream, offset + size, path)
    data = np.frombuffer(raw, dtype).reshape(shape, order="F")
    return _understood(header), data.astype(dtype.newbyteorder("="), copy=False)


@contextmanager
def _stream(path: Path) -> Iterator[BinaryIO | gzip.GzipFile]:
    """Open a file, packed or not by its content: many called .gz are not, and some do not say."""
    with path.open("rb") as file:
        packed = file.read(2) == GZIP
        file.seek(0)
        if packed:
            with gzip.GzipFile(fileobj=file, mode="rb") as stream:
                yield stream
        else:
            yield file


def _read_to_the_end(stream: BinaryIO | gzip.GzipFile, claimed: int, path: Path) -> None:
    excess = 0
    try:
        while chunk := stream.read(2**16):
            excess += len(chunk)
            if excess > EXCESS_BYTES:
                raise SizeError(
                    f"more data follows than the {claimed} bytes that the header claims",
                    where=path,
                    fix="export the file again: header and voxels do not belong together",
                )
    except gzip.BadGzipFile as error:
        # What follows a packed stream that was whole, checksum and all, does no harm.
        if not str(error).startswith("Not a gzipped file"):
            raise


def _header(stream: BinaryIO | gzip.GzipFile, path: Path) -> tuple[RawHeader, int]:
    """Return the header, and how many bytes were read for it and its extensions."""
    block = stream.read(_NIFTI1)
    if block.startswith(GZIP):
        raise MedSSLError("the file is packed twice", where=path, fix="unpack it once (gunzip)")
    if len(block) < _NIFTI1:
        raise EOFError(f"only {len(block)} bytes, less than a header")
    length = struct.unpack("<i", block[:4])[0], struct.unpack(">i", block[:4])[0]
    header: RawHeader
    if _NIFTI2 in length:
        block += stream.read(_NIFTI2 - _NIFTI1)
        header = nib.Nifti2Header(block, check=False)
    elif _NIFTI1 in length:
        header = nib.Nifti1Header(block, check=False)
    else:
        raise ImageFileError("it does not start with a NIfTI header")
    if not bytes(header["magic"]).startswith(b"n+"):
        raise ImageFileError("its header is not that of a NIfTI in one file (.nii)")
    offset = _offset_of(header["vox_offset"], path)
    return header, _check_extensions(stream, len(block), offset, header.endianness, path)


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
    stream: BinaryIO | gzip.GzipFile, start: int, offset: int, endianness: str, path: Path
) -> int:
    """Refuse a header extension that claims to reach into the voxels or to have no length.

    Returns:
        How many bytes of the file were read until then.
    """
    flag = stream.read(4)
    at = start + 4
    while flag[:1] > b"\0" and offset - at >= 16:
        raw = stream.read(8)
        if len(raw) < 8:
            break  # the reader says it
        size = struct.unpack(f"{endianness}i", raw[:4])[0]
        if not 8 <= size <= offset - at:
            raise SizeError(
                f"a header extension claims {size} bytes of {offset - at}",
                where=path,
                fix="export the file again, without extensions",
            )
        stream.read(size - 8)
        at += size
    return at


def _understood(raw: RawHeader) -> NiftiHeader:
    shape = tuple(int(n) for n in raw.get_data_shape())
    mm_per_unit = _MM_PER_UNIT.get(int(raw["xyzt_units"]) & 7, 1.0)
    volume = (*shape, 1, 1, 1)[:3]
    own = _as_nibabel_reads(raw)
    if own is not None and _is_plain(raw, own, volume, mm_per_unit):
        return NiftiHeader(raw, shape, own, mm_per_unit)
    affine = _as_itk_reads(raw)
    if affine is None:  # ITK opens no file of sheared axes
        unusable = np.full((4, 4), np.nan)
        affine = unusable if own is None else own
        return NiftiHeader(raw, shape, affine, mm_per_unit, is_plain=False)
    if own is not None and _is_close(own, affine, volume, mm_per_unit):
        return NiftiHeader(raw, shape, own, mm_per_unit)
    note = _difference(raw, own, affine, volume, mm_per_unit)
    return NiftiHeader(raw, shape, affine, mm_per_unit, note, is_plain=False)


def _as_nibabel_reads(raw: RawHeader) -> np.ndarray | None:
    try:
        affine = np.asarray(raw.get_best_affine(), dtype=np.float64)
    except (ValueError, HeaderDataError):  # such as a quaternion a hair over unit length
        return None
    return affine if is_usable(affine) else None


def _is_plain(
    raw: RawHeader, affine: np.ndarray, shape: tuple[int, ...], mm_per_unit: float
) -> bool:
    """Tell whether all that a header says of its geometry is one and the same."""
    codes = int(raw["sform_code"]), int(raw["qform_code"])
    if not any(codes) or not all(0 <= code <= 5 for code in codes):
        return False
    sized = affine.copy()
    sized[:3, :3] *= np.asarray(raw["pixdim"][1:4], np.float64) / spacing_of(affine)
    straight = straightened(affine) is affine
    if not straight or not _is_close(sized, affine, shape, mm_per_unit):
        return False
    if not codes[1]:
        return True
    square = sum(float(raw[f"quatern_{name}"]) ** 2 for name in "bcd")
    if 1 - 1e-6 < square != 1:  # a turn by nearly 180 degrees, which readers round differently
        return False
    try:
        return not codes[0] or _is_close(raw.get_qform(), affine, shape, mm_per_unit)
    except HeaderDataError:  # a pixdim that may not be
        return False


def _is_close(
    first: np.ndarray, second: np.ndarray, shape: tuple[int, ...], mm_per_unit: float
) -> bool:
    limit = ROUNDING * min(1 / mm_per_unit, *spacing_of(second))
    return corner_distance(first, second, shape) <= limit


def _as_itk_reads(raw: RawHeader) -> np.ndarray | None:
    """Return the affine that ITK makes of a header, in the file's unit; None if it refuses."""
    from medssl.data.images.itk import geometry_of_header  # slow to import, and few files need it

    plain = nib.Nifti1Header()
    plain.set_data_dtype(np.uint8)
    plain.set_data_shape((2, 2, 2))
    for name in (*GEOMETRY_FIELDS, "pixdim"):
        plain[name] = raw[name]
    plain["magic"], plain["vox_offset"] = b"n+1", _NIFTI1 + 4
    geometry = geometry_of_header(plain.binaryblock + bytes(4 + 8))
    return None if geometry is None else geometry.affine()


def _difference(
    raw: RawHeader,
    own: np.ndarray | None,
    affine: np.ndarray,
    shape: tuple[int, ...],
    mm_per_unit: float,
) -> str:
    if own is not None and grid_distance(affine, own, shape) <= GRID_WARNING_VOXELS:
        return ""
    if not int(raw["sform_code"]) and not int(raw["qform_code"]):
        return (
            "the header codes no orientation (qform_code and sform_code are 0): it is taken as ITK "
            "programs take it, the axes running to the patient's left, back and head"
        )
    if own is None and not int(raw["sform_code"]):
        return (
            "the header's quaternion is not of unit length: it is read as ITK programs read it, "
            "brought to unit length"
        )
    sizes = [" x ".join(f"{v * mm_per_unit:.5g}" for v in spacing_of(affine))]
    if own is not None:
        sizes.append(" x ".join(f"{v * mm_per_unit:.5g}" for v in spacing_of(own)))
    against = "" if len(set(sizes)) < 2 else f", not {sizes[1]}"
    return (
        "what the header says twice (qform, sform, pixdim) differs: it is read as ITK programs "
        f"read it, here with voxels of {sizes[0]} mm{against}"
    )
