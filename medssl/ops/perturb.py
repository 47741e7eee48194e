"""What a student sees in place of a patch: voxels that are moved, and all that is known of them.

A mixing is drawn once, as a function that moves voxels, and is applied to image, label, weight and
targets alike: labels travel with their voxels. A teacher's guesses are made before, on patches that
nobody mixed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medssl.ops.boxes import Box, area_box, centred_boxes, place_box
from medssl.ops.mixing import box_mask, mix
from medssl.ops.variants import Mixing, PublishedBox

Move = Callable[[Tensor], Tensor]
"""Move the voxels of the last N rows of ``(N or more, ..., *spatial)``; rows before them stay."""

RATIO = (0.25, 0.75)
"""Least and largest side of a box, as a share of the patch's."""
RECTANGLES = 0.5
"""Chance of a rectangle in a patch."""


@dataclass(frozen=True)
class View:
    """Patches as a student sees them, and what is known of each voxel.

    Attributes:
        image: ``(N, C, *spatial)``.
        label: ``(N, *spatial)`` class indices, 255 where there is none.
        truth: boolean ``(N, *spatial)``, where the label is ground truth and no guess.
        weight: ``(N, *spatial)`` or ``(N, 1 or K, *spatial)``, how much a voxel counts.
        soft: ``(N, K, *spatial)`` probabilities, or logits of them.
    """

    image: Tensor
    label: Tensor
    truth: Tensor | None = None
    weight: Tensor | None = None
    soft: Tensor | None = None

    def each(self, move: Move) -> View:
        """Return the view with all its voxels moved alike."""
        parts = (self.truth, self.weight, self.soft)
        moved = [None if part is None else move(part) for part in parts]
        return View(move(self.image), move(self.label), *moved)


def boxes_of_the_next(
    image: Tensor, rng: np.random.RandomState, ratio: tuple[float, float] = RATIO
) -> Move:
    """Draw a box in each patch, to be filled with the same box of the next patch of the batch.

    A box keeps its place, so that no structure changes sides; a single patch has no next one and
    stays as it is.

    Args:
        image: ``(N, C, *spatial)``; its shape and device alone are looked at.
        rng: draws, patch by patch, one side for all axes, uniform between ``ratio`` times the
            patch's (at least one voxel), then a uniformly random place.
        ratio: least and largest side of a box relative to the patch's, in (0, 1].

    Source: Yun et al., "CutMix" (ICCV 2019, arXiv 1905.04899); for segmentation without labels
    French et al., BMVC 2020 (arXiv 1906.01916). Sides in place of areas are this package's.
    """
    shape, boxes = image.shape[2:], []
    for _ in range(len(image)):
        share = rng.uniform(*ratio)
        boxes.append(place_box(shape, [max(1, int(n * share)) for n in shape], rng))
    return of_the_next(image, boxes)


def published_boxes_of_the_next(
    rule: PublishedBox, image: Tensor, rng: np.random.RandomState
) -> Move:
    """Draw the box of a published code in each patch, to be filled as above.

    Args:
        rule: ``rectangle`` is UniMatch's, of two axes, in a half of the patches; ``centred`` is
            AD-MT's.
        image: ``(N, C, *spatial)``; its shape and device alone are looked at.
        rng: draws for UniMatch whether there is a box, then the box, patch by patch; for AD-MT see
            :func:`medssl.ops.boxes.centred_boxes`.
    """
    shape = tuple(image.shape[2:])
    if rule == "centred":
        return of_the_next(image, centred_boxes(shape, len(image), rng))
    empty = tuple((0, 0) for _ in shape)
    there = [rng.uniform() <= RECTANGLES for _ in range(len(image))]
    return of_the_next(image, [area_box(shape, rng) if each else empty for each in there])


def of_the_next(image: Tensor, boxes: Sequence[Box]) -> Move:
    """Return what fills a box in each patch ``(N, C, *spatial)`` with the next patch's voxels."""
    count = len(boxes)
    mask = box_mask(image.shape[2:], boxes, device=image.device)

    def move(x: Tensor) -> Tensor:
        stay, rows = x[:-count], x[-count:]
        moved = mix(rows, rows.roll(-1, 0), mask)
        return torch.cat([stay, moved]) if len(stay) else moved

    return move


def joined_halves(first: Tensor, second: Tensor, rng: np.random.RandomState) -> Tensor:
    """Join two views of each patch at its middle, the first one's half before the second one's.

    Args:
        first: ``(N, C, *spatial)``.
        second: the same patches, changed otherwise.
        rng: draws for each patch the axis that is cut.

    Source: Gui et al., SAA (ICCV 2023): two strong views joined left and right, or top and bottom.
    """
    shape, boxes = first.shape[2:], []
    for axis in rng.randint(len(shape), size=len(first)):
        boxes.append(tuple((n // 2 if i == axis else 0, n) for i, n in enumerate(shape)))
    return mix(first, second, box_mask(shape, boxes, device=first.device))


def cutmix(view: View, rng: np.random.RandomState, ratio: tuple[float, float] = RATIO) -> View:
    """Put a box of the next patch into each one; see :func:`boxes_of_the_next`."""
    return view.each(boxes_of_the_next(view.image, rng, ratio))


def mixing_of(mixing: Mixing, image: Tensor, rng: np.random.RandomState) -> Move:
    """Draw a mixing by its name, for patches ``(N, C, *spatial)``; ``none`` leaves all in place."""
    return boxes_of_the_next(image, rng) if mixing == "cutmix" else lambda x: x
