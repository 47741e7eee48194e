"""UA-MT: a mean teacher that teaches only where Monte-Carlo dropout finds it certain.

Paper: Yu, Wang, Li, Fu, Heng, "Uncertainty-aware Self-ensembling Model for Semi-supervised 3D Left
Atrium Segmentation" (MICCAI 2019, arXiv 1907.07034).

Algorithm, per iteration:
  1. student logits on all patches (clean, one pass, unlabeled ones mixed); teacher logits on noisy
     ones that are not mixed: the target;
  2. 8 more teacher passes with dropout and fresh noise, two copies of the batch at a time;
     U = entropy of the mean of their softmax outputs;
  3. mask = U < H, with H rising from 0.75 to 1 times the largest entropy over the whole run;
  4. target and mask are mixed as the patches are;
     loss = supervised(labeled) + w(t) * squared softmax difference, averaged over the mask;
  5. teacher <- average of the student's weights.

Presets. ``official`` follows the published code: by default its script ``unlabel``, with
``consistency_on: all`` its script ``certainty``. Its weight ramp has 40 plateaus of 150 iterations
whatever the length of the run; ``ramp_fraction`` scales it. ``corrected`` (default):
  * the largest entropy is log C (official: log 2 literally, which for more classes rejects most of
    what it should accept) and the mean is over C classes (official: divided by 2);
  * teacher in eval mode and dropout alone switched on for the stochastic passes: BatchNorm makes
    no difference between passes, and the target is not one random draw;
  * BatchNorm buffers averaged as the weights are;
  * the teacher starts as a copy, a smooth ramp over 40 % of the run to a weight of 5 (official:
    0.1), supervised loss not halved, CutMix, the teacher predicts: all as in ``mean_teacher``, so
    that the two differ by the mask alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from medssl.methods.base import Progress
from medssl.methods.uamt_settings import UAMTSettings
from medssl.methods.weighted_teacher import WeightedTeacher
from medssl.ops.certainty import entropy_threshold, probabilities
from medssl.ops.uncertainty import predictive_entropy, stochastic_mode

COPIES = 2
"""Copies of the batch in one stochastic pass, as published."""


def unroll_passes(outputs: Sequence[Tensor], batch: int) -> Tensor:
    """Join outputs for repeated batches ``(k B, C, ...)`` into ``(T, B, C, ...)``, pass by pass."""
    joined = torch.cat(list(outputs))
    return joined.view(-1, batch, *joined.shape[1:])


class UAMT(WeightedTeacher):
    """Mean teacher with an entropy mask from Monte-Carlo dropout."""

    Settings = UAMTSettings
    settings: UAMTSettings

    def weigh(
        self, image: Tensor, teacher_logits: Tensor, progress: Progress
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Return the certainty mask ``(B, 1, *spatial)``."""
        entropy = self.uncertainty(image, teacher_logits, progress)
        certain = (entropy < self.threshold(progress)).float()
        return certain, {"certainty/kept": certain.mean(), "certainty/entropy": entropy.mean()}

    def uncertainty(self, image: Tensor, teacher_logits: Tensor, progress: Progress) -> Tensor:
        """Return the entropy of the mean of the stochastic passes, ``(B, 1, *spatial)``."""
        return predictive_entropy(self.mean_probability(image)).unsqueeze(1)

    def threshold(self, progress: Progress) -> float:
        """Return the largest entropy, in nats, that still counts as certain."""
        return entropy_threshold(
            progress.iteration,
            progress.total,
            num_classes=2 if self.settings.entropy_bound == "ln2" else self.num_classes,
            start=self.settings.threshold_start,
        )

    def mean_probability(self, image: Tensor) -> Tensor:
        """Return the mean softmax output of the stochastic passes, ``(B, C, *spatial)``."""
        # Under preset official a teacher in train mode is stochastic as it is.
        train = self.settings.teacher_mode == "train" and self.teacher.training
        total: Tensor | None = None
        with nullcontext() if train else stochastic_mode(self.teacher):
            for logits in self._stochastic_passes(image):
                summed = unroll_passes([probabilities(logits)], len(image)).sum(0)
                total = summed if total is None else total.add_(summed)
        assert total is not None
        return total / self.settings.passes

    def _stochastic_passes(self, image: Tensor) -> Iterator[Tensor]:
        """Yield the teacher's logits for two copies of the batch, or one where passes are odd."""
        left = self.settings.passes
        while left:
            copies = min(COPIES, left)
            repeated = image.repeat(copies, *[1] * (image.ndim - 1))
            yield self.teacher(self.perturb(repeated))
            left -= copies
