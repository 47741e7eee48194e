"""Boxes, masks and mixes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medssl.ops.boxes import box_size, draw_box
from medssl.ops.mixing import box_mask, mix, take


@pytest.mark.parametrize(
    ("shape", "size"),
    [((256, 256), (170, 170)), ((112, 112, 80), (74, 74, 53)), ((96, 96, 96), (64, 64, 64))],
)
def test_box_size_is_the_published_one(shape, size):
    assert box_size(shape, 2 / 3) == size


def test_both_published_roundings_agree_for_two_thirds():
    for n in range(2, 2049):
        assert box_size((n,), 2 / 3) == (int(n * 2 / 3),)


@pytest.mark.parametrize(("shape", "ratio"), [((3, 8), 0.1), ((1, 8), 0.5), ((8, 8), 1.0)])
def test_an_empty_or_full_box_is_refused(shape, ratio):
    with pytest.raises(ValueError, match=r"smaller than the patch"):
        draw_box(shape, ratio, np.random.RandomState(0))


@pytest.mark.parametrize(("inclusive", "last"), [(True, 3), (False, 2)])
def test_every_position_is_drawn_and_the_last_only_if_inclusive(inclusive, last):
    rng = np.random.RandomState(0)
    boxes = [draw_box((9, 6), 2 / 3, rng, inclusive=inclusive) for _ in range(400)]
    assert {b[0][0] for b in boxes} == set(range(last + 1))
    assert {b[1][0] for b in boxes} == set(range(last))
    assert all(stop - start == 6 and stop <= 9 for (start, stop), _ in boxes)


def test_mask_is_false_exactly_inside_the_box():
    mask = box_mask((5, 6, 4), ((1, 3), (2, 6), (0, 1)))
    inside = torch.zeros(5, 6, 4, dtype=torch.bool)
    inside[1:3, 2:6, 0:1] = True
    assert mask.dtype == torch.bool
    assert torch.equal(mask, ~inside)


def test_a_list_of_boxes_gives_one_mask_each():
    boxes = [((0, 2), (0, 2)), ((1, 3), (2, 4))]
    masks = box_mask((4, 4), boxes)
    assert masks.shape == (2, 4, 4)
    for mask, box in zip(masks, boxes, strict=True):
        assert torch.equal(mask, box_mask((4, 4), box))


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 4)])
@pytest.mark.parametrize("shared", [True, False])
def test_mix_takes_every_voxel_from_the_right_image(shape, shared):
    outside, inside = torch.zeros(2, 3, *shape), torch.ones(2, 3, *shape)
    box_a = tuple((1, 3) for _ in shape)
    box_b = tuple((2, 4) for _ in shape)
    masks = box_mask(shape, [box_a] if shared else [box_a, box_b])
    mixed = mix(outside, inside, masks)
    for i in range(2):
        expected = (~masks[0 if shared else i]).float()
        assert torch.equal(mixed[i], expected.expand(3, *shape))
    labels = mix(torch.full((2, *shape), 4), torch.full((2, *shape), 255), masks)
    assert labels.dtype == torch.int64
    assert torch.equal(labels == 255, mixed[:, 0] == 1)


def test_mix_accepts_zeros_and_ones_and_does_not_spread_nan():
    outside = torch.tensor([[1.0, float("nan")]])
    assert mix(outside, torch.tensor([[5.0, 6.0]]), torch.tensor([[1, 0]])).tolist() == [[1.0, 6.0]]


def test_mix_refuses_shapes_that_do_not_belong_together():
    with pytest.raises(ValueError, match="cannot mix shapes"):
        mix(torch.zeros(1, 1, 4, 4), torch.zeros(2, 1, 4, 4), torch.ones(1, 4, 4))
    with pytest.raises(ValueError, match="must be"):
        mix(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4), torch.ones(4, 4))


def test_take_cycles_and_does_not_copy_a_plain_range():
    x = torch.arange(5)
    assert take(x, 1, 3).tolist() == [1, 2, 3]
    assert take(x, 1, 3).data_ptr() == x[1:].data_ptr()
    assert take(x, 3, 4).tolist() == [3, 4, 0, 1]
    assert take(x[:1], 2, 3).tolist() == [0, 0, 0]
