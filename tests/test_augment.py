"""Augmentation of patches: what moves together, and what must not move."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medssl.data import augment_ops as ops
from medssl.data.augment import Augmenter, Geometry
from medssl.recipe_schema import AugmentSettings, DataSpec

FREE = DataSpec(flip_axes=[0, 1, 2], rot90_planes=[[0, 1], [0, 2], [1, 2]])


def augmenter(
    spec: DataSpec = FREE,
    *,
    spatial_dims: int = 3,
    pairs: list[list[int]] | None = None,
    **settings: object,
) -> Augmenter:
    return Augmenter(
        AugmentSettings(**settings), spec, spatial_dims=spatial_dims, label_pairs=pairs or []
    )


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def coordinates(size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """An image and a label that both name the voxel they came from."""
    flat = np.arange(np.prod(size)).reshape(size)
    return flat[None].astype(np.float32), (flat % 251).astype(np.uint8)


@pytest.mark.parametrize("seed", range(12))
def test_turns_and_flips_move_label_with_image_for_any_patch(seed: int) -> None:
    aug = augmenter()
    geometry = aug.draw_geometry(generator(seed))
    image, label = coordinates(geometry.source_size((6, 4, 5)))
    moved, target = aug.move(image, label, geometry)
    assert target is not None
    assert tuple(target.shape) == (6, 4, 5)
    assert moved.shape == (1, 6, 4, 5)
    np.testing.assert_array_equal(moved[0].numpy() % 251, target)
    assert sorted(moved.flatten().tolist()) == list(range(120))


def test_flips_hit_each_allowed_axis_half_of_the_time() -> None:
    aug = augmenter(DataSpec(flip_axes=[0, 2]))
    drawn = [aug.draw_geometry(generator(s)).flips for s in range(2000)]
    share = [np.mean([axis in flips for flips in drawn]) for axis in range(3)]
    assert share[1] == 0
    assert abs(share[0] - 0.5) < 0.04
    assert abs(share[2] - 0.5) < 0.04
    turns = [augmenter().draw_geometry(generator(s)).turns for s in range(2000)]
    in_plane = [next((k for a, b, k in t if (a, b) == (0, 1)), 0) for t in turns]
    assert all(abs(in_plane.count(k) / 2000 - 0.25) < 0.04 for k in range(4))


def test_turning_is_the_named_rotation() -> None:
    image, label = coordinates((3, 5, 1))
    moved, _ = augmenter().move(image, label, Geometry(turns=((0, 1, 1),)))
    np.testing.assert_array_equal(moved[0, :, :, 0], np.rot90(image[0, :, :, 0]))


def test_settings_switch_geometry_off() -> None:
    aug = augmenter(flip=False, rot90=False)
    assert all(aug.draw_geometry(generator(s)) == Geometry() for s in range(50))


def test_label_pairs_are_swapped_when_axis_0_is_mirrored_and_only_then() -> None:
    aug = augmenter(pairs=[[1, 2]])
    label = np.zeros((4, 2, 2), np.uint8)
    label[0], label[3], label[1, 0, 0], label[2, 0, 0] = 1, 2, 3, 255
    image = label[None].astype(np.float32)
    _, target = aug.move(image, label, Geometry(flips=(0,)))
    assert target is not None
    assert (target[0] == 1).all()  # class 2 came here, and is called 1 on this side
    assert (target[3] == 2).all()
    assert target[2, 0, 0] == 3
    assert target[1, 0, 0] == 255
    for geometry in (Geometry(flips=(1,)), Geometry(turns=((0, 1, 2),))):
        _, target = aug.move(image, label, geometry)
        assert target is not None
        assert sorted(target.unique().tolist()) == [0, 1, 2, 3, 255]
        np.testing.assert_array_equal(target, geometry.move(label, first_axis=0))


def test_slices_leave_the_slice_axis_alone() -> None:
    spec = DataSpec(
        slice_axis=0,
        flip_axes=[0, 1, 2],
        rot90_planes=[[0, 1], [1, 2]],
        rotate_planes=[[0, 2], [1, 2]],
    )
    aug = augmenter(spec, spatial_dims=2, rotate_degrees=20, scale=(0.8, 1.2))
    assert aug.axes == (1, 2)
    assert aug.flip_axes == (1, 2)
    assert aug.turn_planes == ((1, 2),)
    assert aug.rotate_planes == ((1, 2),)
    matrix = ops.affine_matrix([(1, 2, 20.0)], 1.2, aug.axes)
    np.testing.assert_allclose(matrix[0], [1, 0, 0])
    np.testing.assert_allclose(matrix[:, 0], [1, 0, 0])
    image, label = coordinates((1, 16, 16))
    moved, _ = aug.move(image, label, Geometry(matrix=matrix))
    assert moved.shape == (1, 1, 16, 16)


def test_quarter_turn_by_warp_equals_rot90() -> None:
    image, label = coordinates((9, 9, 4))
    matrix = ops.affine_matrix([(0, 1, 90.0)], 1.0, (0, 1, 2))
    moved, target = ops.warp(torch.from_numpy(image), torch.from_numpy(label), matrix)
    turned = [np.rot90(label, k, (0, 1)) for k in (1, 3)]
    assert target is not None
    matches = [np.array_equal(target, t) for t in turned]
    assert sum(matches) == 1
    expected = np.rot90(image[0], 1 if matches[0] else 3, (0, 1))
    np.testing.assert_allclose(moved[0], expected, atol=0.05)


def test_warp_rotates_a_bar_by_the_angle_in_a_patch_that_is_no_cube() -> None:
    size = (48, 24, 6)
    x = np.arange(48) - 23.5
    label = np.zeros(size, np.uint8)
    label[np.abs(x) < 10, 10:14] = 1
    matrix = ops.affine_matrix([(0, 1, 30.0)], 1.0, (0, 1, 2))
    image = torch.from_numpy(label[None].astype(np.float32))
    moved, target = ops.warp(image, torch.from_numpy(label), matrix)
    assert target is not None
    points = np.argwhere(target.numpy()[:, :, 3]) - [23.5, 11.5]
    _, vectors = np.linalg.eigh(points.T @ points)
    angle = np.rad2deg(np.arctan2(vectors[1, 1], vectors[0, 1])) % 180
    assert min(abs(angle - 30), abs(angle - 150)) < 2
    assert abs(int(target.sum()) - int(label.sum())) < 0.06 * label.sum()
    assert (((moved[0] > 0.5) == target).float().mean()) > 0.98  # same geometry for both


def test_warp_zooms_by_the_factor() -> None:
    grid = np.indices((40, 40, 40)) - 19.5
    ball = (np.linalg.norm(grid, axis=0) <= 8).astype(np.uint8)
    matrix = ops.affine_matrix([], 1.5, (0, 1, 2))
    _, target = ops.warp(torch.zeros(1, 40, 40, 40), torch.from_numpy(ball), matrix)
    assert target is not None
    assert float(target.sum()) / ball.sum() == pytest.approx(1.5**3, rel=0.03)


def test_identity_matrix_changes_nothing() -> None:
    image, label = coordinates((7, 5, 3))
    image /= 100
    moved, target = ops.warp(torch.from_numpy(image), torch.from_numpy(label), np.eye(3))
    np.testing.assert_allclose(moved, image, atol=1e-5)
    np.testing.assert_array_equal(target, label)


def zscored(seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(generator(seed).normal(size=(2, 12, 10, 8)).astype(np.float32))


def test_intensity_changes_do_what_they_say() -> None:
    image = zscored()
    out = ops.change_brightness(image, generator(0), shift=(0.3, 0.3))
    std = image.std((1, 2, 3), keepdim=True, correction=0)
    torch.testing.assert_close(out - image, (0.3 * std).expand_as(image))
    out = ops.change_contrast(image, generator(0), factor=(0.5, 0.5))
    torch.testing.assert_close(out.mean((1, 2, 3)), image.mean((1, 2, 3)))
    torch.testing.assert_close(out.std((1, 2, 3)), 0.5 * image.std((1, 2, 3)))
    out = ops.change_gamma(image, generator(0), gamma=(2.0, 2.0))
    torch.testing.assert_close(out.amin((1, 2, 3)), image.amin((1, 2, 3)))
    torch.testing.assert_close(out.amax((1, 2, 3)), image.amax((1, 2, 3)))
    assert (out <= image + 1e-5).all()  # a power above one darkens
    out = ops.add_noise(torch.full((1, 40, 40, 40), 3.0), generator(0), std=(1.0, 1.0))
    assert (out == 3).all()  # no contrast, no noise
    out = ops.add_noise(zscored(), generator(1), std=(0.2, 0.2)) - zscored()
    assert 0.15 < float(out.std()) < 0.25


def test_blur_keeps_constants_and_totals_and_skips_the_slice_axis() -> None:
    flat = torch.full((1, 9, 9, 9), -2.5)
    torch.testing.assert_close(ops.blur(flat, generator(0), sigma=(1.0, 1.0)), flat)
    point = torch.zeros(1, 17, 17, 1)
    point[0, 8, 8, 0] = 1
    out = ops.blur(point, generator(0), sigma=(1.0, 1.0))
    assert float(out.sum()) == pytest.approx(1, abs=1e-5)
    assert float(out[0, 8, 8, 0]) == pytest.approx(1 / (2 * np.pi), rel=0.01)


def test_strong_view_keeps_geometry_and_differs() -> None:
    aug = augmenter(strong_probability=1.0)
    image = torch.zeros(1, 24, 24, 24)
    image[:, 4:14, 6:20, 2:9] = 4.0
    for seed in range(5):
        view = aug.strong(image, generator(seed))
        assert view.shape == image.shape
        assert torch.isfinite(view).all()
        assert not torch.equal(view, image)
        inner, outer = view[image > 0].median(), view[image == 0].median()
        middle = (inner + outer) / 2
        assert inner > outer
        assert ((view > middle) == (image > 0)).float().mean() > 0.97
    same = augmenter(strong_probability=0.0).strong(image, generator(0))
    assert torch.equal(same, image)
    assert same.data_ptr() != image.data_ptr()


@pytest.mark.parametrize("method", ["weak", "strong"])
def test_intensities_come_from_the_generator_alone(method: str) -> None:
    aug = augmenter(intensity_probability=1.0, strong_probability=1.0)
    before = torch.random.get_rng_state()
    image = zscored()
    kept = image.clone()
    first = getattr(aug, method)(image, generator(3))
    second = getattr(aug, method)(image, generator(3))
    assert torch.equal(first, second)
    assert not torch.equal(first, getattr(aug, method)(image, generator(4)))
    assert torch.equal(image, kept)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_moved_patch_shares_no_memory_with_the_volume() -> None:
    volume = np.zeros((1, 4, 4, 4), np.float32)
    label = np.zeros((4, 4, 4), np.uint8)
    moved, target = augmenter().move(volume, label, Geometry())
    moved += 1
    assert target is not None
    target += 1
    assert not volume.any()
    assert not label.any()
