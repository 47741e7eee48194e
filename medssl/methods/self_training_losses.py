"""What the student of ``self_training`` learns from what it is shown."""

from __future__ import annotations

import torch
from torch import Tensor

from medssl.methods.self_training_slots import Slots
from medssl.methods.self_training_teachers import Guess
from medssl.methods.self_training_views import Shown
from medssl.ops.deep_supervision import Prediction, finest
from medssl.ops.label_unions import Unions
from medssl.ops.losses import IGNORE_INDEX, region_terms, supervised_loss, weighted_mean
from medssl.ops.pseudo_labels import hard_labels, kept_shares
from medssl.ops.reliability import elr, shrunk_ce, soft_ce
from medssl.ops.variants import FOREGROUND


def truth_loss(logits: Prediction, shown: Shown, settings: Slots, unions: Unions = ()) -> Tensor:
    """Compute the loss where there is ground truth; 0 at a site without labels."""
    view, rows = shown.view, shown.labeled
    if not len(finest(logits)[rows]):
        return finest(logits).new_zeros(())
    assert view.truth is not None
    target = torch.where(view.truth[rows], view.label[rows], IGNORE_INDEX)
    return supervised_loss(logits[rows], target, loss=settings.loss, unions=unions)


def guess_loss(logits: Prediction, shown: Shown, settings: Slots, unions: Unions = ()) -> Tensor:
    """Compute the loss of guesses, the mean over the views: the weighted mean times the share of
    guessed voxels that count at all, or with ``normalize: kept`` without that factor.
    """
    view, losses = shown.view, []
    assert view.truth is not None
    assert view.weight is not None
    for rows in shown.guessed:
        seen, weight, guessed = logits[rows], view.weight[rows], ~view.truth[rows]
        soft = None if view.soft is None else view.soft[rows]
        if settings.target == "hard":
            label = view.label[rows]
            ((dice, ce),) = region_terms(seen, label, [weight], dice=FOREGROUND, unions=unions)
            value = ce if settings.loss == "ce" else dice + ce
        else:
            value = soft_ce(seen, _given(soft), weight)
        if settings.normalize == "all":
            value = value * ((weight > 0).sum() / guessed.sum().clamp(min=1))
        if settings.elr_weight > 0:
            value = value + settings.elr_weight * elr(seen, _given(soft), guessed.float())
        if settings.shrink_weight > 0:
            shrunk, sure = shrunk_ce(seen, _given(soft), settings.threshold)
            value = value + settings.shrink_weight * sure * shrunk
        losses.append(value)
    return torch.stack(losses).mean()


def _given(soft: Tensor | None) -> Tensor:
    assert soft is not None
    return soft


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
