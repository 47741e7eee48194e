"""Dice, cross-entropy and consistency losses with per-voxel weights and an ignore index.

Everything is computed in float32 whatever the autocast, from elementwise products and sums (a
matrix product would be cast down again). A region without voxels contributes exactly zero, with a
gradient path. MONAI's masked losses are not used because they are wrong under a mask with softmax
inside, or overflow in half precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from medssl.ops.deep_supervision import Outputs, Prediction, over_scales
from medssl.ops.label_unions import Unions, in_unions, union_cross_entropy
from medssl.ops.variants import FOREGROUND, WHOLE, DiceVariant, LossName

IGNORE_INDEX = 255
"""Class index of voxels without annotation (the data side uses the same value)."""

TINY = 1e-16


def one_hot(target: Tensor, num_classes: int) -> Tensor:
    """Turn ``(B, *spatial)`` class indices into float32 ``(B, C, *spatial)``; 255 gives zeros."""
    classes = torch.arange(num_classes, device=target.device, dtype=target.dtype)
    classes = classes.view(1, num_classes, *[1] * (target.ndim - 1))
    return (target.unsqueeze(1) == classes).float()


def weighted_mean(values: Tensor, weight: Tensor | None = None) -> Tensor:
    """Average ``values`` with weights: ``sum(w v) / (sum(w) + 1e-16)``; zero if all weights are.

    Args:
        values: any shape.
        weight: broadcastable to ``values``; None averages plainly.
    """
    if weight is None:
        return values.mean()
    weight = weight.to(values.dtype)
    # The weights that a broadcast repeats count once per repetition.
    repeats = values.numel() / max(weight.numel(), 1)
    return (values * weight).sum() / (weight.sum() * repeats + TINY)


def dice_loss(
    probs: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    variant: DiceVariant = WHOLE,
    valid: Tensor | None = None,
) -> Tensor:
    """Compute ``1 - mean (2 sum(p y w) + s) / (sum(p w) + sum(y w) + s)``, or with ``p^2, y^2``.

    Args:
        probs: ``(B, C, *spatial)`` probabilities.
        target: ``(B, C, *spatial)`` one-hot or soft labels.
        weight: ``(B or 1, *spatial)`` voxel weights, the region for instance.
        variant: which Dice.
        valid: ``(B or 1, *spatial)`` voxels that are annotated at all; needed only by
            ``legacy_background``, which otherwise ignores the weight.

    Source: V-Net (Milletari et al. 2016), eq. 1, for the squared form.
    """
    w = None if weight is None else weight.unsqueeze(1).float()
    if variant.legacy_background and w is not None:
        background = torch.ones_like(w) if valid is None else valid.unsqueeze(1).float()
        w = torch.cat([background, w.expand(-1, probs.shape[1] - 1, *w.shape[2:])], dim=1)
    weighted = target if w is None else target * w
    return _dice(probs, target, weighted, w, variant)


def _dice(
    probs: Tensor, target: Tensor, weighted: Tensor, w: Tensor | None, variant: DiceVariant
) -> Tensor:
    """Finish a Dice loss from ``weighted = target * w``."""
    first = 0 if variant.background or probs.shape[1] == 1 else 1
    dims = tuple(range(2, probs.ndim)) if variant.per_sample else (0, *range(2, probs.ndim))
    overlap = (probs * weighted).sum(dims)
    mass = probs.square() if variant.squared else probs
    mass = (mass if w is None else mass * w).sum(dims)
    reference = (weighted * target if variant.squared else weighted).sum(dims)
    score = (2 * overlap + variant.smooth) / (mass + reference + variant.smooth)
    return 1 - score[..., first:].mean()


def region_terms(
    logits: Prediction,
    target: Tensor,
    regions: Sequence[Tensor | None],
    *,
    dice: DiceVariant = WHOLE,
    ignore_index: int = IGNORE_INDEX,
    unions: Unions = (),
) -> list[tuple[Tensor, Tensor]]:
    """Compute Dice loss and cross-entropy of several regions of the same prediction.

    Softmax and one-hot are made once. The cross-entropy of a region is
    ``sum(w CE) / (sum(w) + 1e-16)``: a mean over the region's annotated voxels. With ``unions``
    both are of unions of classes: Dice of summed probabilities, and their binary cross-entropy.

    Args:
        logits: ``(B, C, *spatial)``; of several scales, for means over them.
        target: ``(B, *spatial)`` class indices.
        regions: voxel weights ``(B or 1, *spatial)`` of each region; None is everywhere.
        dice: which Dice.
        ignore_index: voxels with this label belong to no region.
        unions: class indices of structures, which may overlap; none: every class is one.

    Returns:
        One pair ``(dice loss, cross-entropy)`` per region, float32 scalars.
    """
    if isinstance(logits, Outputs):

        def terms(scale: Tensor, label: Tensor, *parts: Tensor | None) -> Tensor:
            found = region_terms(
                scale, label, parts, dice=dice, ignore_index=ignore_index, unions=unions
            )
            return torch.stack([torch.stack(pair) for pair in found])

        means = over_scales(terms, logits, target, *regions)
        return [(pair[0], pair[1]) for pair in means]
    log_probs = F.log_softmax(logits.float(), dim=1)
    probs = log_probs.exp()
    hot = one_hot(target, logits.shape[1])
    valid = (target != ignore_index).float()
    apart: Tensor | None = None
    if unions:
        apart = union_cross_entropy(log_probs, hot, unions)
        probs, hot = in_unions(probs, unions), in_unions(hot, unions)
    out = []
    for region in regions:
        weight = valid if region is None else valid * region
        w = weight.unsqueeze(1)
        weighted = hot if region is None else hot * w
        summed = -(log_probs * weighted).sum() if apart is None else (apart * weight).sum()
        ce = summed / (weight.sum() + TINY)
        if dice.legacy_background and region is not None:
            loss = dice_loss(probs, hot, weight, variant=dice, valid=valid)
        else:
            loss = _dice(probs, hot, weighted, w, dice)
        out.append((loss, ce))
    return out


def dice_and_ce(
    logits: Prediction, target: Tensor, *, dice: DiceVariant = FOREGROUND, unions: Unions = ()
) -> tuple[Tensor, Tensor]:
    """Compute Dice loss and cross-entropy over all annotated voxels; see :func:`region_terms`."""
    (terms,) = region_terms(logits, target, [None], dice=dice, unions=unions)
    return terms


def supervised_loss(
    logits: Prediction,
    target: Tensor,
    *,
    loss: LossName = "dice_ce",
    dice: DiceVariant = FOREGROUND,
    unions: Unions = (),
) -> Tensor:
    """Compute the loss of labels over all annotated voxels.

    Args:
        logits: ``(B, C, *spatial)``, any floating dtype; of several scales, for a mean over them.
        target: ``(B, *spatial)`` class indices; 255 marks voxels without annotation.
        loss: ``dice_ce`` is the sum of both, ``ce`` the cross-entropy alone.
        dice: which Dice.
        unions: see :func:`region_terms`.
    """
    dice_term, ce = dice_and_ce(logits, target, dice=dice, unions=unions)
    return ce if loss == "ce" else dice_term + ce


def half_dice_half_ce(
    logits: Prediction,
    target: Tensor,
    *,
    dice: DiceVariant,
    ce: bool = True,
    unions: Unions = (),
) -> Tensor:
    """Compute ``1/2 CE + 1/2 Dice``, or the Dice loss alone.

    Args:
        logits: ``(B, C, *spatial)``; of several scales, for a mean over them.
        target: ``(B, *spatial)`` classes, 255 where there is none, or ``(B, C, *spatial)``
            probabilities.
        dice: which Dice.
        ce: with the cross-entropy.
        unions: see :func:`region_terms`.
    """
    if isinstance(logits, Outputs):
        one_scale = partial(half_dice_half_ce, dice=dice, ce=ce, unions=unions)
        return over_scales(one_scale, logits, target)
    if target.ndim < logits.ndim:
        dice_term, ce_term = dice_and_ce(logits, target, dice=dice, unions=unions)
    else:
        log_probs, soft = torch.log_softmax(logits.float(), dim=1), target.float()
        probs, ce_map = log_probs.exp(), -(log_probs * soft).sum(dim=1)
        if unions:
            ce_map = union_cross_entropy(log_probs, soft, unions)
            probs, soft = in_unions(probs, unions), in_unions(soft, unions)
        dice_term, ce_term = dice_loss(probs, soft, variant=dice), ce_map.mean()
    return 0.5 * ce_term + 0.5 * dice_term if ce else dice_term


def copy_paste_loss(
    logits: Prediction,
    outside: Tensor,
    inside: Tensor,
    mask: Tensor,
    *,
    weights: tuple[float, float] = (1.0, 1.0),
    dice: DiceVariant = WHOLE,
    unions: Unions = (),
) -> tuple[Tensor, Tensor]:
    """Compute BCP's loss of one mixed image: each label counts in its own region.

    Both parts are ``weight / 2 * (Dice + CE)``, normalized by their own region; the loss is their
    sum.

    Args:
        logits: prediction for the mixed image, ``(B, C, *spatial)``.
        outside: label of the canvas, ``(B, *spatial)``, not mixed.
        inside: label of the pasted image, ``(B, *spatial)``, not mixed.
        mask: boolean ``(B or 1, *spatial)``, True outside the box.
        weights: factors of the canvas and of the pasted box.
        dice: which Dice.
        unions: see :func:`region_terms`.

    Source: Bai et al., BCP (CVPR 2023), eqs. 4-6, with the code's normalization.
    """
    if dice.legacy_background:
        (out,) = region_terms(logits, outside, [mask], dice=dice, unions=unions)
        (box,) = region_terms(logits, inside, [~mask], dice=dice, unions=unions)
    else:
        mixed = torch.where(mask, outside, inside)
        out, box = region_terms(logits, mixed, [mask, ~mask], dice=dice, unions=unions)
    return weights[0] / 2 * (out[0] + out[1]), weights[1] / 2 * (box[0] + box[1])


def softmax_mse(
    student_logits: Tensor, teacher_logits: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Mean squared difference of two softmax outputs over voxels and classes.

    No gradient reaches the teacher.

    Args:
        student_logits: ``(B, C, *spatial)``.
        teacher_logits: the same shape.
        weight: ``(B or 1, *spatial)`` or ``(B, C, *spatial)`` weights. Zero everywhere gives zero.
    """
    student = torch.softmax(student_logits.float(), dim=1)
    teacher = torch.softmax(teacher_logits.detach().float(), dim=1)
    squared = (student - teacher).square()
    if weight is not None and weight.ndim == squared.ndim - 1:
        weight = weight.unsqueeze(1)
    return weighted_mean(squared, weight)
