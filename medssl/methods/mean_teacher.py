"""Mean teacher: the student agrees with an average of its own past on unlabeled images.

Paper: Tarvainen and Valpola, "Mean teachers are better role models" (NeurIPS 2017); for
segmentation in the form of UA-MT (Yu et al., MICCAI 2019) without its uncertainty mask.

Algorithm, per iteration:
  1. student logits on the labeled and unlabeled patches (clean, one pass);
  2. teacher logits on the patches plus noise ``clip(s N(0, 1), -2s, 2s)``, no gradient;
  3. loss = supervised(labeled) + w(t) * mean squared difference of the two softmax outputs;
  4. after the optimizer step, teacher <- d teacher + (1 - d) student, d = min(1 - 1/(t+1), decay).

Presets: ``official`` follows the UA-MT code base, ``corrected`` is the default.
Differences of ``corrected`` from ``official``:
  * teacher in eval mode: its target depends neither on dropout nor on the other patches;
  * BatchNorm buffers averaged as the weights are, instead of drifting on noisy teacher inputs;
  * consistency on unlabeled patches only: labeled ones have a better target, and it is cheaper;
  * the ramp ends after 40 % of the iterations instead of with the last one, when the learning rate
    has already decayed, and rises smoothly instead of in 40 steps;
  * consistency weight 5 instead of 0.1: the mean square over voxels and classes is small, and at
    0.1 its gradient was 1 to 2 % of the supervised one (measured on hippocampus, 3 classes);
  * supervised loss Dice + CE as in method ``supervised``, not half of it;
  * the teacher predicts: the average is the better model of the two.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from medssl.methods.base import (
    Batch,
    NetworkBuilder,
    Progress,
    Settings,
    StepOutput,
    register,
)
from medssl.methods.student_teacher import StudentTeacher
from medssl.ops.ema import BufferRule
from medssl.ops.losses import DiceVariant, region_terms, softmax_mse
from medssl.ops.ramps import sigmoid_ramp

DICE = DiceVariant(background=False)


class MeanTeacherSettings(Settings):
    """Settings of ``mean_teacher``; null means: as the preset says."""

    preset: Literal["official", "corrected"] = "corrected"
    consistency_weight: float | None = Field(None, ge=0, description="after the ramp")
    consistency_on: Literal["unlabeled", "all"] | None = None
    ramp_fraction: float | None = Field(None, ge=0, le=1, description="of all iterations")
    ramp_steps: int | None = Field(None, ge=0, description="plateaus of the ramp; 0: smooth")
    noise: float | None = Field(None, ge=0, description="s.d. of the teacher's input noise")
    teacher_mode: Literal["train", "eval"] | None = None
    ema_decay: float | None = Field(None, ge=0, lt=1)
    ema_buffers: BufferRule | None = None
    supervised_weight: float | None = Field(None, gt=0, description="factor of Dice + CE")
    predict_with: Literal["student", "teacher"] | None = None


@dataclass(frozen=True)
class Rules:
    """The settings with the preset filled in."""

    consistency_weight: float = 5.0
    consistency_on: str = "unlabeled"
    ramp_fraction: float = 0.4
    ramp_steps: int = 0
    noise: float = 0.1
    teacher_mode: str = "eval"
    ema_decay: float = 0.99
    ema_buffers: BufferRule = "average"
    supervised_weight: float = 1.0
    predict_with: str = "teacher"


PRESETS = {
    "corrected": Rules(),
    "official": Rules(
        consistency_weight=0.1,
        consistency_on="all",
        ramp_fraction=1.0,
        ramp_steps=40,
        teacher_mode="train",
        ema_buffers="keep",
        supervised_weight=0.5,
        predict_with="student",
    ),
}


def resolve(settings: MeanTeacherSettings) -> Rules:
    """Fill in the preset."""
    given = {f.name: getattr(settings, f.name) for f in fields(Rules)}
    return replace(PRESETS[settings.preset], **{k: v for k, v in given.items() if v is not None})


def input_noise(image: Tensor, scale: float) -> Tensor:
    """Return Gaussian noise of standard deviation ``scale``, cut at two of them."""
    return (torch.randn_like(image) * scale).clamp_(-2 * scale, 2 * scale)


@register("mean_teacher")
class MeanTeacher(StudentTeacher):
    """Consistency between a student and the moving average of its weights."""

    Settings = MeanTeacherSettings
    settings: MeanTeacherSettings
    paper = "Tarvainen and Valpola, NeurIPS 2017 (arXiv 1703.01780)"

    def __init__(
        self,
        settings: MeanTeacherSettings,
        build_network: NetworkBuilder,
        *,
        num_classes: int,
        spatial_dims: int,
    ) -> None:
        super().__init__(
            settings,
            build_network,
            resolve(settings),
            num_classes=num_classes,
            spatial_dims=spatial_dims,
        )

    def consistency_weight(self, progress: Progress) -> float:
        """Return the consistency's weight at an iteration."""
        length = self.rules.ramp_fraction * progress.total
        every = max(int(length // self.rules.ramp_steps), 1) if self.rules.ramp_steps else 1
        return self.rules.consistency_weight * sigmoid_ramp(progress.iteration, length, every=every)

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Compute the supervised and the consistency loss."""
        labeled, unlabeled = batch.labeled, batch.unlabeled
        assert labeled is not None
        assert unlabeled is not None
        if not self.student.training:
            self.student.train()
        train = self.rules.teacher_mode == "train"
        if self.teacher.training is not train:
            self.teacher.train(train)

        images = torch.cat([labeled.image, unlabeled.image])
        first = 0 if self.rules.consistency_on == "all" else len(labeled.image)
        noisy = images[first:]
        if self.rules.noise:
            noisy = noisy + input_noise(noisy, self.rules.noise)
        logits = self.student(images)
        with torch.no_grad():
            target = self.teacher(noisy)

        count = len(labeled.image)
        ((dice, ce),) = region_terms(logits[:count], labeled.label, [None], dice=DICE)
        supervised = self.rules.supervised_weight * (dice + ce)
        consistency = softmax_mse(logits[first:], target)
        weight = self.consistency_weight(progress)
        return StepOutput(
            supervised + weight * consistency,
            {
                "loss/labeled": supervised.detach(),
                "loss/consistency": consistency.detach(),
                "weight/consistency": torch.tensor(weight),
            },
        )

    @classmethod
    def warn_recipe(cls, settings: MeanTeacherSettings, recipe: Any) -> list[str]:
        """Warn of settings that leave the unlabeled images without effect."""
        rules = resolve(settings)
        out = []
        if rules.consistency_weight == 0:
            out.append("method.consistency_weight is 0: the unlabeled images do nothing")
        if rules.noise == 0 and rules.teacher_mode == "eval":
            out.append(
                "method.noise is 0 with a teacher in eval mode: student and teacher see the same "
                "input, and the consistency loss has little to teach"
            )
        return out
