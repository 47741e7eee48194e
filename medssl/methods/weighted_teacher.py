"""What ``uamt`` and ``anatomical`` share: a mean teacher whose consistency is weighted by voxel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from medssl.methods.base import Batch, NetworkBuilder, Progress, StepOutput
from medssl.methods.mean_teacher import DICE, MeanTeacher, MeanTeacherSettings, input_noise
from medssl.methods.mean_teacher import Rules as MeanTeacherRules
from medssl.ops.certainty import deviation, error_auroc, probabilities, weighted_consistency
from medssl.ops.losses import one_hot, region_terms
from medssl.ops.pseudo_labels import hard_labels
from medssl.ops.ramps import sigmoid_ramp


class WeightedTeacherSettings(MeanTeacherSettings):
    """Settings of a weighted mean teacher; null means: as the preset says."""

    ramp_every: int | None = Field(
        None, ge=1, description="iterations per plateau, where ramp_fraction is null"
    )
    teacher_init: Literal["copy", "independent"] | None = Field(
        None, description="copy of the student, or weights of its own until the first update"
    )
    normalizer: Literal["official", "mean", "poster"] | None = Field(
        None, description="of the weighted consistency"
    )


@dataclass(frozen=True)
class WeightedTeacherRules(MeanTeacherRules):
    """The settings with the preset filled in; the defaults are preset ``corrected``.

    ``ramp_fraction`` None: the ramp has ``ramp_steps`` plateaus of ``ramp_every`` iterations, as
    published, whatever the length of the run.
    """

    ramp_fraction: float | None = 0.4  # type: ignore[assignment]
    ramp_every: int = 150
    teacher_init: str = "copy"
    normalizer: Literal["official", "mean", "poster"] = "mean"


PUBLISHED = {
    "consistency_weight": 0.1,
    "ramp_fraction": None,
    "ramp_steps": 40,
    "teacher_mode": "train",
    "teacher_init": "independent",
    "ema_buffers": "keep",
    "supervised_weight": 0.5,
    "predict_with": "student",
    "normalizer": "official",
}
"""What both published codes, one derived from the other, have in common."""


class WeightedTeacher(MeanTeacher):
    """A mean teacher whose consistency loss is weighted; a subclass says how in ``weigh``."""

    rules: WeightedTeacherRules

    def __init__(
        self,
        settings: WeightedTeacherSettings,
        build_network: NetworkBuilder,
        rules: WeightedTeacherRules,
        *,
        num_classes: int,
        spatial_dims: int,
    ) -> None:
        super().__init__(
            settings, build_network, num_classes=num_classes, spatial_dims=spatial_dims
        )
        self.rules = rules
        if rules.teacher_init == "independent":
            self.teacher = build_network().requires_grad_(False)

    def consistency_weight(self, progress: Progress) -> float:
        """Return the consistency's weight at an iteration."""
        rules = self.rules
        if rules.ramp_fraction is not None:
            return super().consistency_weight(progress)
        length = rules.ramp_steps * rules.ramp_every
        ramp = sigmoid_ramp(progress.iteration, length, every=rules.ramp_every)
        return rules.consistency_weight * ramp

    def perturb(self, image: Tensor) -> Tensor:
        """Return what a teacher sees of ``image``: it and noise from torch's generator."""
        return image + input_noise(image, self.rules.noise) if self.rules.noise else image

    def weigh(
        self, image: Tensor, teacher_logits: Tensor, progress: Progress
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Return the weight ``(B, C or 1, *spatial)`` of the consistency, and what to log.

        Called without gradients.

        Args:
            image: the patches the consistency is taken on, without noise.
            teacher_logits: the consistency's target.
            progress: where training stands.
        """
        raise NotImplementedError

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Compute the supervised and the weighted consistency loss."""
        labeled, unlabeled, rules = batch.labeled, batch.unlabeled, self.rules
        assert labeled is not None
        assert unlabeled is not None
        self.set_modes()
        images = torch.cat([labeled.image, unlabeled.image])
        count = len(labeled.image)
        first = 0 if rules.consistency_on == "all" else count
        logits = self.student(images)
        with torch.no_grad():
            target = self.teacher(self.perturb(images[first:]))
            certainty, terms = self.weigh(images[first:], target, progress)

        ((dice, ce),) = region_terms(logits[:count], labeled.label, [None], dice=DICE)
        supervised = rules.supervised_weight * (dice + ce)
        consistency = weighted_consistency(
            logits[first:], target, certainty, normalizer=rules.normalizer
        )
        weight = self.consistency_weight(progress)
        terms |= {
            "loss/labeled": supervised.detach(),
            "loss/consistency": consistency.detach(),
            "weight/consistency": torch.tensor(weight),
        }
        return StepOutput(supervised + weight * consistency, terms)

    def uncertainty(
        self, image: Tensor, teacher_logits: Tensor, progress: Progress
    ) -> Tensor | None:
        """Return what ``weigh`` makes its weight of, ``(B, C or 1, *spatial)``; None: nothing."""
        raise NotImplementedError

    def diagnose(self, image: Tensor, label: Tensor, progress: Progress) -> dict[str, Tensor]:
        """Return how well the uncertainty, and confidence alone, find the teacher's errors.

        ``certainty/auroc`` is the area under the ROC curve of U against the wrong voxels, and
        ``certainty/auroc_identity`` that of the squared distance of the teacher's probabilities
        from their own hard segmentation: what is to be had without the method.
        """
        logits = self.teacher(image)
        probs = probabilities(logits)
        hard = hard_labels(probs)
        alone = deviation(one_hot(hard, self.num_classes), probs)
        out = {"certainty/auroc_identity": error_auroc(alone, hard, label)}
        own = self.uncertainty(image, logits, progress)
        if own is not None:
            out["certainty/auroc"] = error_auroc(own, hard, label)
        return out

    def set_modes(self) -> None:
        """Put student and teacher in the modes in which they train."""
        if not self.student.training:
            self.student.train()
        train = self.rules.teacher_mode == "train"
        if self.teacher.training is not train:
            self.teacher.train(train)
