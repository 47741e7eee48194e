"""Label masks before and after an autoencoder that repairs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from medssl.ops.losses import IGNORE_INDEX, dice_loss, one_hot, weighted_mean
from medssl.ops.variants import FOREGROUND, DiceVariant


def encode_mask(label: Tensor, num_classes: int, kind: str) -> Tensor:
    """Encode ``(B, *spatial)`` class indices for the autoencoder.

    Returns:
        ``index``: ``(B, 1, *spatial)`` class indices as float; else ``(B, C, *spatial)`` one-hot.
    """
    return label.unsqueeze(1).float() if kind == "index" else one_hot(label, num_classes)


def reconstruction_terms(
    probs: Tensor, target: Tensor, valid: Tensor | None = None, *, dice: DiceVariant = FOREGROUND
) -> tuple[Tensor, Tensor]:
    """Return mean squared error and Dice loss of a repaired mask; the loss is half their sum.

    Args:
        probs: ``(B, C, *spatial)`` probabilities.
        target: ``(B, C, *spatial)`` one-hot, background included.
        valid: ``(B, *spatial)``, 0 where not annotated; None: everything counts.
        dice: of the foreground classes by default.

    Source: Adiga V et al., MICCAI 2022, published code.
    """
    weight = None if valid is None else valid.unsqueeze(1)
    squared = weighted_mean((probs - target).square(), weight)
    return squared, dice_loss(probs, target, valid, variant=dice)


def repairs(
    masks: Mapping[str, Tensor],
    label: Tensor,
    num_classes: int,
    repair: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """Measure the foreground Dice of masks before and after they are repaired.

    Args:
        masks: class indices ``(B, *spatial)`` by name.
        label: the truth ``(B, *spatial)``; voxels of 255 do not count.
        num_classes: classes including background.
        repair: from class indices to repaired ones.

    Returns:
        ``autoencoder/NAME_before`` and ``autoencoder/NAME_after`` of each.
    """
    valid = (label != IGNORE_INDEX).float()
    reference = one_hot(label.masked_fill(label == IGNORE_INDEX, 0), num_classes)
    out = {}
    for name, mask in masks.items():
        for when, classes in (("before", mask), ("after", repair(mask))):
            dice = dice_loss(one_hot(classes, num_classes), reference, valid, variant=FOREGROUND)
            out[f"autoencoder/{name}_{when}"] = 1 - dice
    return out
