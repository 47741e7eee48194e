"""Say in plain words why an image file cannot be read, and what helps."""

from __future__ import annotations

import codecs
import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medssl.data.images.names import IMAGE_SUFFIXES, ITK, image_suffix, is_dead_link
from medssl.errors import MedSSLError

GZIP = b"\x1f\x8b"
"""How a packed file starts."""
_NIFTI_MAGIC = (b"n+1", b"ni1")

AGAIN = "copy or download it again from its source"

_INSTEAD = (
    (b"version https://git-lfs", "a pointer of Git LFS, not the image", "run `git lfs pull` there"),
    (b"/annex/objects", "a pointer of git-annex, not the image", "run `git annex get` on it"),
    (b"<!doctype html", "a web page, not the image", "download it again, logged in if need be"),
    (b"<html", "a web page, not the image", "download it again, logged in if need be"),
    (b"<?xml", "a server's message, not the image", "download it again, logged in if need be"),
    (b"<!--", "a web page, not the image", "download it again, logged in if need be"),
    (b'{"', "a server's message, not the image", "download it again, logged in if need be"),
    (b'[{"', "a server's message, not the image", "download it again, logged in if need be"),
    (b"pk\x03\x04", "a ZIP archive, not the image", "unpack it"),
    (b"bzh", "packed by bzip2", "unpack it"),
    (b"\xfd7zxz", "packed by xz", "unpack it"),
    (b"\x28\xb5\x2f\xfd", "packed by Zstandard", "unpack it"),
    (b"nrrd0", "a NRRD", "let its name end in .nrrd"),
    (b"objecttype = image", "a MetaImage", "let its name end in .mha"),
    (b"\x89hdf", "an HDF5 file", "write its images as NIfTI, with their voxel size"),
    (b"\x93numpy", "a NumPy array", "write it as NIfTI, with its voxel size"),
)
"""What may lie under an image's name: how it starts, what it is, and what helps."""

_OWN = {b"nrrd0": (".nrrd", ".nhdr"), b"objecttype = image": (".mha", ".mhd")}
"""The names under which such a start is right, so that something else is wrong."""

_SEEN = 512
"""Bytes of a file's start that are looked at."""


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn whatever the libraries raise into what is wrong with an image file and what helps.

    Raises:
        MedSSLError: the file is missing or of another kind, or reading it raised.
    """
    try:
        if not path.is_file():
            what, fix = _missing(path)
            raise MedSSLError(what, fix=fix)
        if image_suffix(path) is None:
            raise MedSSLError(
                f"images ending in {path.suffix!r} cannot be read",
                fix=f"convert it to one of {' '.join(IMAGE_SUFFIXES)}",
            )
        yield
    except MedSSLError as error:
        raise type(error)(error.what, where=error.where or path, fix=error.fix) from error
    except Exception as error:  # the libraries raise anything at all for a damaged file
        what, fix = _explain(path, error)
        raise MedSSLError(what, where=path, fix=fix) from error


def _missing(path: Path) -> tuple[str, str]:
    if is_dead_link(path):
        target = os.readlink(path)
        annexed = "annex" in Path(target).parts
        fix = "run `git annex get` on it" if annexed else "copy the file itself there"
        return f"the file is a link to {target}, which is not there", fix
    what = "the path is a folder" if path.is_dir() else "the file does not exist"
    return what, "correct the path, or remove the case from dataset.json"


def _explain(path: Path, error: Exception) -> tuple[str, str]:
    try:
        with path.open("rb") as file:
            start = file.read(_SEEN)
    except OSError as refused:
        return f"the file cannot be opened ({refused.strerror})", "check its rights"
    if not start.strip(b"\0"):
        what = "empty" if not start else "blank (zeros only)"
        return f"the file is {what}", AGAIN
    instead = _instead(path, start)
    if instead is not None:
        return instead
    if start[128:132] == b"DICM":
        return "the file is DICOM", "name the folder of its series, or `medssl import dicom` it"
    if isinstance(error, EOFError | zlib.error):
        return f"the file is truncated or damaged ({error})", AGAIN
    if isinstance(error, gzip.BadGzipFile):
        return f"the file is damaged ({error})", AGAIN
    if start.startswith(GZIP):
        with suppress(OSError, EOFError, zlib.error), gzip.open(path) as packed:
            instead = _instead(path, packed.read(_SEEN))
            if instead is not None:
                return f"{instead[0]} (packed by gzip)", instead[1]
    reason = next((s for s in reversed(str(error).splitlines()) if s.strip()), "")
    reason = reason.replace(str(path), path.name)[:150] or type(error).__name__
    return f"the file cannot be read ({reason})", AGAIN


def _instead(path: Path, start: bytes) -> tuple[str, str] | None:
    """Return what lies under the name of an image and what helps, None where nothing else does."""
    text = start.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    for beginning, what, fix in _INSTEAD:
        if text.startswith(beginning) and image_suffix(path) not in _OWN.get(beginning, ()):
            return f"the file is {what}", fix
    if image_suffix(path) in ITK:
        if start[344:347] in _NIFTI_MAGIC:
            return "the file is a NIfTI", "let its name end in .nii"
        if start.startswith(GZIP):
            return "the file is packed by gzip", "unpack it, or let a NIfTI's name end in .nii.gz"
    return None
