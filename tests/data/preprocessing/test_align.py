"""Shifts between B-scans: found, undone before training, and restored exactly after it."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medssl.data.datasets.case import Case
from medssl.data.phantoms.oct import make_oct, oct_affine
from medssl.data.preprocessing.align import SliceShifts, deeper, depth_and_slices, estimate_shifts
from medssl.data.preprocessing.pipeline import preprocess_case
from medssl.errors import MedSSLError
from medssl.settings.spec import DataSpec
from medssl.settings.specs import load_spec

ALIGNED = {"align_slices": True}


def off_line(values: np.ndarray) -> np.ndarray:
    """What of a sequence is not a straight line."""
    where = np.arange(len(values))
    return values - np.polyval(np.polyfit(where, values, 1), where)


def layered(jitter: list[int], shape: tuple[int, int] = (24, 80)) -> np.ndarray:
    """A stack ``(A-scan, B-scan, depth)`` of two bent bands, each B-scan moved by its jitter."""
    rng = np.random.default_rng(0)
    volume = rng.normal(0, 0.2, (shape[0], len(jitter), shape[1]))
    bend = np.linspace(-2, 2, shape[0]) ** 2
    for index, shift in enumerate(jitter):
        depth = np.arange(shape[1])[None] - 30 - shift - bend[:, None]
        volume[:, index] += (depth > 0) * (depth < 6) + 2.0 * (depth > 15) * (depth < 19)
    return volume.astype(np.float32)


def test_known_jitter_is_found_exactly() -> None:
    jitter = [0, 3, -2, 4, 1, -4, 0, 2, -3, 1]
    for axes in ((0, 1, 2), (2, 0, 1)):
        volume = np.moveaxis(layered(jitter), (0, 1, 2), axes)
        found = estimate_shifts(volume, depth_axis=axes[2], slice_axis=axes[1])
        assert found.min() == 0
        assert np.abs(off_line(found + np.array(jitter))).max() <= 1


def test_recorded_motion_of_the_phantom_is_mostly_undone() -> None:
    before, after = [], []
    for seed in range(8):
        scan = make_oct(np.random.default_rng(seed), (48, 16, 96))
        motion = np.array(scan.settings["bscan_shift_um"]) / 4.0  # voxels of depth
        shifts = estimate_shifts(scan.image, depth_axis=2, slice_axis=1)
        before.append(np.abs(off_line(motion)).mean())
        after.append(np.abs(off_line(motion + shifts)).mean())
    assert np.mean(after) < 0.5 * np.mean(before)


def test_tilt_blank_and_few_slices() -> None:
    tilted = layered([0, 2, 4, 6, 8, 10, 12, 14])
    assert np.ptp(estimate_shifts(tilted, depth_axis=2, slice_axis=1)) <= 1
    blank = layered([0, 3, 0, 3, 0, 3, 0, 3])
    blank[:, 3] = 0  # a blink
    found = estimate_shifts(blank, depth_axis=2, slice_axis=1)
    rest = [0, 1, 2, 4, 5, 6, 7]
    assert np.abs(off_line((found + np.array([0, 3, 0, 3, 0, 3, 0, 3]))[rest])).max() <= 1.5
    assert not estimate_shifts(layered([0, 5]), depth_axis=2, slice_axis=1).any()
    assert not estimate_shifts(np.zeros((8, 6, 40)), depth_axis=2, slice_axis=1).any()


def test_moving_loses_nothing_and_is_undone_exactly() -> None:
    volume = np.random.default_rng(0).integers(0, 9, (5, 4, 7)).astype(np.uint8)
    moves = SliceShifts(depth_axis=2, slice_axis=1, shifts=(0, 2, 3, 1))
    moved = moves.apply(volume, fill=77)
    assert moved.shape == (5, 4, 10)
    assert moved.dtype == np.uint8
    np.testing.assert_array_equal(moved[:, 2, 3:], volume[:, 2])
    assert (moved[:, 2, :3] == 77).all()
    assert (moved[:, 0, 7:] == 77).all()
    np.testing.assert_array_equal(moves.undo(moved), volume)
    repeated = moves.apply(volume, fill=None)
    np.testing.assert_array_equal(repeated[:, 0, 9], volume[:, 0, -1])
    np.testing.assert_array_equal(repeated[:, 1, 0], volume[:, 1, 0])


@pytest.mark.parametrize("upwards", [True, False])
def test_depth_of_a_file_whatever_its_axes(upwards: bool) -> None:
    spec = load_spec("oct_layers")
    affine = oct_affine((6, 5, 4), upwards=upwards)
    assert depth_and_slices(spec, affine) == (2, 1)
    assert deeper(spec, affine) == 1
    assert deeper(spec, affine @ np.diag([1, 1, -1, 1])) == -1
    swapped = affine[:, [1, 2, 0, 3]]
    assert depth_and_slices(spec, swapped) == (1, 0)
    stored = spec.model_copy(update={"orientation": None, "slice_axis": 1})
    assert depth_and_slices(stored, affine) == (2, 1)
    with pytest.raises(ValueError, match="the depth"):
        depth_and_slices(stored.model_copy(update={"slice_axis": 2}), affine)


def oct_case(folder: Path, seed: int = 3) -> tuple[Case, np.ndarray]:
    scan = make_oct(np.random.default_rng(seed), (32, 8, 64))
    files = []
    for name, array in (("image", scan.image), ("label", scan.others["layers"])):
        image = nib.Nifti1Image(array, scan.affine)
        image.header.set_xyzt_units("micron")
        files.append(folder / f"{name}.nii.gz")
        nib.save(image, files[-1])
    return Case("eye", (files[0],), files[1], "eye"), scan.others["layers"]


@pytest.mark.parametrize("spacing", ["native", [24.0, 3.0, None]])
def test_predictions_return_to_their_b_scans(tmp_path: Path, spacing: object) -> None:
    case, label = oct_case(tmp_path)
    spec = load_spec("oct_layers", {**ALIGNED, "spacing": spacing})
    prepared, values = preprocess_case(case, spec)
    assert values is not None
    assert prepared.shifts is not None
    assert max(prepared.shifts.shifts) > 0
    assert prepared.native_shape == label.shape
    assert values.shape == prepared.image.shape[1:]
    # Depth grew, the B-scans (last after orientation) are as many as they were.
    assert prepared.image.shape[1] == 32
    assert prepared.image.shape[3] == 8
    restored = prepared.restore(values.astype(np.uint8))
    if spacing == "native":
        assert prepared.image.shape[2] == 64 + max(prepared.shifts.shifts)
        np.testing.assert_array_equal(restored, label)
    else:
        assert (restored == label).mean() > 0.99
    maps = prepared.restore_probabilities((values[None] == 0).astype(np.float32))
    assert maps.shape == (1, *label.shape)


def test_alignment_is_off_by_default(tmp_path: Path) -> None:
    case, _ = oct_case(tmp_path)
    prepared, _ = preprocess_case(case, load_spec("oct_layers"))
    assert prepared.shifts is None
    assert prepared.image.shape == (1, 32, 64, 8)


def test_a_header_without_depth_is_refused(tmp_path: Path) -> None:
    case, _ = oct_case(tmp_path)
    spec = DataSpec(depth_direction="P", align_slices=True, slice_axis=2, orientation=None)
    with pytest.raises(MedSSLError, match="the depth"):
        preprocess_case(case, spec)
