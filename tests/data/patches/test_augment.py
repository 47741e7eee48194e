"""Augmentation of patches: what moves together, and what must not move."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from medssl.data.patches import augment_ops as ops
from medssl.data.patches.augment import UNCHANGED, WEAK, Augmenter, Geometry
from medssl.data.patches.augment_batch import change_intensities, finish
from medssl.settings.augment import AugmentSettings
from medssl.settings.spec import DataSpec

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
    assert moved is not None
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
    assert moved is not None
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
    moved, target = warp(image, label, matrix)
    flat, flat_target = warp(image[:, 0], label[0], matrix[1:, 1:])  # as 2D patches are
    torch.testing.assert_close(moved[:, 0], flat)
    assert torch.equal(target[0], flat_target)


def warp(
    image: np.ndarray, label: np.ndarray, matrix: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """Warp one patch."""
    moved, target = ops.warp(
        torch.from_numpy(image)[None], torch.from_numpy(label)[None], matrix[None]
    )
    assert moved is not None
    assert target is not None
    return moved[0], target[0]


def test_quarter_turn_by_warp_equals_rot90() -> None:
    image, label = coordinates((9, 9, 4))
    matrix = ops.affine_matrix([(0, 1, 90.0)], 1.0, (0, 1, 2))
    moved, target = warp(image, label, matrix)
    turned = [np.rot90(label, k, (0, 1)) for k in (1, 3)]
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
    moved, target = warp(label[None].astype(np.float32), label, matrix)
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
    _, target = warp(np.zeros((1, 40, 40, 40), np.float32), ball, matrix)
    assert float(target.sum()) / ball.sum() == pytest.approx(1.5**3, rel=0.03)


def test_identity_matrix_changes_nothing() -> None:
    image, label = coordinates((7, 5, 3))
    almost = np.eye(3) + 1e-9  # goes through the sampling, unlike the very identity
    moved, target = warp(image / 100, label, almost)
    np.testing.assert_allclose(moved, image / 100, atol=1e-5)
    np.testing.assert_array_equal(target, label)


def test_no_image_is_needed_to_warp_a_label() -> None:
    image, label = coordinates((9, 9, 4))
    matrix = ops.affine_matrix([(0, 1, 20.0)], 1.1, (0, 1, 2))
    none, target = ops.warp(None, torch.from_numpy(label)[None], matrix[None])
    assert none is None
    assert target is not None
    assert torch.equal(target[0], warp(image, label, matrix)[1])


def zscored(seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(generator(seed).normal(size=(1, 2, 12, 10, 8)).astype(np.float32))


def row(**values: float) -> np.ndarray:
    """Intensity changes of a batch of one patch."""
    names = ("blur", "gamma", "contrast", "brightness", "noise", "seed0", "seed1")
    out = UNCHANGED.copy()
    for name, value in values.items():
        out[names.index(name)] = value
    return out[None]


def test_intensity_changes_do_what_they_say() -> None:
    image, spatial = zscored(), (2, 3, 4)
    out = change_intensities(image, row(brightness=0.3))
    std = image.std(spatial, keepdim=True, correction=0)
    torch.testing.assert_close(out - image, (0.3 * std).expand_as(image))
    out = change_intensities(image, row(contrast=0.5))
    torch.testing.assert_close(out.mean(spatial), image.mean(spatial))
    torch.testing.assert_close(out.std(spatial), 0.5 * image.std(spatial))
    out = change_intensities(image, row(gamma=2.0))
    torch.testing.assert_close(out.amin(spatial), image.amin(spatial))
    torch.testing.assert_close(out.amax(spatial), image.amax(spatial))
    assert (out <= image + 1e-5).all()  # a power above one darkens
    out = change_intensities(torch.full((1, 1, 40, 40, 40), 3.0), row(noise=1.0))
    assert (out == 3).all()  # no contrast, no noise
    out = change_intensities(image, row(noise=0.2, seed0=5)) - image
    assert 0.15 < float(out.std()) < 0.25


def test_changes_follow_one_another() -> None:
    """Contrast, brightness and noise are one map; step by step it is the same."""
    image = zscored()
    noise = {"noise": 0.2, "seed0": 7, "seed1": 9}
    together = change_intensities(image, row(contrast=0.6, brightness=-0.3, gamma=1.4, **noise))
    out = image
    for change in ({"gamma": 1.4}, {"contrast": 0.6}, {"brightness": -0.3}, noise):
        out = change_intensities(out, row(**change))
    torch.testing.assert_close(together, out)


def test_blur_keeps_constants_and_totals_and_skips_the_slice_axis() -> None:
    flat = torch.full((1, 1, 9, 9, 9), -2.5)
    torch.testing.assert_close(ops.blur(flat, np.array([1.0])), flat)
    point = torch.zeros(1, 1, 17, 17, 1)
    point[0, 0, 8, 8, 0] = 1
    out = ops.blur(point, np.array([1.0]))
    assert float(out.sum()) == pytest.approx(1, abs=1e-5)
    assert float(out[0, 0, 8, 8, 0]) == pytest.approx(1 / (2 * np.pi), rel=0.01)
    sharp = ndimage.gaussian_filter(zscored()[0, 0].numpy(), 0.9, mode="nearest", radius=3)
    torch.testing.assert_close(
        ops.blur(zscored()[:, :1], np.array([0.9]))[0, 0], torch.from_numpy(sharp)
    )


def test_strong_view_keeps_geometry_and_differs() -> None:
    aug = augmenter(strong_probability=1.0)
    image = torch.zeros(1, 1, 24, 24, 24)
    image[..., 4:14, 6:20, 2:9] = 4.0
    for seed in range(5):
        view = change_intensities(image, aug.draw_strong(generator(seed))[None])
        assert view.shape == image.shape
        assert torch.isfinite(view).all()
        assert not torch.equal(view, image)
        inner, outer = view[image > 0].median(), view[image == 0].median()
        middle = (inner + outer) / 2
        assert inner > outer
        assert ((view > middle) == (image > 0)).float().mean() > 0.97
    drawn = augmenter(strong_probability=0.0).draw_strong(generator(0))
    patch = {"image": image, "changes_0": torch.from_numpy(drawn)[None]}
    out = finish(patch, torch.device("cpu"))
    assert torch.equal(out["view_0"], out["image"])
    assert out["view_0"].data_ptr() != out["image"].data_ptr()


@pytest.mark.parametrize("view", ["weak", "strong"])
def test_intensities_come_from_the_generator_alone(view: str) -> None:
    aug = augmenter(intensity_probability=1.0, strong_probability=1.0)
    before = torch.random.get_rng_state()
    image = zscored()
    kept = image.clone()

    def change(seed: int) -> torch.Tensor:
        return change_intensities(image, getattr(aug, f"draw_{view}")(generator(seed))[None])

    assert torch.equal(change(3), change(3))
    assert not torch.equal(change(3), change(4))
    assert torch.equal(image, kept)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_changes_are_drawn_as_often_and_as_strong_as_said() -> None:
    aug = augmenter(intensity_probability=0.3)
    rows = np.stack([aug.draw_weak(generator(seed)) for seed in range(2000)])
    changed = (rows != UNCHANGED)[:, :5]
    assert (abs(changed.mean(0) - 0.3) < 0.04).all()
    for column, limits in enumerate(
        (WEAK.blur, WEAK.gamma, WEAK.contrast, WEAK.brightness, WEAK.noise)
    ):
        values = rows[changed[:, column], column]
        assert limits[0] <= values.min() <= values.max() <= limits[1]
    seeds = rows[changed[:, 4], 5:]
    assert len({tuple(s) for s in seeds}) == len(seeds)


def test_noise_is_normal_and_a_function_of_its_seed() -> None:
    host = torch.device("cpu")
    seeds = np.array([[1, 2], [2, 2], [1, 3], [2**32 - 1, 0]])
    noise = ops.gaussian_noise(seeds, (3, 41, 37, 21), host)
    assert noise.shape == (4, 3, 41, 37, 21)
    flat = noise.flatten(1).double()
    n = flat.shape[1]
    assert (flat.mean(1).abs() < 4 / n**0.5).all()
    assert ((flat.std(1) - 1).abs() < 4 / (2 * n) ** 0.5).all()
    for values in flat:
        assert stats.kstest(values.numpy(), "norm").pvalue > 1e-3
        for lag in (1, 2, 21, n // 2):
            assert abs(float((values[lag:] * values[:-lag]).mean())) < 5 / (n - lag) ** 0.5
    assert (torch.corrcoef(flat) - torch.eye(4, dtype=torch.double)).abs().max() < 5 / n**0.5
    alone = ops.gaussian_noise(seeds[2:3], (3, 41, 37, 21), host)
    assert torch.equal(alone[0], noise[2])


def test_moved_patch_shares_no_memory_with_the_volume() -> None:
    volume = np.zeros((1, 4, 4, 4), np.float32)
    label = np.zeros((4, 4, 4), np.uint8)
    moved, target = augmenter().move(volume, label, Geometry())
    assert moved is not None
    assert target is not None
    moved += 1
    target += 1
    assert not volume.any()
    assert not label.any()
