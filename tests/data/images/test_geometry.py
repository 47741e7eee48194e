"""Where voxels lie, in which unit, and what cannot be: always as ITK's viewers show it."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from nifti_headers import (
    DATA,
    HEADERS,
    SHAPE,
    SHEARED,
    SINGULAR,
    itk_places,
    landmarks,
    moved,
    oblique,
    places,
    unit_columns,
    write_raw,
)

from medssl.data.images.geometry import (
    grid_distance,
    impossible_size,
    is_sheared,
    straightened,
    turn_onto,
    unit_factor,
)
from medssl.data.images.volume import read_header, read_volume
from medssl.errors import MedSSLError


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_voxels_lie_where_itk_shows_them(tmp_path: Path, name: str, suffix: str) -> None:
    path = write_raw(tmp_path / f"a{suffix}", DATA, **HEADERS[name])
    truth = itk_places(path, landmarks(SHAPE))
    volume = read_volume(path)
    np.testing.assert_allclose(places(volume.affine, landmarks(SHAPE)), truth, atol=1e-3)
    np.testing.assert_array_equal(volume.data, DATA)
    np.testing.assert_array_equal(read_header(path).affine, volume.affine)


@pytest.mark.parametrize("seed", range(40))
def test_any_header_lies_where_itk_shows_it(tmp_path: Path, seed: int) -> None:
    """Headers drawn at random: codes, disagreements, units, byte order."""
    rng = np.random.default_rng(seed)
    spacing = rng.choice([rng.uniform(0.3, 6, 3), np.full(3, rng.uniform(0.3, 3))])
    qform = oblique(spacing, tuple(rng.uniform(-180, 180, 3)))
    other = oblique(spacing, tuple(rng.uniform(-180, 180, 3)))
    sform = [qform, unit_columns(qform), other, moved(qform, rng.choice([5, 1e-3, 1e-5]))]
    fields = {
        "qform": qform,
        "sform": sform[seed % 4],
        "codes": (int(rng.integers(0, 3)), int(rng.integers(0, 5))),
        "unit": str(rng.choice(["unknown", "mm", "micron"], p=[0.2, 0.6, 0.2])),
        "endianness": str(rng.choice(["<", ">"])),
    }
    if fields["unit"] == "micron":
        scale = np.diag([1000.0, 1000, 1000, 1])
        fields |= {"qform": scale @ qform, "sform": scale @ fields["sform"]}
    path = write_raw(tmp_path / "a.nii", DATA, **fields)
    found = places(read_header(path).affine, landmarks(SHAPE))
    np.testing.assert_allclose(found, itk_places(path, landmarks(SHAPE)), atol=1e-3)


@pytest.mark.parametrize("codes", [(1, 1), (0, 1), (0, 2), (1, 2), (1, 0)])
def test_a_usual_header_is_read_to_the_last_bit_as_ever(
    tmp_path: Path, codes: tuple[int, int]
) -> None:
    affine = oblique()
    path = write_raw(tmp_path / "a.nii", DATA, qform=affine, sform=affine, codes=codes)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.affine, nib.load(path).affine)
    assert volume.note == ""


def test_nifti_2_follows_the_same_rule(tmp_path: Path) -> None:
    """ITK does not read it, so the same header as NIfTI-1 is the truth."""
    fields = {"qform": oblique(), "sform": unit_columns(oblique()), "codes": (1, 2)}
    first = read_volume(write_raw(tmp_path / "1.nii", DATA, **fields))
    second = read_volume(write_raw(tmp_path / "2.nii", DATA, version=2, **fields))
    np.testing.assert_allclose(second.affine, first.affine, atol=1e-5)
    np.testing.assert_array_equal(second.data, DATA)
    assert second.note


def test_the_user_is_told_what_differs(tmp_path: Path) -> None:
    path = write_raw(
        tmp_path / "a.nii", DATA, qform=oblique(), sform=unit_columns(oblique()), codes=(1, 2)
    )
    assert "voxels of 1.3158 x 1.3158 x 10 mm, not 1 x 1 x 1" in read_volume(path).note
    path = write_raw(tmp_path / "b.nii", DATA, pixdim=(1, 1, 2))
    assert "codes no orientation" in read_volume(path).note


@pytest.mark.parametrize("name", ["sheared", "singular", "nan"])
def test_what_itk_refuses(tmp_path: Path, name: str) -> None:
    matrix = {"sheared": SHEARED, "singular": SINGULAR, "nan": oblique() * np.nan}[name]
    path = write_raw(tmp_path / "a.nii", DATA, sform=matrix, codes=(0, 1), pixdim=(1, 1, 2))
    if name != "nan":
        with pytest.raises(RuntimeError):
            sitk.ReadImage(str(path))
    if name == "sheared":  # nibabel's place, but nothing is written there
        assert is_sheared(read_volume(path).affine, SHAPE)
    else:
        with pytest.raises(MedSSLError, match="affine is not usable"):
            read_header(path)


def test_a_hair_of_shear_is_no_shear(tmp_path: Path) -> None:
    hair = oblique() @ np.array([[1, 5e-4, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    path = write_raw(tmp_path / "a.nii", DATA, sform=hair, codes=(0, 1))
    with pytest.raises(RuntimeError):
        sitk.ReadImage(str(path))
    affine = read_volume(path).affine
    assert not is_sheared(affine, SHAPE)
    straight = straightened(affine)[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    np.testing.assert_allclose(straight.T @ straight, np.eye(3), atol=1e-9)
    untouched = oblique()
    assert straightened(untouched) is untouched


@pytest.mark.parametrize(
    ("slope", "offset", "expected"),
    [
        (2.0, -5.0, (2.0, -5.0)),
        (0.0, 0.0, (1.0, 0.0)),
        (np.nan, np.nan, (1.0, 0.0)),
        (0.0, 7.0, (1.0, 7.0)),  # as ITK has it
        (np.inf, 3.0, (1.0, 3.0)),
        (2.0, np.nan, (2.0, 0.0)),
    ],
)
def test_values_are_scaled_as_itk_scales_them(
    tmp_path: Path, slope: float, offset: float, expected: tuple[float, float]
) -> None:
    path = write_raw(
        tmp_path / "a.nii", DATA, sform=oblique(), codes=(0, 1), scl_slope=slope, scl_inter=offset
    )
    volume = read_volume(path)
    assert volume.scale == expected
    theirs = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T
    np.testing.assert_allclose(volume.values(), theirs, rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "expected", "channels"),
    [
        ((6, 5), (6, 5, 1), 1),
        ((6, 5, 4, 1), (6, 5, 4), 1),
        ((6, 5, 4, 1, 1), (6, 5, 4), 1),
        ((6, 5, 4, 3), (6, 5, 4, 3), 3),
        ((6, 5, 4, 1, 3), (6, 5, 4, 3), 3),
    ],
)
def test_axes(
    tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...], channels: int
) -> None:
    data = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    path = write_raw(tmp_path / "a.nii", data, sform=oblique(), codes=(0, 1))
    volume, header = read_volume(path), read_header(path)
    assert volume.data.shape == expected
    assert (header.shape, header.channels) == (expected[:3], channels)
    np.testing.assert_array_equal(volume.data.reshape(shape), data)


# ------------------------------------------------------------------------------------------ units


@pytest.mark.parametrize(("unit", "scale"), [("meter", 1e-3), ("mm", 1), ("micron", 1000.0)])
def test_units_come_to_the_same(tmp_path: Path, unit: str, scale: float) -> None:
    affine = np.diag([0.9, 0.9, 2.5, 1.0])
    in_file = np.diag([scale, scale, scale, 1]) @ affine
    path = write_raw(tmp_path / "a.nii", DATA, sform=in_file, codes=(0, 1), unit=unit)
    np.testing.assert_allclose(read_volume(path).spacing, (0.9, 0.9, 2.5), rtol=1e-6)
    micrometers = (0.9, 0.9, 2.5) if unit == "mm" else (900, 900, 2500)  # see the next test
    np.testing.assert_allclose(read_volume(path, unit="um").spacing, micrometers, rtol=1e-6)


def test_fine_numbers_of_oct_are_millimeters() -> None:
    fine, coarse = np.diag([0.0117, 0.12, 0.0039, 1.0]), np.diag([11.7, 120, 3.9, 1.0])
    assert unit_factor(fine, 1.0, "um") == 1000
    assert unit_factor(coarse, 1.0, "um") == 1  # micrometers, whatever the header says
    assert unit_factor(coarse, 1e-3, "um") == 1
    assert unit_factor(coarse, 1e-3, "mm") == 1e-3
    assert unit_factor(coarse, 1000.0, "mm") == 1000


@pytest.mark.parametrize(
    ("unit", "size", "message"),
    [
        ("meter", 1.0, r"unit 'meter', voxels of 1000 x 1000 x 1000 mm.*230 m long"),
        ("mm", 1000.0, r"unit 'mm', .*230 m long"),
        ("micron", 1.0, r"unit 'micron', voxels of 0.001 x 0.001 x 0.001 mm.*0.23 mm long"),
    ],
)
def test_impossible_units_are_refused(tmp_path: Path, unit: str, size: float, message: str) -> None:
    data = np.zeros((230, 30, 20), np.uint8)
    matrix = np.diag([size, size, size, 1])
    path = write_raw(tmp_path / "head.nii", data, sform=matrix, codes=(0, 1), unit=unit)
    for read in (read_volume, read_header):
        with pytest.raises(MedSSLError, match=message) as caught:
            read(path)
        assert caught.value.where == str(path)
        assert "xyzt_units" in str(caught.value.fix)


def test_no_scan_has_voxels_of_a_third_of_a_meter() -> None:
    for edge, possible in ((300.0, False), (90.0, True)):
        found = impossible_size(np.diag([edge, edge, 20, 1]), (16, 16, 12), 1.0, "mm")
        assert (found is None) == possible
        assert found is None or "voxels of 300 x 300 x 20 mm) the scan would be 4.8 m" in found.what


def test_small_scans_are_possible(tmp_path: Path) -> None:
    """OCT in micrometers, and a mouse's eye."""
    for spacing, unit in (((11.7, 120.0, 3.9), "micron"), ((0.02, 0.02, 0.02), "mm")):
        path = write_raw(
            tmp_path / "a.nii", DATA, sform=np.diag([*spacing, 1]), codes=(0, 1), unit=unit
        )
        read_volume(path)


# ------------------------------------------------------------------------------------------ grids


def test_turning_onto_a_grid() -> None:
    image = nib.Nifti1Image(DATA, oblique())
    turn = np.array([[2, -1], [0, 1], [1, -1]])
    turned = image.as_reoriented(turn)
    found = turn_onto((turned.shape, turned.affine), (SHAPE, oblique()))
    assert found is not None
    back = nib.orientations.apply_orientation(np.asarray(turned.dataobj), found)
    np.testing.assert_array_equal(back, DATA)
    assert turn_onto((SHAPE, moved(oblique(), 9)), (SHAPE, oblique())) is None
    assert turn_onto((SHAPE, SINGULAR), (SHAPE, oblique())) is None
    assert turn_onto(((23, 19, 12), oblique()), (SHAPE, oblique())) is None


def test_distance_is_in_voxels_of_the_first() -> None:
    assert grid_distance(oblique(), oblique(), SHAPE) < 1e-12
    shifted = oblique() @ np.array([[1, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    assert grid_distance(oblique(), shifted, SHAPE) == pytest.approx(0.5)
    assert grid_distance(oblique(), oblique() * np.nan, SHAPE) == np.inf
