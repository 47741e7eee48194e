"""Supervised training on the labeled cases alone: the baseline of every comparison.

One stage, one network, Dice + cross-entropy. It sees the same augmentation, schedule and iterations
as the semi-supervised methods, so that a difference is owed to the unlabeled images.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import nn

from medssl.methods.base import (
    Batch,
    Method,
    NetworkBuilder,
    Progress,
    Settings,
    Stage,
    StepOutput,
    register,
)
from medssl.ops.losses import DiceVariant, region_terms


class SupervisedSettings(Settings):
    """Settings of ``supervised``."""

    dice_weight: float = Field(1.0, ge=0, description="factor of the Dice loss")
    ce_weight: float = Field(1.0, ge=0, description="factor of the cross-entropy")
    dice_per_sample: bool = Field(False, description="Dice per patch instead of per batch")
    dice_squared: bool = Field(True, description="squared denominator (V-Net) or plain")
    dice_background: bool = Field(False, description="average over the background class too")

    @property
    def dice(self) -> DiceVariant:
        """The Dice loss that is meant."""
        return DiceVariant(
            per_sample=self.dice_per_sample,
            squared=self.dice_squared,
            background=self.dice_background,
        )


@register("supervised")
class Supervised(Method):
    """Dice + cross-entropy on labeled patches."""

    Settings = SupervisedSettings
    settings: SupervisedSettings
    uses_unlabeled = False
    paper = "baseline: labeled cases only"

    def __init__(
        self,
        settings: SupervisedSettings,
        build_network: NetworkBuilder,
        *,
        num_classes: int,
        spatial_dims: int,
    ) -> None:
        super().__init__(
            settings, build_network, num_classes=num_classes, spatial_dims=spatial_dims
        )
        self.student = build_network()

    def stages(self, iterations: int) -> list[Stage]:
        """Spend the whole budget on one stage."""
        return [Stage("train", iterations, streams=("labeled",))]

    def trainable(self, stage: str) -> dict[str, list[nn.Parameter]]:
        """Optimize the network."""
        return {"student": list(self.student.parameters())}

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Compute the loss of one labeled batch."""
        labeled = batch.labeled
        assert labeled is not None
        if not self.student.training:
            self.student.train()
        logits = self.student(labeled.image)
        ((dice, ce),) = region_terms(logits, labeled.label, [None], dice=self.settings.dice)
        loss = self.settings.dice_weight * dice + self.settings.ce_weight * ce
        return StepOutput(
            loss,
            {"loss/labeled": loss.detach(), "loss/dice": dice.detach(), "loss/ce": ce.detach()},
        )

    def predictor(self) -> nn.Module:
        """Return the network."""
        return self.student

    @classmethod
    def check_recipe(cls, settings: SupervisedSettings, recipe: Any) -> list[str]:
        """Refuse a loss that is zero."""
        if settings.dice_weight == 0 and settings.ce_weight == 0:
            return ["method.dice_weight and method.ce_weight are both 0: there is nothing to learn"]
        return []
