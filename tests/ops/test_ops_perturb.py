"""Mixing: labels, weights and targets go where their voxels go, and nothing else moves."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
import torch
from torch import Tensor

from medssl.ops.perturb import View, boxes_of_the_next, cutmix, joined_halves, mixing_of

SHAPES = pytest.mark.parametrize("shape", [(16, 12), (9, 8, 6), (16, 12, 1)])


def numbered(count: int, shape: tuple[int, ...]) -> Tensor:
    """Return patches ``(N, 1, *spatial)`` in which every voxel has a number of its own."""
    return torch.arange(count * prod(shape)).view(count, 1, *shape)


def known(image: Tensor) -> View:
    """Return a view of which all can be told from the image's numbers."""
    flat = image[:, 0]
    soft = torch.stack([flat * 0.5, flat * 2.0], dim=1)
    return View(image, label=flat % 7, truth=flat % 3 == 0, weight=flat / 10, soft=soft)


@SHAPES
def test_all_that_is_known_of_a_voxel_travels_with_it(shape: tuple[int, ...]) -> None:
    for seed in range(5):
        seen = cutmix(known(numbered(4, shape)), np.random.RandomState(seed))
        expected = known(seen.image)
        for name in ("label", "truth", "weight", "soft"):
            assert torch.equal(getattr(seen, name), getattr(expected, name)), name


def test_a_weight_by_class_travels_and_what_is_not_known_stays_unknown() -> None:
    image = numbered(3, (8, 8))
    view = View(image, label=image[:, 0], weight=torch.cat([image, image + 1], dim=1))
    seen = cutmix(view, np.random.RandomState(0))
    assert not torch.equal(seen.image, image)
    assert torch.equal(seen.weight, torch.cat([seen.image, seen.image + 1], dim=1))
    assert seen.truth is None
    assert seen.soft is None


@SHAPES
def test_each_patch_has_one_box_of_the_next_at_its_place(shape: tuple[int, ...]) -> None:
    count, size = 3, prod(shape)
    sides = set()
    for seed in range(60):
        image = numbered(count, shape)
        seen = boxes_of_the_next(image, np.random.RandomState(seed))(image)
        assert torch.equal(seen % size, image % size), "every voxel keeps its place"
        for i, patch in enumerate((seen // size)[:, 0]):
            foreign = patch != i
            assert set(patch[foreign].tolist()) == {(i + 1) % count}
            where = foreign.nonzero()
            side = where.max(0).values - where.min(0).values + 1
            assert foreign.sum() == side.prod(), "it is a box"
            for n, of in zip(side.tolist(), shape, strict=True):
                assert max(1, int(of / 4)) <= n <= max(1, int(of * 3 / 4))
            sides.add(int(side[0]))
    assert len(sides) > shape[0] // 4, "of any size between"


def test_every_place_of_a_box_is_drawn() -> None:
    image, met = numbered(2, (6, 6)), torch.zeros(6, 6, dtype=torch.bool)
    for seed in range(100):
        seen = boxes_of_the_next(image, np.random.RandomState(seed), ratio=(0.34, 0.35))(image)
        met |= (seen != image)[0, 0]
    assert met.all()


def test_rows_before_the_patches_stay_and_a_single_patch_stays() -> None:
    image = numbered(5, (8, 8))
    move = boxes_of_the_next(image[2:], np.random.RandomState(0))
    seen = move(image)
    assert torch.equal(seen[:2], image[:2])
    assert torch.equal(seen[2:], move(image[2:]))
    assert not torch.equal(seen[2:], image[2:])
    alone = image[:1]
    assert torch.equal(boxes_of_the_next(alone, np.random.RandomState(0))(alone), alone)


def test_the_generator_decides_and_none_draws_nothing() -> None:
    image = numbered(3, (16, 12))
    first, again, other = (
        mixing_of("cutmix", image, np.random.RandomState(seed))(image) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    rng = np.random.RandomState(1)
    assert mixing_of("none", image, rng)(image) is image
    assert rng.randint(1 << 30) == np.random.RandomState(1).randint(1 << 30)


@pytest.mark.parametrize("shape", [(9, 6), (8, 6, 5)])
def test_halves_of_two_views_are_joined_in_the_middle(shape: tuple[int, ...]) -> None:
    first, second = numbered(12, shape), -1 - numbered(12, shape)
    joined = joined_halves(first, second, np.random.RandomState(0))
    axes = set()
    for patch, one, two in zip(joined, first, second, strict=True):
        for axis, side in enumerate(shape, start=1):
            ends = side // 2, side - side // 2
            parts = [v.split(ends, axis)[i] for i, v in enumerate((one, two))]
            if torch.equal(patch, torch.cat(parts, axis)):
                axes.add(axis)
                break
        else:
            raise AssertionError("not halves of both")
    assert axes == set(range(1, len(shape) + 1)), "every axis is cut in some patch"
