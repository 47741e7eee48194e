"""Mean teacher: the student agrees with an average of its own past on unlabeled images.

Paper: Tarvainen and Valpola, "Mean teachers are better role models" (NeurIPS 2017); for
segmentation in the form of UA-MT (Yu et al., MICCAI 2019) without its uncertainty mask.

Algorithm, per iteration:
  1. student logits on the labeled and unlabeled patches (clean, one pass), the latter mixed;
  2. teacher logits on the patches plus noise ``clip(s N(0, 1), -2s, 2s)``, no gradient;
  3. its predictions are mixed as the patches are;
     loss = supervised(labeled) + w(t) * mean squared difference of the two softmax outputs;
  4. after the optimizer step, teacher <- d teacher + (1 - d) student, d = min(1 - 1/(t+1), decay).

Presets: ``official`` follows the UA-MT code base, ``corrected`` is the default.
Differences of ``corrected`` from ``official``:
  * teacher in eval mode: its target depends neither on dropout nor on the other patches;
  * BatchNorm buffers averaged as the weights are, instead of drifting on noisy teacher inputs;
  * ``mixing: cutmix``, boxes of other patches: the student sees something new, not noise alone;
  * consistency on unlabeled patches only: labeled ones have a better target, and it is cheaper;
  * the ramp ends after 40 % of the iterations instead of with the last one, when the learning rate
    has already decayed, and rises smoothly instead of in 40 steps;
  * consistency weight 5 instead of 0.1: the mean square over voxels and classes is small, and at
    0.1 its gradient was 1 to 2 % of the supervised one (measured on hippocampus, 3 classes);
  * supervised loss Dice + CE as in method ``supervised``, not half of it;
  * the teacher predicts: the average is the better model of the two.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medssl.methods.base import Batch, Progress, StepOutput
from medssl.methods.mean_teacher_settings import ConsistencySettings, MeanTeacherSettings
from medssl.methods.student_teacher import StudentTeacher
from medssl.ops.deep_supervision import Prediction, finest
from medssl.ops.losses import softmax_mse, supervised_loss
from medssl.ops.modes import set_mode
from medssl.ops.perturb import mixing_of


def input_noise(image: Tensor, scale: float) -> Tensor:
    """Return Gaussian noise of standard deviation ``scale``, cut at two of them."""
    return (torch.randn_like(image) * scale).clamp_(-2 * scale, 2 * scale)


class NoisyTeacher(StudentTeacher):
    """A teacher whose predictions of noisy patches are the target of a consistency loss."""

    settings: ConsistencySettings

    def perturb(self, image: Tensor) -> Tensor:
        """Return what a teacher sees of ``image``: it and noise from torch's generator."""
        return image + input_noise(image, self.settings.noise) if self.settings.noise else image

    def set_modes(self) -> None:
        """Put student and teacher in the modes in which they train."""
        set_mode(self.student, "train")
        set_mode(self.teacher, self.settings.teacher_mode)

    def summed(
        self, logits: Prediction, label: Tensor, consistency: Tensor, weight: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of labels and consistency together, and what to log of both.

        Args:
            logits: the student's, ``(B, C, *spatial)``, labeled patches first.
            label: of these, ``(L, *spatial)`` class indices, 255 where there is none.
            consistency: its loss.
            weight: of it.
        """
        truth = supervised_loss(logits[: len(label)], label, unions=self.unions)
        supervised = self.settings.supervised_weight * truth
        terms = {
            "loss/labeled": supervised.detach(),
            "loss/consistency": consistency.detach(),
            "weight/consistency": torch.tensor(weight),
        }
        return supervised + weight * consistency, terms


class MeanTeacher(NoisyTeacher):
    """Consistency between a student and the moving average of its weights."""

    Settings = MeanTeacherSettings
    settings: MeanTeacherSettings

    def consistency_weight(self, progress: Progress) -> float:
        """Return the consistency's weight at an iteration."""
        s = self.settings
        return s.consistency_weight * progress.ramp(s.ramp_fraction, s.ramp_steps)

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Compute the supervised and the consistency loss."""
        labeled, unlabeled = batch.both()
        self.set_modes()
        images = torch.cat([labeled.image, unlabeled.image])
        count = len(labeled.image)
        first = 0 if self.settings.consistency_on == "all" else count
        noisy = self.perturb(images[first:])
        mixed = mixing_of(self.settings.mixing, unlabeled.image, progress.rng("mixing"))
        logits = self.student(mixed(images))
        with torch.no_grad():
            target = self.teacher(noisy)
        consistency = softmax_mse(finest(logits)[first:], mixed(target))
        weight = self.consistency_weight(progress)
        return StepOutput(*self.summed(logits, labeled.label, consistency, weight))
