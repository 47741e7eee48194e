"""Settings of ``cps``; the method is in :mod:`medssl.methods.cps`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import ClassVar, Literal

from medssl.methods.fields import Natural, NotNegative, Positive, Preset, Share, setting
from medssl.methods.mixing_settings import MixingSettings
from medssl.methods.plan_hints import PlanHints
from medssl.methods.settings import DiceSettings, Sections, Tables
from medssl.ops.variants import LossName


class CPSSettings(MixingSettings, DiceSettings):
    """Settings of ``cps``."""

    paper = "Chen et al., CVPR 2021 (arXiv 2106.01226)"
    scales = True
    regions = True
    plan_hints = PlanHints(
        "two networks label the unlabeled scans for each other", trained_networks=2
    )
    presets: ClassVar[Tables] = {
        "official": {"variant": "paper", "mixing": "none"},
        "official/paper": {
            "labeled_loss": "ce",
            "cross_loss": "ce",
            "cross_weight": 1.5,
            "ramp_fraction": 0.0,
            "joint_forward": False,
        },
        "official/medical": {
            "labeled_weight": 0.5,
            "cross_loss": "ce",
            "cross_on": "unlabeled",
            "cross_weight": 0.1,
            "ramp_fraction": 1.0,
            "ramp_steps": 200,
            "init": "kaiming_xavier",
            "dice_background": True,
        },
    }

    preset: Preset = setting("corrected", "medssl")
    """Official follows published code."""
    variant: Literal["off", "paper", "medical"] = setting("off", "medssl")
    """Official only: whose code to follow, by default that of the paper."""
    labeled_loss: LossName = setting("dice_ce", "eq. 1")
    """Loss of the labels."""
    labeled_weight: Positive = setting(1.0, "SSL4MIS")
    """Factor of the labeled loss."""
    cross_loss: LossName = setting("dice_ce", "eqs. 2, 3")
    """Loss of the pseudo-labels."""
    cross_on: Literal["all", "unlabeled"] = setting("all", "eqs. 2, 3")
    """Patches that get pseudo-labels."""
    cross_weight: NotNegative = setting(1.0, "eq. 4")
    """Lambda, factor of the cross loss after the ramp."""
    ramp_fraction: Share = setting(0.4, "SSL4MIS")
    """Share of all iterations until the ramp ends."""
    ramp_steps: Natural = setting(0, "SSL4MIS")
    """Plateaus of the ramp; 0: smooth."""
    joint_forward: bool = setting(True, "medssl")
    """Labeled and unlabeled patches in one pass."""
    labels_from: Literal["forward", "eval"] = setting("forward", "medssl")
    """With eval, and where patches are mixed: extra passes without dropout, half the memory."""
    init: Literal["network", "kaiming_xavier"] = setting("network", "SSL4MIS")
    """Initial weights: the network's own, or Kaiming and Xavier."""
    dice_background: bool = setting(False, "SSL4MIS")
    """Dice of the background class too."""
    predict_with: Literal["first", "second", "mean"] = setting("first", "sec. 4")
    """Network that validates and predicts, or the mean of both."""

    def warn_recipe(self, recipe: Sections, overridden: Collection[str]) -> Iterator[str]:
        """Warn of settings that can do nothing."""
        no_dice = "dice_ce" not in (self.labeled_loss, self.cross_loss)
        if self.cross_weight == 0:
            yield "method.cross_weight is 0: the unlabeled images do nothing"
        if self.ramp_fraction == 0 and self.ramp_steps and "ramp_steps" in overridden:
            yield "method.ramp_steps does nothing with ramp_fraction 0"
        if no_dice and self.dice_background and "dice_background" in overridden:
            yield "method.dice_background does nothing without a Dice loss"
