"""Scans are recognized by their voxels: the same whatever the file, another where one differs."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
from decathlon_files import write

from medssl.data.datasets.case import Case
from medssl.data.datasets.contents import Contents, scan_hash, voxel_hash
from medssl.data.datasets.known_files import KnownFiles
from medssl.data.images import volume
from medssl.errors import MedSSLError

AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])
DATA = np.random.default_rng(0).integers(-50, 900, (9, 8, 20)).astype(np.int16)


def content(*paths: Path) -> str:
    return Contents(KnownFiles(None)).of(Case("c", paths, None, "c"))


def test_the_hash_is_of_values() -> None:
    same = [DATA, DATA.astype(np.float64), np.asfortranarray(DATA), DATA[::-1].copy()[::-1]]
    assert len({voxel_hash(d) for d in same}) == 1
    assert voxel_hash(DATA) != voxel_hash(DATA.reshape(8, 9, 20))
    zero, minus = np.zeros((2, 2, 2)), -np.zeros((2, 2, 2))
    assert voxel_hash(zero) == voxel_hash(minus)


def turned(axes: tuple[int, int, int], flips: tuple[int, ...]) -> nib.Nifti1Image:
    """Return the scan with its axes stored in another order and direction."""
    image = nib.Nifti1Image(DATA, AFFINE)
    ends = {0: "RL", 1: "AP", 2: "SI"}
    codes = "".join(ends[a][a in flips] for a in axes)
    now = nib.orientations.io_orientation(AFFINE)
    return image.as_reoriented(
        nib.orientations.ornt_transform(now, nib.orientations.axcodes2ornt(codes))
    )


def test_format_type_scaling_and_order_of_axes_do_not_matter(tmp_path: Path) -> None:
    first = write(tmp_path / "a.nii.gz", DATA, AFFINE)
    copies = [
        write(tmp_path / "float.nii", DATA.astype(np.float32), AFFINE),
        write(tmp_path / "double.nii", DATA.astype(">f8"), AFFINE),
    ]
    scaled = nib.Nifti1Image(2 * DATA, AFFINE)
    scaled.header.set_slope_inter(0.5, 0)  # nibabel stores what it was given
    nib.save(scaled, tmp_path / "scaled.nii")
    copies.append(tmp_path / "scaled.nii")
    for n, (axes, flips) in enumerate([((0, 1, 2), (0, 1)), ((2, 0, 1), (1,)), ((1, 2, 0), ())]):
        nib.save(turned(axes, flips), tmp_path / f"turned{n}.nii.gz")
        copies.append(tmp_path / f"turned{n}.nii.gz")
    for name in ("x.nrrd", "x.mha"):
        sitk.WriteImage(sitk.ReadImage(str(first)), str(tmp_path / name))
        copies.append(tmp_path / name)
    expected = content(first)
    assert expected
    assert [content(path) for path in copies] == [expected] * len(copies)


def test_another_voxel_or_side_is_another_scan(tmp_path: Path) -> None:
    first = write(tmp_path / "a.nii", DATA, AFFINE)
    other = DATA.copy()
    other[3, 4, 19] += 1
    assert content(write(tmp_path / "b.nii", other, AFFINE)) != content(first)
    assert content(write(tmp_path / "c.nii", DATA[::-1], AFFINE)) != content(first)


def test_a_copy_whose_header_was_lost_is_one(tmp_path: Path) -> None:
    def hashes(name: str, data: np.ndarray, affine: np.ndarray) -> set[str]:
        path = write(tmp_path / name, data, affine)
        return set(Contents(KnownFiles(None)).all_of(Case("c", (path,), None, "c")))

    lps = AFFINE @ np.diag([-1.0, -1.0, 1.0, 1.0])
    scan, other = hashes("a.nii", DATA, lps), DATA.copy()
    other[3, 4, 19] += 1
    assert len(scan) == 2
    assert len(hashes("b.nii", DATA, np.eye(4)) & scan) == 1
    assert hashes("c.nii", np.stack([DATA, DATA], axis=-1), lps) & scan == set()
    assert hashes("d.nii", other, lps) & scan == hashes("e.nii", DATA[::-1], lps) & scan == set()
    assert hashes("f.nii", np.zeros_like(DATA), lps) == set()


def test_channels_in_one_file_or_several_and_constant_ones(tmp_path: Path) -> None:
    one = write(tmp_path / "c_0000.nii", DATA, AFFINE)
    two = write(tmp_path / "c_0001.nii", DATA[::-1], AFFINE)
    both = write(tmp_path / "both.nii", np.stack([DATA, DATA[::-1]], axis=-1), AFFINE)
    assert content(one, two) == content(both) not in (content(one), content(two, one), "")
    empty = write(tmp_path / "empty.nii", np.zeros_like(DATA), AFFINE)
    assert content(empty) == content(empty, empty) == scan_hash(["", ""]) == ""
    assert content(one, empty) not in ("", content(one, two))


def test_what_is_known_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("c", (write(tmp_path / "a.nii", DATA, AFFINE),), None, "c")
    files = KnownFiles(tmp_path / "known")
    learning = Contents(files)
    learning.reading(case)(case.images[0], unit="mm")
    expected = content(case.images[0])

    def refuse(*_args: object, **_options: object) -> object:
        raise AssertionError("read again")

    monkeypatch.setattr("medssl.data.datasets.contents.read_volume", refuse)
    assert Contents(KnownFiles(tmp_path / "known")).of(case) == expected
    assert learning.of(case) == expected
    assert learning.all_of(case) == (expected,)
    with pytest.raises(AssertionError, match="read again"):
        content(case.images[0])
    monkeypatch.setattr("medssl.data.datasets.contents.read_volume", volume.read_volume)
    other = write(case.images[0], DATA + 1, AFFINE)  # the file was replaced
    assert Contents(KnownFiles(tmp_path / "known")).of(case) == content(other) != expected


def test_colors_are_left_to_the_check_and_a_missing_file_is_named(tmp_path: Path) -> None:
    colors = np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    path = write(tmp_path / "rgb.nii", colors, AFFINE)
    case = Case("c", (path,), None, "c")
    assert Contents(KnownFiles(None)).reading(case)(path, unit="mm").data.dtype == colors.dtype
    with pytest.raises(MedSSLError, match="cannot be opened"):
        content(tmp_path / "none.nii")
