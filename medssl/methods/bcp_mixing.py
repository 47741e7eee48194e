"""The two mixed images of a BCP iteration: which patches meet, and where the boxes are cut.

The method is in :mod:`medssl.methods.bcp`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medssl.methods.bcp_settings import BCPSettings
from medssl.ops.boxes import draw_box
from medssl.ops.mixing import box_mask, mix, take

# Of each of the two mixed images: which half of the labeled batch, and whether it is the canvas.
# The unlabeled half is the first in the first image and the second in the second.
PAIRING: dict[str, tuple[tuple[int, bool], tuple[int, bool]]] = {
    "acdc": ((0, False), (1, True)),
    "la": ((0, True), (1, False)),
    "pancreas": ((1, False), (0, True)),
}


@dataclass(frozen=True)
class MixedImage:
    """One batch of mixed images ``(B, C, *spatial)``, True outside of the box in ``mask``."""

    image: Tensor
    mask: Tensor
    labeled_outside: bool

    @property
    def is_truth(self) -> Tensor:
        """Boolean ``(B, *spatial)``: where the label is ground truth."""
        mask = self.mask if self.labeled_outside else ~self.mask
        return mask.expand(len(self.image), *self.image.shape[2:])


def draw_masks(
    shape: torch.Size,
    count: int,
    settings: BCPSettings,
    rng: np.random.RandomState,
    device: torch.device,
) -> list[Tensor]:
    """Draw the masks of the two mixed images, boolean ``(count or 1, *spatial)``.

    Args:
        shape: of a patch, ``(*spatial)``.
        count: mixed images of each kind.
        settings: size of a box, and how many are drawn.
        rng: draws the boxes one after another, sample by sample, image by image.
        device: of the masks.
    """
    masks = []
    for _ in range(1 if settings.share_mask else 2):
        boxes = [
            draw_box(shape, settings.mask_ratio, rng, inclusive=settings.mask_offset_inclusive)
            for _ in range(count if settings.mask_per_sample else 1)
        ]
        masks.append(box_mask(shape, boxes, device=device))
    return masks if len(masks) == 2 else masks * 2


def pair_up(
    labeled: Tensor, unlabeled: Tensor, settings: BCPSettings
) -> list[tuple[Tensor, Tensor]]:
    """Return what lies outside and inside of the box of each of the two mixed images.

    Args:
        labeled: of labeled patches the images or the labels, ``(B, ...)``.
        unlabeled: of unlabeled patches the same. Batches of unequal size are cycled.
        settings: which halves meet.
    """
    count = _count(labeled, unlabeled)
    out = []
    for k, (half, labeled_outside) in enumerate(PAIRING[settings.pairing]):
        truth, guess = take(labeled, half * count, count), take(unlabeled, k * count, count)
        out.append((truth, guess) if labeled_outside else (guess, truth))
    return out


def mix_images(
    labeled: Tensor, unlabeled: Tensor, settings: BCPSettings, rng: np.random.RandomState
) -> list[MixedImage]:
    """Build the two mixed images out of images ``(B, C, *spatial)``; ``rng`` draws the boxes."""
    count = _count(labeled, unlabeled)
    masks = draw_masks(unlabeled.shape[2:], count, settings, rng, unlabeled.device)
    return [
        MixedImage(mix(outside, inside, mask), mask, labeled_outside)
        for (outside, inside), mask, (_, labeled_outside) in zip(
            pair_up(labeled, unlabeled, settings), masks, PAIRING[settings.pairing], strict=True
        )
    ]


def _count(labeled: Tensor, unlabeled: Tensor) -> int:
    return (max(len(labeled), len(unlabeled)) + 1) // 2
