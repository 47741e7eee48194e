"""What the student of ``self_training`` is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medssl.methods.base import LabeledBatch, Progress, UnlabeledBatch
from medssl.methods.self_training_presets import Kind
from medssl.methods.self_training_slots import Slots
from medssl.methods.self_training_teachers import Guess, soft_of, turn_of
from medssl.ops.blocks import exchanged_blocks, shuffled_blocks
from medssl.ops.pasting import joined_views, known, paste
from medssl.ops.perturb import Move, View, boxes_of_the_next, joined_halves
from medssl.ops.perturb import published_boxes_of_the_next as published_boxes


@dataclass(frozen=True)
class Shown:
    """All that the student sees in one pass.

    Attributes:
        view: the patches ``(N, C, *spatial)``.
        labeled: rows with truth.
        guessed: rows of each view of the unlabeled patches.
    """

    view: View
    labeled: slice
    guessed: tuple[slice, ...]


def plain_view(image: Tensor, guess: Guess, weight: Tensor, settings: Slots) -> View:
    """Return unlabeled patches ``(B, C, *spatial)`` as they are, and what is believed of them."""
    nowhere = torch.zeros_like(guess.label, dtype=torch.bool)
    return View(image, guess.label, nowhere, weight, soft_of(guess, settings))


def views_of(
    patches: UnlabeledBatch, easy: Tensor | None, settings: Slots, progress: Progress
) -> tuple[tuple[Tensor, ...], tuple[Kind, ...]]:
    """Return the views of unlabeled patches that the student sees, and how they are mixed.

    Args:
        patches: ``(B, C, *spatial)``, in all views.
        easy: boolean ``(B,)``, which of them are to be joined of two views; None is all of them.
        settings: which views, and whether two are joined.
        progress: addresses the draws, and says whose turn it is.
    """
    takes_turns = settings.view == "by_turn"
    second = takes_turns and turn_of(settings, progress).active == 1
    if settings.view == "weak" or second:
        return (patches.image,), settings.kinds
    kinds = () if takes_turns else settings.kinds
    if not settings.joins:
        return patches.views, kinds
    first, other = patches.views
    view = joined_halves(first, other, progress.rng("halves"))
    if easy is not None:
        view = torch.where(easy.view(-1, *[1] * (first.ndim - 1)), view, first)
    return (view,), kinds


def perturb(
    labeled: LabeledBatch | None,
    guesses: Sequence[View],
    kinds: Sequence[Kind],
    settings: Slots,
    progress: Progress,
) -> Shown:
    """Mix the views of unlabeled patches, each by draws of its own, and put labeled ones beside.

    Args:
        labeled: labeled patches; without them nothing is pasted.
        guesses: the same patches with the same guesses in one or several views.
        kinds: mixings in their order; ``paste`` mixes labeled and guessed patches with each other,
            so that nothing is put beside.
        settings: which boxes are drawn.
        progress: addresses the draws.
    """
    truth = None if labeled is None else known(labeled.image, labeled.label, guesses[0])
    pasted = None if "paste" not in kinds else truth
    parts = []
    for number, view in enumerate(guesses):
        rng = progress.rng("mixing" if number == 0 else f"mixing {number}")
        for kind in kinds:
            if kind != "paste":
                view = view.each(_move(kind, view.image, rng, settings))
        parts.append(view if pasted is None else joined_views(paste(pasted, view, rng)))
    beside = [] if truth is None or pasted is not None else [truth]
    rows, start = [], sum(len(part.image) for part in beside)
    labeled_rows = slice(0, start) if beside else slice(None)
    for part in parts:
        rows.append(slice(start, start + len(part.image)))
        start += len(part.image)
    return Shown(joined_views([*beside, *parts]), labeled_rows, tuple(rows))


def _move(kind: Kind, image: Tensor, rng: np.random.RandomState, settings: Slots) -> Move:
    if kind in ("shuffle", "cube"):
        return (shuffled_blocks if kind == "shuffle" else exchanged_blocks)(image, rng)
    if settings.box == "sides":
        return boxes_of_the_next(image, rng)
    return published_boxes(settings.box, image, rng)
