"""The choices that the operations offer, by name; neither torch nor anything heavy is imported.

Settings name them as their types, so that a recipe is checked without loading what computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BufferRule = Literal["average", "copy", "keep"]
"""What happens to a teacher's buffers, see :func:`medssl.ops.ema.ema_update`."""

LossName = Literal["ce", "dice_ce"]
"""Cross-entropy, or Dice loss and cross-entropy, see :func:`medssl.ops.losses.supervised_loss`."""

Mixing = Literal["none", "cutmix"]
"""How patches are mixed, see :mod:`medssl.ops.perturb`."""
PublishedBox = Literal["rectangle", "centred"]
"""Boxes of published codes, see :func:`medssl.ops.perturb.published_boxes_of_the_next`."""

Divergence = Literal["js", "kl"]
"""Of two predictions, see :func:`medssl.ops.distillation.divergence`."""

Deviation = Literal["squared", "apart", "abs", "entropy"]
Reduction = Literal["per_class", "sum", "mean", "max"]
Weighting = Literal["exp", "threshold", "none"]
Normalizer = Literal["official", "mean", "poster"]
"""Of a weighted consistency, see :mod:`medssl.ops.certainty`."""

Granularity = Literal["voxel", "class", "sample"]
"""Of an uncertainty, see :func:`medssl.ops.uncertainty.reduce_uncertainty`."""

CorruptionStyle = Literal["coherent", "official2d"]
"""Of label masks, see :func:`medssl.ops.corruption.corrupt_masks`."""

ErrorRegion = Literal["true", "official"]
KLTerm = Literal["voxel", "official", "off"]
UniformTerm = Literal["proper", "official"]
"""Losses where predictions disagree, see :mod:`medssl.ops.disagreement`."""


@dataclass(frozen=True)
class DiceVariant:
    """Which Dice loss: the literature's versions differ, and so do their gradients.

    Attributes:
        per_sample: sum over the voxels of one sample and average over samples and classes, instead
            of summing over the whole batch first.
        squared: denominator of squares (V-Net) instead of plain sums.
        smooth: added to numerator and denominator.
        background: average over the background class too.
        legacy_background: take the background's sums over the whole image even under a region
            weight, as the BCP code did until October 2023 (kept to reproduce published numbers).
    """

    per_sample: bool = False
    squared: bool = True
    smooth: float = 1e-5
    background: bool = True
    legacy_background: bool = False


WHOLE = DiceVariant()
"""Over the batch, squared, background included."""
FOREGROUND = DiceVariant(background=False)
"""The same of the foreground classes: the Dice loss of the presets ``corrected``."""
