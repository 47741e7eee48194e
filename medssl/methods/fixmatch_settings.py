"""Settings of ``fixmatch``; the method is in :mod:`medssl.methods.fixmatch`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import ClassVar, Literal

from medssl.methods.fields import Mode, NotNegative, Share, Who, setting
from medssl.methods.mixing_settings import MixingSettings
from medssl.methods.plan_hints import PlanHints
from medssl.methods.settings import Sections, Tables, TeacherSettings
from medssl.ops.variants import LossName


class FixMatchSettings(MixingSettings, TeacherSettings):
    """Settings of ``fixmatch``."""

    paper = "Sohn et al., NeurIPS 2020 (arXiv 2001.07685)"
    scales = True
    unlabeled_views = ("strong",)
    plan_hints = PlanHints(
        "sure guesses on unlabeled scans become labels for altered copies of them"
    )
    presets: ClassVar[Tables] = {
        "official": {
            "mixing": "none",
            "threshold": 0.95,
            "ramp_fraction": 0.0,
            "loss": "ce",
            "labels_from": "student",
            "label_mode": "train",
            "ema_decay": 0.999,
            "ema_warmup": False,
            "ema_buffers": "copy",
        }
    }

    threshold: Share = setting(0.7, "sec. 2.2")
    """Tau, least confidence that counts."""
    unlabeled_weight: NotNegative = setting(1.0, "sec. 2.2")
    """Lambda_u, factor of the strong view's loss after the ramp."""
    ramp_fraction: Share = setting(0.4, "medssl")
    """Share of all iterations until the ramp ends."""
    loss: LossName = setting("dice_ce", "eqs. 3, 4")
    """Of both parts."""
    normalize: Literal["all", "kept"] = setting("all", "eq. 4")
    """Voxels to divide by."""
    labels_from: Who = setting("teacher", "eq. 4")
    """Network that labels."""
    label_mode: Mode = setting("eval", "published code")
    """Mode of the labeling pass."""

    def warn_recipe(self, recipe: Sections, overridden: Collection[str]) -> Iterator[str]:
        """Warn of settings that leave the unlabeled images without effect."""
        named = f"method.threshold is {self.threshold:g}"
        if self.unlabeled_weight == 0:
            yield "method.unlabeled_weight is 0: the unlabeled images do nothing"
        if self.threshold > 0.9999:
            yield (
                f"{named}: next to no voxel is ever so sure, and the unlabeled images do nothing; "
                "the paper's value is 0.95"
            )
        if self.threshold <= 0.5:
            yield (
                f"{named}: with two classes every voxel is as sure as that, and the threshold does "
                "nothing"
            )
        if recipe.training.augment.strong_probability == 0 and self.mixing == "none":
            yield (
                "training.augment.strong_probability is 0: the strong view is the weak one, and "
                "its pseudo-labels have little to teach"
            )
