"""Classes on another grid are brought back by a vote of the voxels around."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from medssl.data.preprocessing import prepared_grid, votes
from medssl.data.preprocessing.prepared_grid import Grid
from medssl.inference.postprocess import argmax_classes, class_margins, keep_largest_components


def grid_of(native: tuple[int, ...], prepared: tuple[int, ...], step: float, **changes) -> Grid:
    """A file of ``native`` voxels, ``step`` prepared voxels apart."""
    matrix = np.diag([step, step, step, 1.0])
    options = {"backward": None, "corners": False, **changes}
    return Grid(native, options["backward"], native, matrix, prepared, prepared, options["corners"])


def line(*values: int) -> np.ndarray:
    return np.array(values, np.uint8).reshape(-1, 1, 1)


def test_a_line_by_hand() -> None:
    grid = Grid((5, 1, 1), None, (5, 1, 1), np.diag([0.75, 1, 1, 1.0]), (4, 1, 1), (4, 1, 1), False)
    # Voxels at 0, 0.75, 1.5, 2.25, 3 of 0 1 1 0: the second is 3/4 of 1, the third all of it.
    assert grid.restore(line(0, 1, 1, 0), order=0).ravel().tolist() == [0, 1, 1, 1, 0]
    # Half and half: the nearest decides, which rounds up.
    assert grid.restore(line(0, 0, 2, 2), order=0).ravel().tolist() == [0, 0, 2, 2, 2]


def test_who_is_surer_has_more_votes() -> None:
    # Voxels at 0, 0.75, 1.5, 2.25, 3 of 0 0 2 2; the third is unsure, the others are certain.
    grid = Grid((5, 1, 1), None, (5, 1, 1), np.diag([0.75, 1, 1, 1.0]), (4, 1, 1), (4, 1, 1), False)
    found = grid.restore(line(0, 0, 2, 2), order=0, margins=line(255, 255, 80, 255))
    assert found.ravel().tolist() == [0, 0, 0, 2, 2]  # at 1.5: 128 / 256 against 40 / 256
    found = grid.restore(line(0, 2, 2, 0), order=0, margins=line(255, 50, 255, 20))
    assert found.ravel().tolist() == [0, 0, 2, 2, 0]  # at 0.75: 64 / 256 against 38 / 256


@pytest.mark.parametrize("slab", [1, 4_000_000])
@pytest.mark.parametrize("step", [0.6, 1.4])
def test_two_classes_come_back_as_their_probabilities_would(
    step: float, slab: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(votes, "SLAB", slab)
    rng = np.random.default_rng(0)
    one = ndimage.zoom(rng.random((5, 6, 4)), 4, order=1).astype(np.float32)
    probabilities = torch.from_numpy(np.stack([1 - one, one]))
    native = tuple(int((n - 1) / step) + 1 for n in one.shape)
    grid = grid_of(native, one.shape, step)
    classes, margins = argmax_classes(probabilities), class_margins(probabilities)
    found = grid.restore(classes, order=0, margins=margins)
    interpolated = grid.restore(one, order=1)
    assert 0.2 < (found == 1).mean() < 0.8
    unsure = np.abs(interpolated - 0.5) < 4e-3  # margins are rounded, and the nearest breaks ties
    np.testing.assert_array_equal((found == 1)[~unsure], (interpolated > 0.5)[~unsure])
    assert unsure.mean() < 0.05
    assert (grid.restore(classes, order=0) != found).mean() > 0.01  # of certain voxels it differs


def test_margins_by_hand() -> None:
    # Voxels side by side: certain, a tie of two, 0.6 before 0.3, and a tie of all.
    probabilities = torch.tensor([[1.0, 0.5, 0.1, 1 / 3], [0, 0.5, 0.3, 1 / 3], [0, 0, 0.6, 1 / 3]])
    margins = class_margins(probabilities[..., None, None])
    assert margins.ravel().tolist() == [255, 0, 76, 0]  # 0.3 x 255 = 76.5, to the even number
    assert margins.dtype == np.uint8


def test_a_dropped_piece_is_certain_background() -> None:
    classes, margins = line(1, 1, 0, 1, 2), line(9, 9, 9, 9, 9)
    kept = keep_largest_components(classes, None, margins)
    assert kept.ravel().tolist() == [1, 1, 0, 0, 2]
    assert margins.ravel().tolist() == [9, 9, 9, 255, 9]


def test_a_corner_that_only_the_nearest_voxel_has_is_outvoted() -> None:
    classes = np.zeros((4, 4, 4), np.uint8)
    classes[1, 1, 1] = 3
    grid = grid_of((3, 3, 3), (4, 4, 4), 1.4)
    # At (1.4, 1.4, 1.4) the voxel has 0.6 ** 3 of the votes.
    assert not grid.restore(classes, order=0).any()
    literature = grid_of((3, 3, 3), (4, 4, 4), 1.4, corners=True)
    assert literature.restore(classes, order=0)[1, 1, 1] == 3


@pytest.mark.parametrize("step", [0.6, 0.71, 1.4, 2.4])
@pytest.mark.parametrize("slab", [1, 4_000_000])
def test_the_most_votes_win(step: float, slab: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(votes, "SLAB", slab)
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 4, (5, 6, 4)).astype(np.uint8)
    classes = ndimage.zoom(coarse, 4, order=0)
    native = tuple(int((n - 1) / step) + 1 for n in classes.shape)
    shares = np.stack(
        [
            ndimage.affine_transform(
                (classes == k).astype(np.float64), [step] * 3, 0, native, order=1, mode="nearest"
            )
            for k in range(4)
        ]
    )
    found = grid_of(native, classes.shape, step).restore(classes, order=0)
    own = np.take_along_axis(shares, found[None].astype(int), 0)[0]
    assert (shares.max(0) - own).max() < 2e-3  # but for ties
    assert found.dtype == np.uint8


def test_what_was_not_resampled_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 4, (5, 6, 4)).astype(np.uint8)
    monkeypatch.setattr(prepared_grid, "voted", None)  # calling it would fail
    np.testing.assert_array_equal(
        grid_of((5, 6, 4), (5, 6, 4), 1.0).restore(classes, order=0), classes
    )
    # Every second voxel, and beyond the edge the last one.
    every = grid_of((3, 3, 3), (5, 6, 4), 2.0).restore(classes, order=0)
    np.testing.assert_array_equal(every, classes[::2, ::2][..., [0, 2, 3]][:3, :3])


def test_a_ball_comes_back_rounder_than_from_the_nearest_voxel() -> None:
    def ball(n: int, step: float) -> np.ndarray:
        axis = np.arange(n) * step - 12.3
        x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
        return (x**2 + y**2 + z**2 <= 81).astype(np.uint8)

    coarse, fine = ball(26, 1.0), ball(42, 0.6)
    dice = {}
    for corners in (False, True):
        found = grid_of((42, 42, 42), (26, 26, 26), 0.6, corners=corners).restore(coarse, order=0)
        dice[corners] = 2 * (found & fine).sum() / (found.sum() + fine.sum())
    assert dice[False] > dice[True] + 0.01
