"""What ``uamt`` and ``anatomical`` share: a mean teacher whose consistency is weighted by voxel."""

from __future__ import annotations

import torch
from torch import Tensor

from medssl.methods.base import Batch, NetworkBuilder, Progress, StepOutput
from medssl.methods.mean_teacher import NoisyTeacher
from medssl.methods.weighted_teacher_settings import WeightedTeacherSettings
from medssl.ops.certainty import deviation, error_auroc, probabilities, weighted_consistency
from medssl.ops.deep_supervision import finest
from medssl.ops.losses import one_hot
from medssl.ops.perturb import mixing_of
from medssl.ops.pseudo_labels import hard_labels
from medssl.ops.ramps import sigmoid_ramp


class WeightedTeacher(NoisyTeacher):
    """A mean teacher whose consistency loss is weighted; a subclass says how in ``weigh``."""

    settings: WeightedTeacherSettings

    def make_networks(self, build: NetworkBuilder) -> None:
        """Make student and teacher, the latter with weights of its own where that is wanted."""
        super().make_networks(build)
        if self.settings.teacher_init == "independent":
            self.teacher = build().requires_grad_(False)

    def consistency_weight(self, progress: Progress) -> float:
        """Return the consistency's weight at an iteration."""
        s = self.settings
        if s.ramp_fraction == "off":
            length = s.ramp_steps * s.ramp_every
            ramp = sigmoid_ramp(progress.iteration, length, every=s.ramp_every)
        else:
            ramp = progress.ramp(s.ramp_fraction, s.ramp_steps)
        return s.consistency_weight * ramp

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
        labeled, unlabeled = batch.both()
        self.set_modes()
        images = torch.cat([labeled.image, unlabeled.image])
        count = len(labeled.image)
        first = 0 if self.settings.consistency_on == "all" else count
        mixed = mixing_of(self.settings.mixing, unlabeled.image, progress.rng("mixing"))
        logits = self.student(mixed(images))
        with torch.no_grad():
            target = self.teacher(self.perturb(images[first:]))
            certainty, terms = self.weigh(images[first:], target, progress)
            certainty = None if certainty is None else mixed(certainty)
        consistency = weighted_consistency(
            finest(logits)[first:], mixed(target), certainty, normalizer=self.settings.normalizer
        )
        weight = self.consistency_weight(progress)
        loss, told = self.summed(logits, labeled.label, consistency, weight)
        return StepOutput(loss, {**terms, **told})

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
