"""Supervised training on the labeled cases alone: the baseline of every comparison.

One stage, one network, Dice + cross-entropy. It sees the same augmentation, schedule and iterations
as the semi-supervised methods, so that a difference is owed to the unlabeled images.
"""

from __future__ import annotations

from torch import nn

from medssl.methods.base import Batch, Method, NetworkBuilder, Progress, StepOutput
from medssl.methods.supervised_settings import SupervisedSettings
from medssl.ops.losses import dice_and_ce
from medssl.ops.modes import set_mode


class Supervised(Method):
    """Dice + cross-entropy on labeled patches."""

    Settings = SupervisedSettings
    settings: SupervisedSettings

    def make_networks(self, build: NetworkBuilder) -> None:
        """Make the network."""
        self.student = build()

    def trainable(self, stage: str) -> dict[str, list[nn.Parameter]]:
        """Optimize the network."""
        return {"student": list(self.student.parameters())}

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Compute the loss of one labeled batch."""
        labeled = batch.labeled
        assert labeled is not None
        set_mode(self.student, "train")
        logits, dice_variant = self.student(labeled.image), self.settings.dice
        dice, ce = dice_and_ce(logits, labeled.label, dice=dice_variant, unions=self.unions)
        loss = self.settings.dice_weight * dice + self.settings.ce_weight * ce
        return StepOutput(
            loss,
            {"loss/labeled": loss.detach(), "loss/dice": dice.detach(), "loss/ce": ce.detach()},
        )

    def predictor(self) -> nn.Module:
        """Return the network."""
        return self.student
