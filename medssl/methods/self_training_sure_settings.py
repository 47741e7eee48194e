"""Settings of ``self_training`` and ``fixmatch``: which guesses count, and how much they do."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Literal

from medssl.methods.fields import NotNegative, Share, setting
from medssl.methods.settings import AverageSettings, Sections
from medssl.ops.variants import LossName


class SureSettings(AverageSettings):
    """Which guesses of unlabeled patches count, and how much they do."""

    labels_optional = True

    threshold: Share = setting(0.7, "FixMatch, sec. 2.2")
    """Tau, least confidence that counts; of a rule by class, for classes never predicted so far."""
    unlabeled_weight: NotNegative = setting(1.0, "FixMatch, sec. 2.2")
    """Lambda, factor of the guessed part after the ramp."""
    ramp_fraction: Share = setting(0.4, "medssl")
    """Share of all iterations until the ramp ends."""
    loss: LossName = setting("dice_ce", "FixMatch, eqs. 3, 4")
    """Of both parts; soft targets have cross-entropy alone."""
    normalize: Literal["all", "kept"] = setting("all", "FixMatch, eq. 4")
    """Guessed voxels to divide by: all, or those that count."""

    @property
    def asks_confidence(self) -> bool:
        """Whether a guess has to be sure in order to count."""
        return True

    def warn_recipe(self, recipe: Sections, overridden: Collection[str]) -> Iterator[str]:
        """Warn of settings that leave the unlabeled images without effect."""
        named = f"method.threshold is {self.threshold:g}"
        if self.unlabeled_weight == 0:
            yield "method.unlabeled_weight is 0: the unlabeled images do nothing"
        if self.asks_confidence and self.threshold > 0.9999:
            yield f"{named}: next to no voxel is ever so sure, the images do nothing; try 0.95"
        if self.asks_confidence and self.threshold <= 0.5:
            yield f"{named}: with two classes every voxel is as sure as that, and it does nothing"
        blind = recipe.training.augment.strong_probability == 0
        if blind and self.unlabeled_views and not self.mixes:
            yield (
                "training.augment.strong_probability is 0: the strong view is the weak one, and "
                "its pseudo-labels have little to teach"
            )
