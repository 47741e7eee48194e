"""Overlap and surface metrics against shapes whose answer is known."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest
from surfaces import hausdorff, surface_distances

from medssl.data.datasets.case import LabelMap
from medssl.evaluation import surface
from medssl.evaluation.case_metrics import POLICY, Measures, case_columns, evaluate_case
from medssl.evaluation.overlap import (
    confusion_matrix,
    dice_and_iou,
    dice_per_class,
    of_structures,
)

TWO = LabelMap(values=(0, 1, 7), names=("background", "liver", "tumor"))


def cube(shape: tuple[int, ...], *ranges: tuple[int, int]) -> np.ndarray:
    """Return a boolean box in an array."""
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(*r) for r in ranges)] = True
    return mask


def ball(
    shape: tuple[int, ...], center: tuple[float, ...], radius_mm: float, spacing
) -> np.ndarray:
    """Return the voxels within a physical radius."""
    grid = np.indices(shape)
    squared = sum(((g - c) * s) ** 2 for g, c, s in zip(grid, center, spacing, strict=True))
    return squared <= radius_mm**2


def evaluate(prediction: np.ndarray, reference: np.ndarray, **changes) -> list[dict]:
    """Evaluate with defaults that a test may change."""
    named = {f.name for f in fields(Measures)} & changes.keys()
    measures = Measures(**{"nsd_tolerance": 1.0, **{name: changes.pop(name) for name in named}})
    settings = {"spacing": (1.0,) * reference.ndim, "label_map": TWO, "case_id": "c1"}
    maps = (prediction.astype(np.uint8), reference.astype(np.uint8))
    return evaluate_case(*maps, measures, **{**settings, **changes})


def iou(matrix: np.ndarray) -> np.ndarray:
    """Return the IoU of every class of a confusion matrix."""
    each = [(index,) for index in range(len(matrix))]
    return dice_and_iou(of_structures(matrix, each))[1]


class TestOverlap:
    def test_counts_by_hand(self):
        prediction = np.array([[0, 1, 1], [2, 2, 0]])
        reference = np.array([[0, 1, 2], [2, 1, 255]])
        matrix = confusion_matrix(prediction, reference, 3)
        assert matrix.tolist() == [[1, 0, 0], [0, 1, 1], [0, 1, 1]]
        np.testing.assert_allclose(dice_per_class(matrix), [1, 0.5, 0.5])
        np.testing.assert_allclose(iou(matrix), [1, 1 / 3, 1 / 3])

    def test_class_in_neither_is_nan_and_in_one_is_zero(self):
        matrix = confusion_matrix(np.array([0, 1]), np.array([0, 0]), 3)
        np.testing.assert_array_equal(dice_per_class(matrix)[1:], [0, np.nan])
        np.testing.assert_array_equal(iou(matrix)[1:], [0, np.nan])

    @pytest.mark.parametrize("shape", [(7,), (5, 6), (4, 5, 6), (130, 100, 90)])
    def test_layout_does_not_matter(self, shape):
        rng = np.random.default_rng(0)
        prediction = rng.integers(0, 4, shape, dtype=np.uint8)
        reference = rng.choice(np.array([0, 1, 2, 3, 255], dtype=np.uint8), shape)
        kept = reference != 255
        expected = np.array(
            [
                [np.sum((reference == r) & (prediction == p) & kept) for p in range(4)]
                for r in range(4)
            ]
        )
        fortran = np.asfortranarray(prediction), np.asfortranarray(reference)
        np.testing.assert_array_equal(confusion_matrix(prediction, reference, 4), expected)
        np.testing.assert_array_equal(confusion_matrix(*fortran, 4), expected)
        np.testing.assert_array_equal(confusion_matrix(prediction, fortran[1], 4), expected)

    def test_refuses_values_that_are_no_class(self):
        with pytest.raises(ValueError, match="prediction holds class index 3, expected 0 to 2"):
            confusion_matrix(np.array([0, 3]), np.array([0, 1]), 3)
        with pytest.raises(ValueError, match="reference holds class index -1"):
            confusion_matrix(np.array([0, 1]), np.array([0, -1]), 3)
        with pytest.raises(ValueError, match=r"shape \(2,\) but reference \(3,\)"):
            confusion_matrix(np.zeros(2, int), np.zeros(3, int), 3)


class TestSurface:
    def test_surface_of_a_cube_is_its_shell(self):
        mask = cube((9, 9, 9), (2, 7), (2, 7), (2, 7))
        shell = surface.surface_mask(mask)
        assert shell.sum() == 5**3 - 3**3
        assert not shell[3:6, 3:6, 3:6].any()

    def test_border_of_the_array_is_surface(self):
        assert surface.surface_mask(np.ones((5, 5, 5), dtype=bool)).sum() == 5**3 - 3**3

    def test_cube_shifted_along_one_axis(self):
        # Shift by 2 voxels of 3 mm. Of each shell, the two faces across the shift decide the
        # largest distance: 6 mm.
        spacing = (3.0, 1.0, 1.0)
        reference = cube((30, 20, 20), (5, 15), (5, 15), (5, 15))
        prediction = cube((30, 20, 20), (7, 17), (5, 15), (5, 15))
        d = surface_distances(prediction, reference, spacing)
        # By hand, for the prediction's shell (10^3 - 8^3 = 488 voxels), plane by plane along the
        # shift. The reference's own planes end at 14, so the tube (36 voxels per plane) is at 0 up
        # to plane 14 and 3 or 6 mm off on planes 15 and 16. Plane 16 is the face: its 64 inner
        # voxels are 6 mm from the reference's face at 14. Plane 7 is the other face: its inner
        # voxels lie inside the reference, min(depth to the side 1..4 mm, 6 mm to plane 5).
        depth = np.minimum.outer(*[np.minimum(np.arange(1, 9), np.arange(8, 0, -1))] * 2)
        expected = np.concatenate(
            [np.zeros(36 * 8), np.full(36, 3.0), np.full(36 + 64, 6.0), depth.ravel().astype(float)]
        )
        np.testing.assert_allclose(np.sort(d.to_reference), np.sort(expected))
        np.testing.assert_allclose(np.sort(d.to_prediction), np.sort(expected))
        assert hausdorff(d) == pytest.approx(6.0)
        assert surface.hd95(d) == pytest.approx(6.0)
        assert surface.assd(d) == pytest.approx(expected.mean())

    @pytest.mark.parametrize("gap", [1, 2, 4])
    def test_concentric_cubes(self, gap):
        # From the inner shell every voxel is `gap` planes from the outer one; the outer corners
        # are farther from the inner cube: gap * sqrt(3).
        inner = cube((30, 30, 30), (10, 20), (10, 20), (10, 20))
        low, high = 10 - gap, 20 + gap
        outer = cube((30, 30, 30), (low, high), (low, high), (low, high))
        d = surface_distances(inner, outer, (1, 1, 1))
        np.testing.assert_allclose(d.to_reference, gap)
        assert d.to_prediction.min() == gap
        assert d.to_prediction.max() == pytest.approx(gap * math.sqrt(3))
        assert surface.asd_medpy(d) == gap

    @pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 2.0), (0.5, 1.5, 0.5)])
    def test_concentric_spheres_in_millimeters(self, spacing):
        shape = tuple(int(52 / s) for s in spacing)
        center = tuple((n - 1) / 2 for n in shape)
        small, large = ball(shape, center, 14.0, spacing), ball(shape, center, 20.0, spacing)
        d = surface_distances(small, large, spacing)
        voxel = max(spacing)
        assert surface.assd(d) == pytest.approx(6.0, abs=voxel / 2)
        assert surface.hd95(d) == pytest.approx(6.0, abs=voxel)
        assert hausdorff(d) == pytest.approx(6.0, abs=math.hypot(*spacing))

    @pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 1.5, 4.0)])
    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_parallel_planes_are_as_far_apart_as_they_are(self, spacing, axis):
        # Slabs that reach the border of the array: two voxels more on one side.
        masks = [np.zeros((15, 15, 15), dtype=bool) for _ in range(2)]
        for mask, end in zip(masks, (8, 10), strict=True):
            np.moveaxis(mask, axis, 0)[2:end] = True
        d = surface_distances(*masks, spacing)
        step = 2 * spacing[axis]
        assert hausdorff(d) == pytest.approx(step)
        # One face in two, or a little less: the rim of the slabs touches the border.
        assert surface.hd95(d) == pytest.approx(step)
        plane = np.moveaxis(masks[1], axis, 0)
        assert plane[9].all()
        far = d.to_reference, d.to_prediction
        assert max(np.max(x) for x in far) == pytest.approx(step)

    def test_definitions_differ_as_stated(self):
        # One stray voxel among ten: to_reference is 9 zeros and one 10, to_prediction all zero.
        d = surface.SurfaceDistances(np.array([0.0] * 9 + [10.0]), np.zeros(10))
        assert surface.hd95(d) == pytest.approx(np.percentile([0] * 9 + [10], 95))
        assert surface.hd95(d) == pytest.approx(5.5)
        assert surface.hd95_medpy(d) == pytest.approx(0.5)
        assert surface.assd(d) == pytest.approx(0.5)
        assert surface.asd_medpy(d) == pytest.approx(1.0)

    def test_both_algorithms_agree(self, monkeypatch):
        rng = np.random.default_rng(3)
        reference = ball((40, 36, 20), (20, 18, 10), 12, (1, 1, 2))
        prediction = reference ^ (rng.random(reference.shape) < 0.05)
        results = []
        for forced in (0, 10**9):  # always the KD-tree, always the distance transform
            monkeypatch.setattr(surface, "_BOX_VOXELS_PER_QUERY", forced)
            results.append(surface_distances(prediction, reference, (0.9, 0.8, 2.5)))
        np.testing.assert_allclose(results[0].to_reference, results[1].to_reference, atol=1e-9)
        np.testing.assert_allclose(results[0].to_prediction, results[1].to_prediction, atol=1e-9)
        assert results[0].to_reference.max() > 5

    def test_against_all_pairs(self):
        rng = np.random.default_rng(5)
        a, b = rng.random((2, 9, 8, 7)) < 0.3
        spacing = np.array([1.0, 0.5, 3.0])
        pa, pb = surface.surface_points(a) * spacing, surface.surface_points(b) * spacing
        pairs = np.linalg.norm(pa[:, None] - pb[None], axis=-1)
        d = surface_distances(a, b, spacing)
        np.testing.assert_allclose(d.to_reference, pairs.min(1), atol=1e-12)
        np.testing.assert_allclose(d.to_prediction, pairs.min(0), atol=1e-12)

    def test_a_single_slice_has_a_contour(self):
        flat = cube((20, 20), (5, 15), (5, 15)), cube((20, 20), (6, 16), (5, 15))
        d2 = surface_distances(*flat, (1.5, 1.0))
        d3 = surface_distances(flat[0][..., None], flat[1][..., None], (1.5, 1.0, 8.0))
        assert len(d2.to_reference) == 36
        np.testing.assert_array_equal(d2.to_reference, d3.to_reference)

    def test_refuses_an_empty_mask(self):
        empty, full = np.zeros((4, 4), bool), np.ones((4, 4), bool)
        with pytest.raises(ValueError, match="the prediction is empty"):
            surface_distances(empty, full, (1, 1))
        with pytest.raises(ValueError, match="the reference is empty"):
            surface_distances(full, empty, (1, 1))
        with pytest.raises(ValueError, match="do not fit together"):
            surface_distances(full, full, (1, 1, 1))


class TestGolden:
    """The literature's numbers, computed with medpy and MONAI."""

    @pytest.fixture
    def masks(self) -> dict[str, np.ndarray]:
        z, y, x = np.mgrid[0:24, 0:28, 0:30]
        p = ((z - 11) / 7) ** 2 + ((y - 13) / 8) ** 2 + ((x - 14) / 9) ** 2 <= 1
        g = ((z - 12) / 6) ** 2 + ((y - 14) / 9) ** 2 + ((x - 13) / 7) ** 2 <= 1
        g[0:2, 0:2, 0:2] = True
        p2 = p.copy()
        p2[20:24, 24:28, 26:30] = True
        return {"P": p, "P2": p2, "G": g}

    @pytest.mark.parametrize("name", ["P", "P2"])
    def test_medpy(self, golden, masks, name):
        expected = golden("bcp")["checks"]["10_inference_metrics"][f"metrics_{name}_vs_G"]
        p, g = masks[name], masks["G"]
        d = surface_distances(p, g, (1, 1, 1))
        matrix = confusion_matrix(p, g, 2)
        found = {
            "dice": dice_per_class(matrix)[1],
            "jaccard": iou(matrix)[1],
            "hd95": surface.hd95_medpy(d),
            "asd_pred_to_gt": surface.asd_medpy(d),
            "asd_gt_to_pred": d.to_prediction.mean(),
            "assd": surface.assd(d),
            "hd": hausdorff(d),
        }
        assert found == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize("name", ["P", "P2"])
    def test_monai(self, golden, masks, name):
        expected = golden("bcp")["checks"]["10_inference_metrics"][f"monai_{name}_vs_G"]
        d = surface_distances(masks[name], masks["G"], (1, 1, 1))
        assert surface.hd95(d) == pytest.approx(expected["hd95_percentile95"], rel=1e-6)
        assert surface.asd_medpy(d) == pytest.approx(expected["asd_symmetric_False"], rel=1e-6)

    def test_columns(self, golden, masks):
        expected = golden("bcp")["checks"]["10_inference_metrics"]["metrics_P2_vs_G"]
        one = LabelMap((0, 1), ("background", "atrium"))
        for spacing in ((1, 1, 1), (0.625, 0.625, 0.625), (1.5, 1.5, 10)):
            row = evaluate(
                masks["P2"], masks["G"], label_map=one, spacing=spacing, voxel_metrics=True
            )[0]
            assert row["hd95_medpy_vox"] == pytest.approx(expected["hd95"], rel=1e-9)
            assert row["asd_medpy_vox"] == pytest.approx(expected["asd_pred_to_gt"], rel=1e-9)
        assert row["hd95_mm"] != pytest.approx(expected["hd95"])


class TestCase:
    def test_columns_and_units(self):
        empty = np.zeros((4, 4, 4))
        columns = ["case", "label", "name", "dice", "iou", "hd95_mm", "assd_mm", "nsd"]
        columns += ["volume_reference_mm3", "volume_prediction_mm3", "status"]
        assert list(evaluate(empty, empty)[0]) == columns == case_columns()
        row = evaluate(empty, empty, unit="um", voxel_metrics=True)[0]
        assert list(row) == case_columns("um", voxel_metrics=True)
        assert list(row)[5:7] == ["hd95_um", "assd_um"]
        assert list(row)[-2:] == ["hd95_medpy_vox", "asd_medpy_vox"]

    def test_values_of_a_shifted_cube(self):
        reference = cube((30, 20, 20), (5, 15), (5, 15), (5, 15))
        prediction = cube((30, 20, 20), (7, 17), (5, 15), (5, 15))
        row = evaluate(prediction, reference, spacing=(3.0, 1.0, 1.0), nsd_tolerance=6.0)[0]
        assert row["case"] == "c1"
        assert (row["label"], row["name"], row["status"]) == (1, "liver", "ok")
        assert row["dice"] == pytest.approx(0.8)
        assert row["iou"] == pytest.approx(800 / 1200)
        assert row["hd95_mm"] == pytest.approx(6.0)
        assert row["nsd"] == 1.0
        assert row["volume_reference_mm3"] == row["volume_prediction_mm3"] == pytest.approx(3000)

    def test_four_statuses(self):
        labels = LabelMap((0, 1, 2, 3, 4), ("background", "ok", "missed", "extra", "absent"))
        reference = np.zeros((12, 16, 9))
        prediction = np.zeros((12, 16, 9))
        reference[1:4, 1:4, 1:4] = prediction[1:4, 1:4, 1:4] = 1
        reference[6:8, 6:8, 6:8] = 2
        prediction[9:11, 9:11, 2:4] = 3
        rows = evaluate(
            prediction, reference, label_map=labels, spacing=(1, 0.75, 4 / 3), voxel_metrics=True
        )
        assert [r["status"] for r in rows] == ["ok", "missed", "false_positive", "absent"]
        ok, missed, extra, absent = rows
        assert (ok["dice"], ok["iou"], ok["nsd"], ok["hd95_mm"], ok["assd_mm"]) == (1, 1, 1, 0, 0)
        for row in (missed, extra):
            assert (row["dice"], row["iou"], row["nsd"]) == (0, 0, 0)
            assert row["hd95_mm"] == row["assd_mm"] == pytest.approx(math.sqrt(3 * 12**2))
            assert row["hd95_medpy_vox"] == pytest.approx(math.sqrt(12**2 + 16**2 + 9**2))
        numbers = ("dice", "iou", "hd95_mm", "assd_mm", "nsd", "hd95_medpy_vox", "asd_medpy_vox")
        assert all(math.isnan(absent[key]) for key in numbers)
        assert missed["volume_prediction_mm3"] == 0
        assert missed["volume_reference_mm3"] == pytest.approx(8)
        assert absent["volume_reference_mm3"] == absent["volume_prediction_mm3"] == 0

    def test_penalty_is_never_better_than_a_wrong_prediction(self):
        reference = np.zeros((10, 10, 10))
        wrong = np.zeros((10, 10, 10))
        reference[0, 0, 0] = wrong[9, 9, 9] = 1
        missed = evaluate(np.zeros_like(wrong), reference)[0]
        assert missed["hd95_mm"] >= evaluate(wrong, reference)[0]["hd95_mm"] > 15

    def test_legacy_zero_only_on_request_and_only_for_voxel_metrics(self):
        reference = np.zeros((6, 6, 6))
        reference[2:4, 2:4, 2:4] = 1
        empty = np.zeros_like(reference)
        row = evaluate(empty, reference, voxel_metrics=True, legacy_zero=True)[0]
        assert (row["hd95_medpy_vox"], row["asd_medpy_vox"]) == (0, 0)
        assert row["hd95_mm"] > 0
        row = evaluate(reference, empty, voxel_metrics=True, legacy_zero=True)[0]
        assert row["hd95_medpy_vox"] > 0

    def test_ignored_voxels_count_for_nothing(self):
        reference = np.zeros((20, 20, 20))
        reference[5:15, 5:15, 5:15] = 1
        prediction = reference.copy()
        annotated = evaluate(prediction, reference)[0]
        reference[:, :, 12:] = 255
        prediction[:, :, 16:] = 2  # a false structure and wild values, all in unannotated voxels
        prediction[0, 0, 19] = 255
        liver, tumor = evaluate(prediction, reference)
        assert (liver["dice"], liver["nsd"], liver["hd95_mm"]) == (1, 1, 0)
        assert tumor["status"] == "absent"
        assert annotated["volume_reference_mm3"] == 1000
        assert liver["volume_reference_mm3"] == liver["volume_prediction_mm3"] == 700

    def test_ignored_voxels_hide_an_error(self):
        reference = np.zeros((20, 20, 20))
        reference[5:15, 5:15, 5:15] = 1
        prediction = reference.copy()
        prediction[5:15, 5:15, 15:18] = 1
        assert evaluate(prediction, reference)[0]["hd95_mm"] == pytest.approx(3)
        reference[:, :, 15:] = 255
        assert evaluate(prediction, reference)[0]["hd95_mm"] == 0

    def test_everything_ignored_is_absent(self):
        rows = evaluate(np.ones((4, 4, 4)), np.full((4, 4, 4), 255))
        assert [r["status"] for r in rows] == ["absent", "absent"]

    def test_a_structure_does_not_depend_on_the_others(self):
        rng = np.random.default_rng(1)
        reference = np.zeros((24, 24, 24))
        reference[4:12, 4:12, 4:12] = 1
        reference[14:20, 14:20, 14:20] = 2
        prediction = np.roll(reference, 1, 0)
        before = evaluate(prediction, reference, voxel_metrics=True)
        noisy = np.where((prediction == 0) & (rng.random(prediction.shape) < 0.1), 2, prediction)
        after = evaluate(noisy, reference, voxel_metrics=True)
        assert after[0] == before[0]
        assert after[1]["dice"] < before[1]["dice"]

    def test_two_dimensions(self):
        reference, prediction = np.zeros((2, 16, 16))
        reference[4:10, 4:10] = prediction[5:11, 4:10] = 1
        row = evaluate(prediction, reference, spacing=(2.0, 0.5))[0]
        assert row["dice"] == pytest.approx(5 / 6)
        assert row["volume_reference_mm3"] == pytest.approx(36)

    def test_bad_arguments(self):
        good = np.zeros((4, 4, 4))
        with pytest.raises(ValueError, match="do not fit together"):
            evaluate(good, np.zeros((4, 4, 5)))
        with pytest.raises(ValueError, match="spacing must be positive"):
            evaluate(good, good, spacing=(1, 0, 1))
        with pytest.raises(ValueError, match="nsd_tolerance"):
            evaluate(good, good, nsd_tolerance=-1)
        with pytest.raises(ValueError, match="class index 9"):
            evaluate(good + 9, good)
        with pytest.raises(ValueError, match="prediction must hold integers, got float32"):
            evaluate_case(
                np.zeros((2, 2), np.float32),
                np.zeros((2, 2), np.uint8),
                Measures(1),
                spacing=(1, 1),
                label_map=TWO,
                case_id="x",
            )

    def test_policy_names_every_special_status(self):
        assert len(POLICY.splitlines()) <= 4
        assert max(len(line) for line in POLICY.splitlines()) < 80
        assert all(word in POLICY for word in ("missed", "false_positive", "absent", "annotation"))
