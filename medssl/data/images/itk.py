"""The one door to NRRD, MetaImage and DICOM slices: sizes and file names are checked first."""

from __future__ import annotations

import re
from pathlib import Path, PureWindowsPath

import SimpleITK as sitk  # noqa: N813

from medssl.data.images.limits import DEFLATE_RATIO, SizeError, check_claim
from medssl.errors import MedSSLError

_HEADER_BYTES = 2**16
_META = (".mha", ".mhd")
_NRRD = (".nrrd", ".nhdr")
_DATA_FILE = re.compile(r"^\s*(?:ElementDataFile\s*=|data ?file\s*:)\s*(.*?)\s*$", re.I | re.M)
_FIELD = r"^\s*{}\s*[=:]\s*(\S+)"


def itk_header(path: str | Path) -> sitk.ImageFileReader:
    """Read the header of a file that SimpleITK knows.

    Raises:
        MedSSLError: the header names a data file in another folder.
        RuntimeError: SimpleITK cannot read it.
    """
    path = Path(path)
    _check_text(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader


def read_itk(path: str | Path) -> sitk.Image:
    """Read an image file with SimpleITK.

    Raises:
        SizeError: the header claims more than fits into memory or than the file can hold.
        MedSSLError: the header names a data file in another folder.
        RuntimeError: SimpleITK cannot read it.
    """
    path = Path(path)
    reader = itk_header(path)
    shape = (*reader.GetSize(), reader.GetNumberOfComponents())
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelIDValue())
    bits = re.search(r"(\d+)-bit", kind)
    itemsize = int(bits[1]) // 8 if bits else 8
    if "complex" in kind:
        itemsize *= 2
    check_claim(
        shape if shape[-1] > 1 else shape[:-1], itemsize, path=path, capacity=_capacity(path)
    )
    return sitk.ReadImage(str(path))


def _text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_HEADER_BYTES).decode("latin-1")


def _header_text(path: Path) -> str:
    """Return the text before the voxels, as far as the first 64 kB hold it."""
    text = _text(path)
    if path.name.lower().endswith(_NRRD):
        return re.split(r"\r?\n\r?\n", text, maxsplit=1)[0]
    # In a MetaImage this is the last line of the header.
    found = re.search(r"^\s*ElementDataFile\s*=.*$", text, re.I | re.M)
    return text[: found.end()] if found else text


def _check_text(path: Path) -> None:
    """Refuse a header whose voxels lie in a file of another folder."""
    if not path.name.lower().endswith((*_META, *_NRRD)):
        return
    for name in _DATA_FILE.findall(_header_text(path)):
        windows = PureWindowsPath(name)  # knows both slashes, and drives
        if windows.root or windows.drive or ".." in windows.parts:
            raise MedSSLError(
                f"the header says that the voxels are in another folder: {name}",
                where=path,
                fix="put both files into one folder and correct the name in the header",
            )


def _capacity(path: Path) -> int | None:
    """Return the bytes that the voxels of a file can unpack to, None where that is not known."""
    if not path.name.lower().endswith((*_META, *_NRRD)):
        return None
    text = _header_text(path)
    named = _DATA_FILE.findall(text)
    file = path
    if named and named[-1].upper() != "LOCAL":
        file = path.with_name(named[-1])
        if not file.is_file():  # a list or a pattern of files
            return None
    size = file.stat().st_size
    packed = _field(text, "CompressedDataSize")
    if packed.isdigit() and int(packed) > size:
        raise SizeError(
            f"the header claims {packed} bytes of packed voxels, but the file has {size}",
            where=path,
            fix="copy the file again from its source",
        )
    if path.name.lower().endswith(_META):
        return size * (DEFLATE_RATIO if _field(text, "CompressedData").lower() == "true" else 1)
    ratio = {"raw": 1, "gzip": DEFLATE_RATIO, "gz": DEFLATE_RATIO}
    factor = ratio.get(_field(text, "encoding").lower())
    return None if factor is None else size * factor


def _field(text: str, name: str) -> str:
    found = re.search(_FIELD.format(name), text, re.I | re.M)
    return found[1] if found else ""
