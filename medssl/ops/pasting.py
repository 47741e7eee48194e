"""Labeled and guessed patches pasted into each other, and views of several sources as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import torch
from torch import Tensor

from medssl.ops.boxes import place_box
from medssl.ops.mixing import box_mask, mix, take
from medssl.ops.perturb import View

PASTED = 2 / 3
"""Side of a pasted box, as a share of the patch's."""


def known(image: Tensor, label: Tensor, like: View) -> View:
    """Return labeled patches as a view that says as much of each voxel as another one.

    Args:
        image: ``(B, C, *spatial)``.
        label: ``(B, *spatial)`` class indices, 255 where there is none.
        like: the view of guesses that it will be put beside.
    """
    soft = None
    if like.soft is not None:
        soft = like.soft.new_zeros((len(image), *like.soft.shape[1:]))
    return View(
        image,
        label,
        truth=torch.ones_like(label, dtype=torch.bool),
        weight=torch.zeros_like(label, dtype=torch.float32),
        soft=soft,
    )


def joined_views(views: Sequence[View]) -> View:
    """Return the patches of several views in one; what one of them does not know, none does."""
    out: dict[str, Tensor | None] = {}
    for field in fields(View):
        parts = [getattr(view, field.name) for view in views]
        out[field.name] = None if any(p is None for p in parts) else torch.cat(parts)
    return View(**out)  # type: ignore[arg-type]


def paste(
    truth: View, guess: View, rng: np.random.RandomState, *, ratio: float = PASTED
) -> tuple[View, View]:
    """Paste labeled patches into guessed ones, and guessed ones into labeled ones.

    Batches of unequal size are cycled; each mixed patch has a box of its own.

    Args:
        truth: labeled patches ``(B_1, C, *spatial)``, see :func:`known`.
        guess: guessed ones ``(B_2, C, *spatial)``, which know as much of each voxel.
        rng: draws the places of all boxes of the first mix, then of the second.
        ratio: side of a box relative to the patch's (at least one voxel).

    Returns:
        The guessed canvases with a labeled box, and the labeled canvases with a guessed box.

    Source: Bai et al., BCP (CVPR 2023, arXiv 2305.00673), eqs. 1-3.
    """
    count, shape = max(len(truth.image), len(guess.image)), guess.image.shape[2:]
    sides = [max(1, int(n * ratio)) for n in shape]
    mixed = []
    for canvas, box in ((guess, truth), (truth, guess)):
        places = [place_box(shape, sides, rng) for _ in range(count)]
        mask = box_mask(shape, places, device=guess.image.device)
        parts: dict[str, Tensor | None] = {}
        for field in fields(View):
            outside, inside = getattr(canvas, field.name), getattr(box, field.name)
            parts[field.name] = (
                None
                if outside is None
                else mix(take(outside, 0, count), take(inside, 0, count), mask)
            )
        mixed.append(View(**parts))  # type: ignore[arg-type]
    return mixed[0], mixed[1]
