"""Blocks that change places, and patches pasted into each other: labels travel with voxels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numbered_views import expect_travelled, numbered, told_by
from torch import Tensor

from medssl.ops.blocks import blocks_of, exchanged_blocks, shuffled_blocks
from medssl.ops.pasting import joined_views, known, paste
from medssl.ops.perturb import View, boxes_of_the_next

SHAPES = pytest.mark.parametrize("shape", [(8, 6), (9, 8, 6), (8, 6, 1)])


def counts(label: Tensor) -> Tensor:
    return label.flatten().bincount(minlength=7)


@SHAPES
@pytest.mark.parametrize("moved", [shuffled_blocks, exchanged_blocks])
def test_blocks_take_along_what_is_known_of_them(shape: tuple[int, ...], moved) -> None:
    view = told_by(numbered(3, shape))
    changed = set()
    for seed in range(4):
        move = moved(view.image, np.random.RandomState(seed))
        seen = view.each(move)
        expect_travelled(seen)
        assert torch.equal(counts(seen.label), counts(view.label))
        assert torch.equal(seen.image.flatten().sort().values, view.image.flatten())
        again = moved(view.image, np.random.RandomState(seed))
        assert torch.equal(again(view.image), seen.image)
        before = torch.cat([view.image[:1], view.image])
        assert torch.equal(move(before)[0], before[0]), "rows before the patches stay"
        assert torch.equal(move(before)[1:], seen.image)
        changed.add(not torch.equal(seen.image, view.image))
    assert True in changed


def test_shuffled_blocks_stay_in_their_patch_and_exchanged_ones_at_their_place() -> None:
    shape = (8, 6, 4)
    image, size = numbered(4, shape), 8 * 6 * 4
    for seed in range(4):
        rng = np.random.RandomState(seed)
        own = shuffled_blocks(image, rng)(image)
        assert torch.equal(own // size, image // size)
        place = exchanged_blocks(image, rng)(image)
        assert torch.equal(place % size, image % size)


def test_blocks_that_are_constant_come_in_the_drawn_order() -> None:
    blocks = blocks_of((4, 4, 4))
    assert len(blocks) == 8
    image = torch.zeros(1, 1, 4, 4, 4)
    for value, block in enumerate(blocks):
        image[(0, 0, *block)] = value
    order = np.random.RandomState(5).permutation(8)
    seen = shuffled_blocks(image, np.random.RandomState(5))(image)
    assert [seen[(0, 0, *block)].unique().tolist() for block in blocks] == [[k] for k in order]


def test_thin_axes_are_one_block_and_what_is_left_over_stays() -> None:
    assert len(blocks_of((8, 8, 1))) == 4
    image = numbered(1, (5, 4))
    seen = shuffled_blocks(image, np.random.RandomState(1))(image)
    assert torch.equal(seen[..., 4, :], image[..., 4, :])


def guesses(count: int, shape: tuple[int, ...]) -> View:
    view = told_by(numbered(count, shape, first=10_000))
    return View(view.image, view.label, torch.zeros_like(view.truth), view.weight, view.soft)


@SHAPES
@pytest.mark.parametrize(("labeled", "guessed"), [(2, 2), (3, 2), (1, 2)])
def test_pasting_takes_boxes_of_two_thirds_both_ways(
    shape: tuple[int, ...], labeled: int, guessed: int
) -> None:
    guess = guesses(guessed, shape)
    image = numbered(labeled, shape)
    truth = known(image, image[:, 0] % 7, guess)
    sides = [max(1, int(n * 2 / 3)) for n in shape]
    share = np.prod(sides)
    for seed in range(3):
        first, second = paste(truth, guess, np.random.RandomState(seed))
        for view, in_truth in ((first, share), (second, np.prod(shape) - share)):
            assert len(view.image) == max(labeled, guessed)
            of_truth = view.image[:, 0] < 10_000
            assert torch.equal(view.truth, of_truth)
            assert of_truth.flatten(1).sum(1).tolist() == [in_truth] * len(view.image)
            told = told_by(view.image)
            assert torch.equal(view.label, told.label)
            assert torch.equal(view.weight, torch.where(of_truth, 0, told.weight))
            assert torch.equal(view.soft, torch.where(of_truth.unsqueeze(1), 0, told.soft))
            place = torch.where(of_truth, view.image[:, 0], view.image[:, 0] - 10_000)
            assert torch.equal(place % np.prod(shape), numbered(1, shape)[0].expand_as(place))
        assert not torch.equal(first.truth, ~second.truth), "each mix has boxes of its own"


def test_mixings_can_follow_each_other() -> None:
    shape = (16, 12)
    rng = np.random.RandomState(0)
    view = told_by(numbered(3, shape))
    for moved in (boxes_of_the_next, shuffled_blocks, exchanged_blocks):
        view = view.each(moved(view.image, rng))
    expect_travelled(view)


def test_views_are_joined_and_what_one_does_not_know_none_does() -> None:
    one, two = told_by(numbered(2, (4, 4))), told_by(numbered(1, (4, 4), first=500))
    both = joined_views([one, two])
    assert torch.equal(both.image, torch.cat([one.image, two.image]))
    assert torch.equal(both.soft, torch.cat([one.soft, two.soft]))
    assert joined_views([one, View(two.image, two.label)]).weight is None
