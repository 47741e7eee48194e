"""Dice and cross-entropy with voxel weights and factors, from the package's own terms."""

from __future__ import annotations

from torch import Tensor

from medssl.ops.losses import IGNORE_INDEX, region_terms
from medssl.ops.variants import WHOLE, DiceVariant


def dice_ce_loss(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = IGNORE_INDEX,
    dice: DiceVariant = WHOLE,
    dice_weight: float = 1.0,
    ce_weight: float = 1.0,
) -> Tensor:
    """Compute ``dice_weight * Dice + ce_weight * CE`` over the annotated voxels.

    Args:
        logits: ``(B, C, *spatial)``, any floating dtype.
        target: ``(B, *spatial)`` class indices; ``ignore_index`` marks voxels without annotation.
        weight: ``(B or 1, *spatial)`` voxel weights, None for 1.
        ignore_index: label of voxels that do not count.
        dice: which Dice.
        dice_weight: factor of the Dice loss.
        ce_weight: factor of the cross-entropy.
    """
    ((d, ce),) = region_terms(logits, target, [weight], dice=dice, ignore_index=ignore_index)
    return dice_weight * d + ce_weight * ce
