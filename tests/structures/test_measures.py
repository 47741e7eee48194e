"""Shapes with known figures: voxels, boxes, a ball; outlines with holes and islands."""

from __future__ import annotations

import math

import numpy as np
import pytest
from polygons import inside
from scipy import ndimage

from medssl.data.datasets.case import LabelMap
from medssl.structures.contours import polygons_of, signed_area
from medssl.structures.mesh import mesh_of
from medssl.structures.statistics import statistics_of, structure_statistics

pytest.importorskip("skimage")


def box(*size: int) -> np.ndarray:
    mask = np.zeros([n + 3 for n in size], bool)
    mask[tuple(slice(1, 1 + n) for n in size)] = True
    return mask


@pytest.mark.parametrize(
    ("size", "spacing"),
    [((1, 1, 1), (1, 1, 1)), ((2, 1, 1), (1, 1, 1)), ((4, 3, 2), (0.5, 2.0, 3.0))],
    ids=["one voxel", "two voxels", "box of unequal edges"],
)
def test_a_box_is_cut_at_its_edges_halfway(
    size: tuple[int, ...], spacing: tuple[float, ...]
) -> None:
    """The surface runs through the middle between voxels, so edges and corners are bevelled."""
    angle = 0.5
    turn = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0]])
    affine = np.eye(4)
    affine[:3, :3] = np.vstack([turn, [0, 0, 1]]) @ np.diag(spacing)
    affine[:3, 3] = 7, -5, 3
    s = np.array(spacing, float)
    a, b, c = (np.array(size) - 1) * s
    p, q, r = s / 2
    volume = a * b * c + 2 * (a * b * r + b * c * p + a * c * q)
    volume += 2 * (a * q * r + b * p * r + c * p * q) + 8 * p * q * r / 6
    area = 2 * (a * b + b * c + a * c)
    area += 4 * (a * math.hypot(q, r) + b * math.hypot(p, r) + c * math.hypot(p, q))
    area += 8 * math.sqrt((p * q) ** 2 + (q * r) ** 2 + (p * r) ** 2) / 2
    found = structure_statistics(box(*size), affine, [])
    assert found["voxels"] == math.prod(size)
    assert found["voxel_volume_mm3"] == pytest.approx(math.prod(size) * math.prod(spacing))
    assert found["mesh_volume_mm3"] == pytest.approx(volume, rel=1e-5)
    assert found["surface_area_mm2"] == pytest.approx(area, rel=1e-5)
    ends = np.array([a, b, c])
    longest = max(
        math.dist(np.zeros(3), ends + 2 * half * np.eye(3)[i]) for i, half in enumerate((p, q, r))
    )
    assert found["maximum_3d_diameter_mm"] == pytest.approx(longest, rel=1e-5)


def test_two_voxels_by_hand() -> None:
    found = structure_statistics(box(2, 1, 1), np.eye(4), [])
    assert found["mesh_volume_mm3"] == pytest.approx(2 / 3)  # a prism, and a pyramid at each end
    assert found["surface_area_mm2"] == pytest.approx(4 * math.sqrt(0.5) + math.sqrt(3))
    assert found["maximum_3d_diameter_mm"] == pytest.approx(2)


def test_a_ball_and_its_intensities() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(21) - 10] * 3, indexing="ij"))
    mask = (grid**2).sum(0) <= 64
    values = np.where(mask, 10.0, 999.0)
    values[10, 10, 10] = 10 + mask.sum()
    other = np.full(mask.shape, 3, np.int16)
    found = structure_statistics(mask, np.diag([1, -1, 1, 1.0]), [values, other], "um")
    ball = 4 / 3 * math.pi * 8**3 * 1e9
    assert found["mesh_volume_um3"] == pytest.approx(ball, rel=0.03)
    assert found["voxel_volume_um3"] == pytest.approx(mask.sum() * 1e9)
    assert found["maximum_3d_diameter_um"] == pytest.approx(17000)  # half a voxel at either end
    assert found["mean_1"] == pytest.approx(11)
    n = int(mask.sum())
    assert found["standard_deviation_1"] == pytest.approx(math.sqrt(n - 1))  # N below, not N - 1
    assert (found["mean_2"], found["standard_deviation_2"]) == (3, 0)


def test_what_was_not_found_has_no_size_and_no_shape() -> None:
    labels = LabelMap((0, 5, 9), ("background", "a", "b"))
    values = np.zeros((3, 3, 3), np.uint16)
    values[0, 0, 0] = 9  # at the border the surface closes
    image = np.ones(values.shape)
    first, second = statistics_of(values, np.eye(4), [image], labels)
    assert (first["label"], first["name"], first["mesh_volume_mm3"]) == (5, "a", 0)
    assert math.isnan(first["mean"])
    assert math.isnan(first["maximum_3d_diameter_mm"])
    assert second["mesh_volume_mm3"] == pytest.approx(1 / 6)


def test_triangles_look_outwards_however_the_axes_run() -> None:
    for signs in ((1, 1, 1), (-1, 1, 1), (-1, -1, 1), (-1, -1, -1)):
        mesh = mesh_of(box(3, 2, 2), np.diag([*signs, 1.0]))
        assert mesh.volume > 0
        middles = mesh.vertices[mesh.faces].mean(1) - mesh.vertices.mean(0)
        assert ((middles * mesh.normals).sum(1) > 0).all()
        assert mesh.in_lps().volume == pytest.approx(mesh.volume)


def test_outlines_hold_each_pixel_once_with_holes_and_islands_in_them() -> None:
    ring = np.zeros((14, 15), bool)
    ring[0:12, 1:13] = True  # at the border of the picture
    ring[2:9, 3:10] = False
    ring[10, 11] = False
    ring[4:7, 5:8] = True  # an island in the hole
    masks = [ring]
    rng = np.random.default_rng(0)
    masks += [ndimage.gaussian_filter(rng.normal(size=(20, 17)), 1) > 0.1 for _ in range(4)]
    for mask in masks:
        polygons = polygons_of(mask)
        assert np.array_equal(inside(polygons, mask.shape), mask)
        pieces = ndimage.label(mask)[1]
        around = ndimage.label(~np.pad(mask, 1), np.ones((3, 3)))[1]
        assert len(polygons) == pieces
        # Bevelled corners cost half a pixel a piece, and give half a pixel back in each hole.
        area = sum(abs(signed_area(p)) for p in polygons)
        assert area == pytest.approx(mask.sum() - pieces / 2 + (around - 1) / 2)
    assert polygons_of(np.zeros((4, 4), bool)) == []
