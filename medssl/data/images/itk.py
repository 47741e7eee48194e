"""The one door to NRRD, MetaImage and DICOM slices: sizes and file names are checked first."""

from __future__ import annotations

import re
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import numpy as np
import SimpleITK as sitk  # noqa: N813

from medssl.data.images.geometry import ItkGeometry
from medssl.data.images.limits import DEFLATE_RATIO, SizeError, check_claim
from medssl.data.images.names import ITK, image_suffix
from medssl.errors import MedSSLError
from medssl.files import write_bytes

_HEADER_BYTES = 2**16
_CHUNK = 2**20
_ANY_HEADER = 32 + zlib.MAX_WBITS  # of gzip or of zlib
_LAST_OF_META = r"^\s*ElementDataFile\s*=[^\r\n]*"
_SKIPPED = ("HeaderSize", "byte ?skip", "line ?skip")
_DATA_FILE = re.compile(r"^\s*(?:ElementDataFile\s*=|data ?file\s*:)\s*(.*?)\s*$", re.I | re.M)
_FIELD = r"^\s*{}\s*[=:]\s*(\S+)"


def itk_header(path: str | Path) -> sitk.ImageFileReader:
    """Read the header of a file that SimpleITK knows.

    Raises:
        MedSSLError: the header names a data file in another folder.
        RuntimeError: SimpleITK cannot read it.
    """
    path = Path(path)
    _stored(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader


def read_itk(path: str | Path) -> sitk.Image:
    """Read an image file with SimpleITK.

    Raises:
        SizeError: the header claims more than fits into memory or than the file can hold.
        MedSSLError: the header names a data file in another folder.
        RuntimeError, EOFError, zlib.error: SimpleITK cannot read it, or it is damaged.
    """
    path = Path(path)
    reader = itk_header(path)
    shape = (*reader.GetSize(), reader.GetNumberOfComponents())
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelIDValue())
    bits = re.search(r"(\d+)-bit", kind)
    itemsize = int(bits[1]) // 8 if bits else 8
    if "complex" in kind:
        itemsize *= 2
    stored = _stored(path)
    capacity = None if stored is None else stored.capacity
    shape = shape if shape[-1] > 1 else shape[:-1]
    size = check_claim(shape, itemsize, path=path, capacity=capacity)
    _check_packed(stored, size, path)
    return sitk.ReadImage(str(path))


def itk_voxels(image: sitk.Image) -> np.ndarray:
    """Return an image's voxels ``(X, Y, Z, ...)``, the components of vectors as the last axis."""
    data = sitk.GetArrayFromImage(image)
    axes = list(range(image.GetDimension()))[::-1]
    return data.transpose(*axes, *range(len(axes), data.ndim))


def itk_geometry(image: sitk.Image | sitk.ImageFileReader) -> ItkGeometry:
    """Return where an image, or one whose header was read, lies."""
    return ItkGeometry(image.GetOrigin(), image.GetSpacing(), image.GetDirection())


def geometry_of_header(nifti: bytes) -> ItkGeometry | None:
    """Return how ITK reads the header of a NIfTI-1 file, given as bytes; None if it refuses."""
    warns = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "header.nii"
            write_bytes(path, nifti)
            return itk_geometry(itk_header(path))
    except RuntimeError:
        return None
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(warns)


def itk_image(data: np.ndarray, geometry: ItkGeometry, *, vector: bool = False) -> sitk.Image:
    """Return voxels ``(X, Y, Z)``, or ``(X, Y, Z, C)`` if they are vectors, as an ITK image."""
    axes = list(range(data.ndim - vector))[::-1] + [data.ndim - 1] * vector
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.transpose(axes)), vector)
    image.SetOrigin(geometry.origin)
    image.SetSpacing(geometry.spacing)
    image.SetDirection(geometry.direction)
    return image


@dataclass(frozen=True)
class _Stored:
    """Where the voxels of a NRRD or MetaImage are.

    Attributes:
        header: the text before them, as far as the first 64 kB hold it.
        file: that holds them; None for a list or a pattern of files.
        offset: where they begin in it, None where that is not known.
        packed: by deflate (gzip or zlib); None where that is not known.
    """

    header: str
    file: Path | None
    offset: int | None
    packed: bool | None

    @property
    def capacity(self) -> int | None:
        """The bytes that the file can unpack to, None where that is not known."""
        if self.file is None or self.packed is None:
            return None
        size = self.file.stat().st_size - (self.offset or 0)
        return size * DEFLATE_RATIO if self.packed else size


def _stored(path: Path) -> _Stored | None:
    """Return where the voxels are; None for other formats.

    Raises:
        MedSSLError: the header names a data file in another folder.
    """
    if image_suffix(path) not in ITK:
        return None
    with path.open("rb") as file:
        text = file.read(_HEADER_BYTES).decode("latin-1")  # a character is a byte
    meta = image_suffix(path) in (".mha", ".mhd")
    # In a MetaImage the voxels' file is named last, a NRRD ends its header with a blank line.
    end = re.search(_LAST_OF_META if meta else r"(?=\r?\n\r?\n)", text, re.I | re.M)
    header = text[: end.end()] if end else text
    names = _DATA_FILE.findall(header)
    _check_names(names, path)
    apart = bool(names) and names[-1].upper() != "LOCAL"
    named = path.parent / names[-1] if apart else path
    skipped = any(_field(header, key) not in ("", "0") for key in _SKIPPED)
    offset = None
    if not skipped and (apart or end):
        rest = re.compile(r"\r?\n" if meta else r"\r?\n\r?\n").match(text, len(header))
        offset = 0 if apart else rest.end() if rest else None
    if meta:
        packed: bool | None = _field(header, "CompressedData").lower() == "true"
    else:
        packed = {"raw": False, "gzip": True, "gz": True}.get(_field(header, "encoding").lower())
    return _Stored(header, named if named.is_file() else None, offset, packed)


def _check_names(names: list[str], path: Path) -> None:
    """Refuse a header whose voxels lie in a file of another folder."""
    for name in names:
        windows = PureWindowsPath(name)  # knows both slashes, and drives
        if windows.root or windows.drive or ".." in windows.parts:
            raise MedSSLError(
                f"the header says that the voxels are in another folder: {name}",
                where=path,
                fix="put both files into one folder and correct the name in the header",
            )


def _check_packed(stored: _Stored | None, size: int, path: Path) -> None:
    """Unpack voxels to the end, as SimpleITK does not: it gives what it could, without a word.

    Raises:
        SizeError: fewer bytes are there than the header claims.
        EOFError, zlib.error: the packed stream is truncated or damaged.
    """
    if stored is None or stored.file is None or stored.offset is None or not stored.packed:
        return
    claimed = _field(stored.header, "CompressedDataSize")
    if claimed.isdigit() and int(claimed) > stored.file.stat().st_size:
        raise SizeError(
            f"the header claims {claimed} bytes of packed voxels, but the file has fewer",
            where=path,
            fix="copy the file again from its source",
        )
    unpacking = zlib.decompressobj(_ANY_HEADER)
    total = 0
    with stored.file.open("rb") as file:
        file.seek(stored.offset)
        while not unpacking.eof:
            chunk = unpacking.unconsumed_tail or file.read(_CHUNK)
            if not chunk:
                raise EOFError("the packed voxels end early")
            total += len(unpacking.decompress(chunk, _CHUNK))
    if total < size:
        raise EOFError(f"{total} bytes of voxels, the header claims {size}")


def _field(text: str, name: str) -> str:
    found = re.search(_FIELD.format(name), text, re.I | re.M)
    return found[1] if found else ""
