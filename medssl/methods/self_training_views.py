"""What the student of ``self_training`` is shown, and the loss of what is guessed there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medssl.methods.base import LabeledBatch, Progress
from medssl.methods.self_training_presets import Kind
from medssl.methods.self_training_settings import SelfTrainingSettings
from medssl.methods.self_training_teachers import Guess
from medssl.ops.blocks import exchanged_blocks, shuffled_blocks
from medssl.ops.deep_supervision import Prediction
from medssl.ops.losses import IGNORE_INDEX, region_terms, supervised_loss, weighted_mean
from medssl.ops.pasting import joined_views, known, paste
from medssl.ops.perturb import Move, View, boxes_of_the_next, published_boxes_of_the_next
from medssl.ops.pseudo_labels import hard_labels, kept_shares
from medssl.ops.reliability import elr, soft_ce
from medssl.ops.variants import FOREGROUND


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


def perturb(
    labeled: LabeledBatch | None,
    guesses: Sequence[View],
    kinds: Sequence[Kind],
    settings: SelfTrainingSettings,
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


def _move(
    kind: Kind, image: Tensor, rng: np.random.RandomState, settings: SelfTrainingSettings
) -> Move:
    if kind == "shuffle":
        return shuffled_blocks(image, rng)
    if kind == "cube":
        return exchanged_blocks(image, rng)
    if settings.box == "sides":
        return boxes_of_the_next(image, rng)
    return published_boxes_of_the_next(settings.box, image, rng)


def truth_loss(logits: Prediction, shown: Shown, settings: SelfTrainingSettings) -> Tensor:
    """Compute the loss where there is ground truth."""
    view, rows = shown.view, shown.labeled
    assert view.truth is not None
    target = torch.where(view.truth[rows], view.label[rows], IGNORE_INDEX)
    return supervised_loss(logits[rows], target, loss=settings.loss)


def guess_loss(logits: Prediction, shown: Shown, settings: SelfTrainingSettings) -> Tensor:
    """Compute the loss of guesses, the mean over the views: the weighted mean times the share of
    guessed voxels that count at all, or with ``normalize: kept`` without that factor.
    """
    view, losses = shown.view, []
    assert view.truth is not None
    assert view.weight is not None
    for rows in shown.guessed:
        seen, weight, guessed = logits[rows], view.weight[rows], ~view.truth[rows]
        soft = None if view.soft is None else view.soft[rows]
        if settings.target != "hard":
            assert soft is not None
            value = soft_ce(seen, soft, weight)
        else:
            ((dice, ce),) = region_terms(seen, view.label[rows], [weight], dice=FOREGROUND)
            value = ce if settings.loss == "ce" else dice + ce
        if settings.normalize == "all":
            value = value * ((weight > 0).sum() / guessed.sum().clamp(min=1))
        if settings.elr_weight > 0:
            assert soft is not None
            value = value + settings.elr_weight * elr(seen, soft, guessed.float())
        losses.append(value)
    return torch.stack(losses).mean()


@torch.no_grad()
def agreement(logits: Tensor, shown: Shown) -> Tensor:
    """Return how often the student says of voxels that count what the teachers do."""
    view = shown.view
    assert view.weight is not None
    return weighted_mean((hard_labels(logits) == view.label).float(), view.weight > 0)


def told_of(guess: Guess, weight: Tensor) -> dict[str, Tensor]:
    """Return what to log of a guess: shares that count, confidence, conflicts."""
    kept = torch.where(weight > 0, guess.label, IGNORE_INDEX)
    told = {**kept_shares(guess.probs, kept), "pseudo/confidence": guess.confidence.mean()}
    if guess.conflict is not None:
        told["pseudo/conflict"] = guess.conflict.float().mean()
    return told
