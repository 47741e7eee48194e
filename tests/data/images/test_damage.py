"""Damaged and misnamed files: one verdict for every reader, with the remedy that helps."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from medssl.data.datasets.case import Case, LabelMap
from medssl.data.datasets.integrity import check_case
from medssl.data.images.labels import read_label
from medssl.data.images.names import list_images
from medssl.data.images.volume import read_volume
from medssl.data.importers.pairing import find_pairs
from medssl.data.preprocessing.pipeline import preprocess_case, preprocess_image
from medssl.errors import MedSSLError
from medssl.inference.inputs import find_cases
from medssl.settings.spec import DataSpec

SHAPE = (24, 20, 12)
DATA = np.random.default_rng(0).integers(0, 2, SHAPE).astype(np.uint8)
LABELS = LabelMap((0, 1), ("background", "a"))


def plain() -> bytes:
    return nib.Nifti1Image(DATA, np.diag([1.0, 1, 2, 1])).to_bytes()


def packed() -> bytes:
    return gzip.compress(plain(), mtime=0)


def flipped(at: int) -> bytes:
    raw = bytearray(packed())
    raw[at] ^= 0xFF
    return bytes(raw)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def read_for_training(path: Path) -> None:
    other = write(path.with_name("sound.nii.gz"), packed())
    preprocess_case(Case("a", (other,), path, "a"), DataSpec())


READERS: dict[str, Callable[[Path], object]] = {
    "volume": read_volume,
    "label": read_label,
    "prediction": lambda path: preprocess_image(path, DataSpec()),
    "training": read_for_training,
}

BROKEN = {
    "checksum": (lambda: flipped(-8), r"damaged \(CRC", "copy or download it again"),
    "length": (lambda: flipped(-1), "damaged", "copy or download it again"),
    "flipped": (lambda: flipped(len(packed()) // 2), "damaged", "copy or download it again"),
    "truncated": (lambda: packed()[:-300], "truncated or damaged", "copy or download it again"),
    "no checksum": (lambda: packed()[:-6], "truncated or damaged", "copy or download it again"),
    "cut inside": (lambda: gzip.compress(plain()[:-9]), "truncated", "copy or download it again"),
    "second stream": (lambda: packed() + gzip.compress(bytes(2**21)), "more data", "export"),
    "empty": (lambda: b"", "the file is empty", "copy or download it again"),
    "zeros": (lambda: bytes(3000), "blank", "copy or download it again"),
    "git lfs": (
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n",
        "a pointer of Git LFS, not the image",
        "git lfs pull",
    ),
    "git annex": (lambda: b"/annex/objects/MD5E-s1--a.nii.gz\n", "git-annex", "git annex get"),
    "web page": (lambda: b"\n<!DOCTYPE html><html>404</html>", "a web page", "download it again"),
    "page with a mark": (
        lambda: b"\xef\xbb\xbf<!DOCTYPE html><html>404</html>",
        "a web page",
        "download it again",
    ),
    "packed page": (
        lambda: gzip.compress(b"<html>404</html>" * 90),
        "a web page, not the image .packed by gzip",
        "download it again",
    ),
    "list of errors": (lambda: b'[{"error": 404}]', "a server's message", "download it again"),
    "metaimage": (
        lambda: b"ObjectType = Image\nNDims = 3\n" + bytes(500),
        "a MetaImage",
        "end in .mha",
    ),
    "archive": (lambda: b"PK\x03\x04" + bytes(500), "a ZIP archive", "unpack it"),
    "answer": (lambda: b'<?xml version="1.0"?><Error/>', "a server's message", "download it again"),
    "packed twice": (lambda: gzip.compress(packed()), "packed twice", "unpack it once"),
    "bzip2": (lambda: bz2.compress(plain()), "packed by bzip2", "unpack it"),
    "xz": (lambda: lzma.compress(plain()), "packed by xz", "unpack it"),
    "nrrd": (lambda: b"NRRD0004\ntype: short\n" + bytes(500), "a NRRD", "end in .nrrd"),
    "dicom": (lambda: bytes(128) + b"DICM" + bytes(500), "is DICOM", "medssl import dicom"),
    "hdf5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(500), "an HDF5 file", "as NIfTI"),
    "text": (lambda: b"x,y\n1,2\n" * 90, "cannot be read", "copy or download it again"),
    "pair": (lambda: plain().replace(b"n+1", b"ni1", 1), "in one file", "copy or download"),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("reader", READERS)
def test_one_verdict(tmp_path: Path, name: str, reader: str) -> None:
    make, message, fix = BROKEN[name]
    path = write(tmp_path / "a.nii.gz", make())
    with pytest.raises(MedSSLError, match=message) as caught:
        READERS[reader](path)
    assert caught.value.where == str(path)
    assert fix in str(caught.value.fix)
    problems = check_case(Case("a", (path,), None, "a"), LABELS, 1)
    assert [(p.what, p.fix, p.check) for p in problems] == [
        (caught.value.what, caught.value.fix, "unreadable")
    ]


SOUND = {
    "plain called .gz": ("a.nii.gz", plain),
    "packed called .nii": ("a.nii", packed),
    "packed in parts": (
        "a.nii.gz",
        lambda: gzip.compress(plain()[:900]) + gzip.compress(plain()[900:]),
    ),
    "padded": ("a.nii.gz", lambda: packed() + bytes(512)),
    "bytes behind a packed file": ("a.nii.gz", lambda: packed() + b"appended by a server"),
    "bytes behind a plain file": ("a.nii", lambda: plain() + b"appended by a server"),
    "upper case": ("A.NII.GZ", packed),
}  # fmt: skip


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_whole_is_read(tmp_path: Path, name: str, reader: str) -> None:
    file, make = SOUND[name]
    path = write(tmp_path / file, make())
    READERS[reader](path)
    np.testing.assert_array_equal(read_volume(path).data, DATA)
    assert check_case(Case("a", (path,), path, "a"), LABELS, 1) == []


@pytest.mark.parametrize("suffix", [".mha", ".nrrd", ".mhd", ".nhdr"])
@pytest.mark.parametrize("packed", [True, False])
def test_other_formats(tmp_path: Path, suffix: str, packed: bool) -> None:
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(DATA.T), str(path), packed)
    np.testing.assert_array_equal(read_volume(path).data, DATA)
    voxels = next((p for p in tmp_path.iterdir() if p != path), path)
    sound = voxels.read_bytes()
    broken = [sound[:-2], sound[:-200]]
    if packed:
        broken += [sound[:n] + bytes([sound[n] ^ 0xFF]) + sound[n + 1 :] for n in (-3, -300)]
    for content in broken:
        write(voxels, content)
        for read in READERS.values():
            with pytest.raises(MedSSLError, match=r"damaged|cannot be read|claims"):
                read(path)


def test_names(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "a.nii.gz", "does not exist"),
        (tmp_path, "the path is a folder"),
        (write(tmp_path / "a.dcm", b"x"), r"'.dcm' cannot be read"),
    ):
        with pytest.raises(MedSSLError, match=message):
            read_volume(path)


@pytest.mark.parametrize(
    ("target", "fix"), [("../.git/annex/objects/1/a.nii.gz", "git annex get"), ("gone", "copy the")]
)
def test_a_link_that_leads_nowhere_is_no_reason_to_pass_over_a_scan(
    tmp_path: Path, target: str, fix: str
) -> None:
    write(tmp_path / "a.nii.gz", packed())
    (tmp_path / "b.nii.gz").symlink_to(target)
    assert [p.name for p in list_images(tmp_path)] == ["a.nii.gz", "b.nii.gz"]
    assert [p.image.name for p in find_pairs(tmp_path)[0]] == ["a.nii.gz", "b.nii.gz"]
    assert [name for name, _ in find_cases([tmp_path])[0]] == ["a", "b"]
    for read in READERS.values():
        with pytest.raises(MedSSLError, match=f"a link to .*{Path(target).name}") as caught:
            read(tmp_path / "b.nii.gz")
        assert fix in str(caught.value.fix)


OTHER_FORMAT = {
    "NIfTI called .nrrd": ("a.nrrd", plain, "a NIfTI", "end in .nii"),
    "NIfTI called .mha": ("a.mha", plain, "a NIfTI", "end in .nii"),
    "packed NIfTI called .nrrd": ("a.nrrd", packed, "packed by gzip", "end in .nii.gz"),
    "NRRD called .mha": (
        "a.mha",
        lambda: b"NRRD0004\ntype: short\n" + bytes(500),
        "a NRRD",
        "end in .nrrd",
    ),
    "MetaImage called .nrrd": (
        "a.nrrd",
        lambda: b"ObjectType = Image\nNDims = 3\n" + bytes(500),
        "a MetaImage",
        "end in .mha",
    ),
}


@pytest.mark.parametrize("name", OTHER_FORMAT)
def test_the_name_of_another_format(tmp_path: Path, name: str) -> None:
    file, make, message, fix = OTHER_FORMAT[name]
    path = write(tmp_path / file, make())
    with pytest.raises(MedSSLError, match=message) as caught:
        read_volume(path)
    assert fix in str(caught.value.fix)
