"""Surface Dice by area: planes, boxes and spheres whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_surface_dice

from medssl.evaluation.surface_elements import nsd, surface_elements

SPACINGS = [(1.0, 1.0, 1.0), (0.7, 0.7, 2.0), (0.5, 1.5, 5.0)]


def box(shape: tuple[int, ...], *ranges: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(*r) for r in ranges)] = True
    return mask


def ball(shape: tuple[int, ...], center: tuple[float, ...], radius: float, spacing) -> np.ndarray:
    grid = np.indices(shape)
    squared = sum(((g - c) * s) ** 2 for g, c, s in zip(grid, center, spacing, strict=True))
    return squared <= radius**2


def measure(prediction: np.ndarray, reference: np.ndarray, spacing, tolerance: float) -> float:
    pieces = [surface_elements(m, spacing) for m in (prediction, reference)]
    return nsd(pieces[0], pieces[1], spacing, tolerance)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_plane_has_the_area_of_a_plane(spacing: tuple[float, ...], axis: int) -> None:
    """Half of a box: away from the rim each piece of the cut measures one face of a voxel."""
    mask = np.zeros((12, 12, 12), dtype=bool)
    np.moveaxis(mask, axis, 0)[:5] = True
    found = surface_elements(mask, spacing)
    inner = np.delete(found.corners, axis, axis=1)
    flat = (found.corners[:, axis] == 5) & (inner > 1).all(1) & (inner < 11).all(1)
    assert flat.sum() == 9**2
    face = math.prod(s for i, s in enumerate(spacing) if i != axis)
    np.testing.assert_allclose(found.sizes[flat], face)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_box_has_the_area_of_its_faces_less_its_edges(spacing: tuple[float, ...]) -> None:
    found = surface_elements(box((30, 30, 30), (5, 25), (4, 24), (6, 26)), spacing)
    x, y, z = (20 * s for s in spacing)
    true = 2 * (x * y + y * z + x * z)
    # Rounded edges: at each corner of the grid along an edge half a face on both sides becomes the
    # slant between their middles.
    cut = 0.0
    for along in range(3):
        length = 19 * spacing[along]
        a, b = (s for i, s in enumerate(spacing) if i != along)
        cut += 4 * length * (a / 2 + b / 2 - math.hypot(a / 2, b / 2))
    corners = 8 * 3 * max(spacing) ** 2  # at most so much is uncertain at the eight corners
    assert found.sizes.sum() == pytest.approx(true - cut, abs=corners)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 2.0), (0.5, 1.5, 0.5)])
def test_a_sphere_has_nearly_the_area_of_a_sphere(spacing: tuple[float, ...]) -> None:
    shape = tuple(int(52 / s) for s in spacing)
    center = tuple((n - 1) / 2 for n in shape)
    area = surface_elements(ball(shape, center, 20.0, spacing), spacing).sizes.sum()
    # Steps have more surface than slopes, the more so the less alike the sides of a voxel are.
    assert 1.0 < area / (4 * math.pi * 20.0**2) < 1.18


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 2.0), (0.5, 1.5, 0.5)])
def test_concentric_spheres(spacing: tuple[float, ...]) -> None:
    shape = tuple(int(52 / s) for s in spacing)
    center = tuple((n - 1) / 2 for n in shape)
    small, large = (ball(shape, center, r, spacing) for r in (14.0, 20.0))
    voxel = max(spacing)
    assert measure(small, large, spacing, 6.0 - 1.5 * voxel) < 0.02
    assert measure(small, large, spacing, 6.0 + 1.5 * voxel) == 1.0
    # One of them cut off 10 mm from its middle: the cap that is lost has an area of 2 pi r h, the
    # disc in its place pi (r^2 - 10^2), and nearly all of both is farther than 1 mm from the other.
    cut = large.copy()
    cut[int(center[0] + 10 / spacing[0]) + 1 :] = False
    cap, disc, sphere = 2 * math.pi * 20 * 10, math.pi * (20**2 - 10**2), 4 * math.pi * 20**2
    within = 2 * (sphere - cap) / (2 * sphere - cap + disc)
    assert measure(large, cut, spacing, 1.0) == pytest.approx(within, abs=0.05)


def test_thick_slices_weigh_what_they_measure() -> None:
    """A column that is right and a plate that is not there, on voxels of 1 x 1 x 5 mm.

    The column measures 4 x 4 x 50 mm, 832 mm2 on both sides; the plate 20 x 20 x 5 mm, 1200 mm2.
    Counted in voxels (128 twice, and 400) the plate would weigh twice as much.
    """
    spacing = (1.0, 1.0, 5.0)
    reference = box((60, 40, 14), (5, 9), (5, 9), (2, 12))
    prediction = reference | box((60, 40, 14), (30, 50), (10, 30), (6, 7))
    assert measure(prediction, reference, spacing, 2.0) == pytest.approx(
        2 * 832 / (2 * 832 + 1200), abs=0.01
    )
    assert abs(2 * 128 / (2 * 128 + 400) - 2 * 832 / (2 * 832 + 1200)) > 0.15


def test_a_distance_equal_to_the_tolerance_is_within() -> None:
    a = box((20, 9, 9), (2, 5), (2, 7), (2, 7))
    b = box((20, 9, 9), (5, 8), (2, 7), (2, 7))
    assert measure(a, b, (0.7, 1, 1), 2.1) == 1.0
    assert measure(a, b, (0.7, 1, 1), 2.09) < 1.0


def test_the_border_of_the_array_is_surface() -> None:
    full = np.ones((6, 6, 6), dtype=bool)
    inside = box((8, 8, 8), (1, 7), (1, 7), (1, 7))
    spacing = (1.0, 2.0, 3.0)
    assert surface_elements(full, spacing).sizes.sum() == pytest.approx(
        surface_elements(inside, spacing).sizes.sum()
    )
    moved = surface_elements(full, spacing, offset=(1, 1, 1))
    np.testing.assert_array_equal(moved.corners, surface_elements(inside, spacing).corners)


def test_of_a_slice_the_contour_counts() -> None:
    mask = box((20, 20), (5, 15), (5, 15))
    found = surface_elements(mask, (2.0, 0.5))
    # Sides of 20 and 5 mm, nine whole pieces each, and four rounded corners.
    assert found.sizes.sum() == pytest.approx(2 * 9 * 2.0 + 2 * 9 * 0.5 + 4 * math.hypot(1.0, 0.25))
    line = surface_elements(box((9,), (2, 6)), (1.0,))
    assert (line.corners.ravel().tolist(), line.sizes.tolist()) == ([2, 6], [1.0, 1.0])


@pytest.mark.parametrize("spacing", [*SPACINGS, (1.5, 0.8)])
def test_the_value_is_that_of_the_published_definition(spacing: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    shape, center = (24, 22, 20)[: len(spacing)], (11, 10, 9)[: len(spacing)]
    scale = tuple(1.0 for _ in spacing)
    reference = ball(shape, center, 8, scale)
    for share in (0.0, 0.03):
        prediction = ball(shape, tuple(c + 1 for c in center), 7, scale)
        prediction ^= rng.random(shape) < share
        for tolerance in (0.5, 1.0, 2.5):
            one_hot = [torch.from_numpy(np.stack((~m, m))[None]) for m in (prediction, reference)]
            expected = compute_surface_dice(
                *one_hot, class_thresholds=[tolerance], spacing=spacing, use_subvoxels=True
            ).item()
            assert measure(prediction, reference, spacing, tolerance) == pytest.approx(
                expected, abs=1e-5
            )
