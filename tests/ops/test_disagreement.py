"""The maps of RAIL's region losses, and the box around a coarse mask, with truths made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from medssl.ops.disagreement import (
    axis_kl,
    disagreement,
    error_region,
    squared_error,
    uniform_penalty,
    voxel_kl,
)
from medssl.ops.roi import close_gaps, grow_box, remove_small_components, roi_box


def test_disagreement_is_everywhere_for_the_best() -> None:
    one, other = torch.tensor([[0, 1, 2]]), torch.tensor([[0, 2, 2]])
    assert disagreement(one, other, torch.tensor(False)).tolist() == [[False, True, False]]
    assert disagreement(one, one, torch.tensor(True)).all()


def test_error_regions() -> None:
    label = torch.tensor([[[0, 1], [1, 1]]])  # (1, 2, 2); first axis: columns (0, 1) and (1, 1)
    hard = torch.tensor([[[1, 1], [0, 1]]])
    assert error_region(hard, label).tolist() == [[[True, False], [True, False]]]
    # The argmax along the first axis is 1 in the first column and 0 in the second.
    expected = [[[False, True], [True, True]]]
    assert error_region(hard, label, "official").tolist() == expected


def test_the_official_error_region_is_the_predicted_foreground() -> None:
    label = torch.zeros(2, 8, 8, 8, dtype=torch.long)
    label[:, 2:5, 2:6, 2:6] = 1
    hard = torch.roll(label, (1, 1), (1, 2))
    assert torch.equal(error_region(hard, label, "official"), hard == 1)
    assert torch.equal(error_region(hard, label), hard != label)
    assert not torch.equal(hard != label, hard == 1)


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3)])
def test_two_classes_give_the_binary_formulas(shape: tuple[int, ...]) -> None:
    g = torch.Generator().manual_seed(0)
    probs = torch.softmax(torch.randn(2, 2, *shape, generator=g), 1)
    y = torch.randint(0, 2, (2, *shape), generator=g)
    hot = torch.stack([1 - y, y], 1).float()
    p = probs[:, 1]
    torch.testing.assert_close(squared_error(probs, hot), (p - y) ** 2)
    torch.testing.assert_close(voxel_kl(probs.log(), hot), -torch.where(y == 1, p, 1 - p).log())
    t, q = y.float().softmax(1), p.softmax(1)
    torch.testing.assert_close(axis_kl(probs, hot), t * (t.log() - q.log()))


def test_the_pull_to_uniform() -> None:
    probs = torch.tensor([[0.5, 0.5], [0.0, 1.0], [0.2, 0.8]]).T[None]  # (1, 2, 3)
    official = uniform_penalty(probs.log(), "official")[0]
    assert official[0].item() == pytest.approx(math.log(2))
    assert official[1].item() == pytest.approx(math.log(1 + math.e) - 0.5)
    proper = uniform_penalty(probs.log(), "proper")[0]
    assert proper[0].item() == pytest.approx(0, abs=1e-7)
    assert proper[2].item() == pytest.approx(-(math.log(0.2) + math.log(0.8)) / 2 - math.log(2))
    many = torch.full((1, 5, 2), 0.2)
    assert uniform_penalty(many.log(), "proper").abs().max() < 1e-6


# ------------------------------------------------------------------------------------ the box


def block(shape: tuple[int, ...], *spans: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*s) for s in spans)] = True
    return mask


def test_a_box_has_its_margin_in_millimeters() -> None:
    mask = block((60, 60, 40), (20, 30), (10, 20), (0, 5))
    box = roi_box(mask, spacing_mm=(0.5, 1.0, 2.0), margin_mm=4)
    assert box == ((12, 38), (6, 24), (0, 7))
    box = roi_box(mask, spacing_mm=(0.5, 1.0, 2.0), margin_mm=(0, 1, 2))
    assert box == ((20, 30), (9, 21), (0, 6))


def test_nothing_of_a_block_is_cut() -> None:
    """The published box loses a tenth of this block."""
    mask = block((100, 100, 100), (10, 90), (10, 90), (10, 90))
    box = roi_box(mask, spacing_mm=(1, 1, 1), margin_mm=8)
    assert mask[tuple(slice(*b) for b in box)].sum() == mask.sum()


def test_a_box_on_a_finer_grid() -> None:
    mask = block((50, 51), (10, 20), (10, 20))
    box = roi_box(mask, spacing_mm=(0.8, 0.8), margin_mm=0.8, target_shape=(100, 101))
    assert box[0] == (18, 42)
    scale = 101 / 51
    assert box[1] == (math.floor(9 * scale), math.ceil(21 * scale))


def test_small_pieces_are_measured_in_millimeters() -> None:
    mask = block((30, 30, 30), (0, 10), (0, 10), (0, 10)) | block(
        (30, 30, 30), (25, 27), (25, 27), (25, 27)
    )
    spacing = (0.5, 0.5, 0.5)  # 125 and 1 cubic millimeters
    assert remove_small_components(mask, spacing, 1.0).sum() == 1008
    assert remove_small_components(mask, spacing, 1.01).sum() == 1000
    box = roi_box(mask, spacing_mm=spacing, margin_mm=0, min_volume_mm3=2)
    assert box == ((0, 10),) * 3


def test_fallbacks() -> None:
    mask = block((30, 30), (3, 6), (3, 6)) | block((30, 30), (20, 22), (20, 22))
    box = roi_box(mask, spacing_mm=(1, 1), margin_mm=0, min_volume_mm3=1e6)
    assert box == ((3, 6), (3, 6)), "the largest piece when all are too small"
    empty = roi_box(np.zeros((30, 20), bool), spacing_mm=(1, 1), target_shape=(60, 40))
    assert empty == ((0, 60), (0, 40)), "the whole volume when there is nothing"


def test_pieces_close_by_count_as_one() -> None:
    mask = block((40, 20), (5, 12), (5, 12)) | block((40, 20), (14, 21), (5, 12))
    assert close_gaps(mask, (1, 1), 0) is mask
    closed = close_gaps(mask, (1, 1), 2)
    assert closed[12:14, 8].all()
    assert (closed & mask).sum() == mask.sum()
    assert not close_gaps(block((9, 9), (0, 1), (0, 1)), (1, 1), 3)[5:].any()
    apart = roi_box(mask, spacing_mm=(1, 1), margin_mm=0, min_volume_mm3=60)
    joined = roi_box(mask, spacing_mm=(1, 1), margin_mm=0, min_volume_mm3=60, closing_mm=2)
    assert apart == ((5, 12), (5, 12))
    assert joined == ((5, 21), (5, 12))


def test_the_largest_piece_alone() -> None:
    mask = block((40, 20), (2, 8), (2, 8)) | block((40, 20), (20, 30), (5, 15))
    both = roi_box(mask, spacing_mm=(1, 1), margin_mm=1)
    assert both == ((1, 31), (1, 16))
    one = roi_box(mask, spacing_mm=(1, 1), margin_mm=1, largest=True)
    assert one == ((19, 31), (4, 16))
    # The margin ends where the volume ends.
    assert roi_box(mask, spacing_mm=(1, 1), margin_mm=100, largest=True) == ((0, 40), (0, 20))


def test_a_box_grows_inside_the_volume() -> None:
    shape = (30, 30, 30)
    assert grow_box(((10, 14), (0, 3), (27, 30)), (8, 8, 8), shape) == ((8, 16), (0, 8), (22, 30))
    assert grow_box(((10, 20), (10, 13), (1, 2)), (8, 4, 1), shape) == ((10, 20), (10, 14), (1, 2))
    assert grow_box(((2, 3), (0, 5), (0, 5)), (40, 2, 5), (30, 5, 5)) == ((0, 30), (0, 5), (0, 5))
