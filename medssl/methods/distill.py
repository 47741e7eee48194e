"""Distillation: one network learns what a trained model, or several as one, say of every voxel.

Paper: Hinton et al., "Distilling the Knowledge in a Neural Network" (2015, arXiv 1503.02531); with
unlabeled images SimCLRv2 (Chen et al., NeurIPS 2020) and SSLD (Cui et al., 2021, arXiv 2103.05959),
whose divergence is the default.

Algorithm, per iteration:
  1. the student predicts the labeled and unlabeled patches in one pass;
  2. the teacher predicts the same patches, augmented as they are: eval mode, no gradient, its
     members one after the other, so that memory does not grow with their number;
  3. loss = divergence(student, teacher) + Dice(student, teacher's probabilities) on all voxels,
     annotated or not, + labeled_weight * (Dice + CE of the labels).
The student predicts. The teacher never changes and is no part of what is saved: the manifest holds
its hash, and a run only goes on with the teacher it was begun with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from medssl.methods.base import Batch, Method, NetworkBuilder, Progress, StepOutput
from medssl.methods.distill_settings import DistillSettings
from medssl.ops.deep_supervision import finest, over_scales
from medssl.ops.distillation import divergence
from medssl.ops.losses import dice_loss, supervised_loss
from medssl.ops.modes import set_mode
from medssl.ops.pseudo_labels import hard_labels
from medssl.ops.variants import FOREGROUND


class Distill(Method):
    """A student that learns the probabilities of a frozen teacher."""

    Settings = DistillSettings
    settings: DistillSettings

    def make_networks(self, build: NetworkBuilder) -> None:
        """Make the student; until there is a teacher, a random network stands in for it."""
        self.student = build()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.learn_from(build())

    def learn_from(self, teacher: nn.Module) -> None:
        """Take the trained model: image in, logits or logarithms of probabilities out."""
        # Within a tuple it is no child: neither state nor trained, and always in eval mode.
        self._taught_by = (teacher.eval().requires_grad_(False),)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        """Move the teacher along."""
        self._taught_by[0]._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def trainable(self, stage: str) -> dict[str, list[nn.Parameter]]:
        """Optimize the student."""
        return {"student": list(self.student.parameters())}

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Compute the losses against the teacher and against the labels."""
        labeled, unlabeled = batch.both()
        settings, count = self.settings, len(labeled.image)
        images = torch.cat([labeled.image, unlabeled.image])
        set_mode(self.student, "train")
        logits = self.student(images)
        with torch.no_grad():
            told = self._taught_by[0](images)

        distilled = over_scales(self.distance, logits, told)
        supervised = supervised_loss(logits[:count], labeled.label, unions=self.unions)
        started = progress.iteration >= settings.labels_from * progress.total
        weight = settings.labeled_weight * started
        agree = (hard_labels(finest(logits).detach()) == hard_labels(told)).float().mean()
        return StepOutput(
            distilled + weight * supervised,
            {
                "loss/labeled": supervised.detach(),
                "loss/distillation": distilled.detach(),
                "weight/labeled": torch.tensor(weight),
                "teacher/agreement": agree,
            },
        )

    def distance(self, logits: Tensor, told: Tensor) -> Tensor:
        """Compute the loss of ``(B, C, *spatial)`` logits against those of the teacher."""
        s = self.settings
        apart = divergence(logits, told, kind=s.divergence, temperature=s.temperature)
        probs = [torch.softmax(x.float(), dim=1) for x in (logits, told)]
        return s.divergence_weight * apart + s.dice_weight * dice_loss(*probs, variant=FOREGROUND)

    def predictor(self) -> nn.Module:
        """Return the student."""
        return self.student
