"""Settings of ``supervised``; the method is in :mod:`medssl.methods.supervised`."""

from __future__ import annotations

from collections.abc import Iterator

from medssl.methods.fields import NotNegative, setting
from medssl.methods.plan_hints import PlanHints
from medssl.methods.settings import MethodSettings, Sections, Stage
from medssl.ops.variants import DiceVariant


class SupervisedSettings(MethodSettings):
    """Settings of ``supervised``."""

    paper = "baseline: labeled cases only"
    scales = True
    regions = True
    uses_unlabeled = False
    plan_hints = PlanHints("learns from the labels alone: the baseline")

    dice_weight: NotNegative = setting(1.0, "medssl")
    """Factor of the Dice loss."""
    ce_weight: NotNegative = setting(1.0, "medssl")
    """Factor of the cross-entropy."""
    dice_per_sample: bool = setting(False, "medssl")
    """Dice per patch instead of per batch."""
    dice_squared: bool = setting(True, "V-Net, eq. 1")
    """Squared denominator (V-Net) or plain."""
    dice_background: bool = setting(False, "medssl")
    """Average over the background class too."""

    @property
    def dice(self) -> DiceVariant:
        """The Dice loss that is meant."""
        return DiceVariant(
            per_sample=self.dice_per_sample,
            squared=self.dice_squared,
            background=self.dice_background,
        )

    def stages(self, iterations: int) -> list[Stage]:
        """Spend the whole budget on one stage of labels."""
        return [Stage("train", iterations, streams=("labeled",))]

    def check_recipe(self, recipe: Sections) -> Iterator[str]:
        """Refuse a loss that is zero."""
        nothing = self.dice_weight == 0 and self.ce_weight == 0
        words = "method.dice_weight and method.ce_weight are both 0: there is nothing to learn"
        if nothing:
            yield words
