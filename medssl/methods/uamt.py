"""UA-MT: a mean teacher that teaches only where Monte-Carlo dropout finds it certain.

Paper: Yu, Wang, Li, Fu, Heng, "Uncertainty-aware Self-ensembling Model for Semi-supervised 3D Left
Atrium Segmentation" (MICCAI 2019, arXiv 1907.07034).

Algorithm, per iteration:
  1. student logits on all patches (clean, one pass); teacher logits on noisy ones: the target;
  2. 8 more teacher passes with dropout and fresh noise, two copies of the batch at a time;
     U = entropy of the mean of their softmax outputs;
  3. mask = U < H, with H rising from 0.75 to 1 times the largest entropy over the whole run;
  4. loss = supervised(labeled) + w(t) * squared softmax difference, averaged over the mask;
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
    0.1), supervised loss not halved, the teacher predicts: all as in ``mean_teacher``, so that the
    two differ by the mask alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from medssl.methods.base import NetworkBuilder, Progress, register
from medssl.methods.weighted_teacher import (
    PUBLISHED,
    WeightedTeacher,
    WeightedTeacherRules,
    WeightedTeacherSettings,
)
from medssl.ops.certainty import entropy_threshold, probabilities
from medssl.ops.uncertainty import predictive_entropy, stochastic_mode

COPIES = 2
"""Copies of the batch in one stochastic pass, as published."""


class UAMTSettings(WeightedTeacherSettings):
    """Settings of ``uamt``; null means: as the preset says."""

    passes: int | None = Field(None, ge=1, description="stochastic teacher passes")
    entropy_bound: Literal["ln2", "lnC"] | None = Field(
        None, description="the entropy that the threshold is a share of"
    )
    threshold_start: float | None = Field(
        None, ge=0, le=1, description="the threshold's first share of the bound; the last is 1"
    )


@dataclass(frozen=True)
class Rules(WeightedTeacherRules):
    """The settings with the preset filled in; the defaults are preset ``corrected``."""

    passes: int = 8
    entropy_bound: str = "lnC"
    threshold_start: float = 0.75


PRESETS = {
    "corrected": Rules(),
    "official": Rules(**PUBLISHED, ramp_every=150, entropy_bound="ln2"),  # type: ignore[arg-type]
}


def resolve(settings: UAMTSettings) -> Rules:
    """Fill in the preset."""
    given = {f.name: getattr(settings, f.name) for f in fields(Rules)}
    return replace(PRESETS[settings.preset], **{k: v for k, v in given.items() if v is not None})


def unroll_passes(outputs: Sequence[Tensor], batch: int) -> Tensor:
    """Join outputs for repeated batches ``(k B, C, ...)`` into ``(T, B, C, ...)``, pass by pass."""
    joined = torch.cat(list(outputs))
    return joined.view(-1, batch, *joined.shape[1:])


@register("uamt")
class UAMT(WeightedTeacher):
    """Mean teacher with an entropy mask from Monte-Carlo dropout."""

    Settings = UAMTSettings
    settings: UAMTSettings
    rules: Rules
    paper = "Yu et al., MICCAI 2019 (arXiv 1907.07034)"

    def __init__(
        self,
        settings: UAMTSettings,
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
            num_classes=2 if self.rules.entropy_bound == "ln2" else self.num_classes,
            start=self.rules.threshold_start,
        )

    def mean_probability(self, image: Tensor) -> Tensor:
        """Return the mean softmax output of the stochastic passes, ``(B, C, *spatial)``."""
        # Under preset official a teacher in train mode is stochastic as it is.
        train = self.rules.teacher_mode == "train" and self.teacher.training
        total: Tensor | None = None
        with nullcontext() if train else stochastic_mode(self.teacher):
            for logits in self._stochastic_passes(image):
                summed = unroll_passes([probabilities(logits)], len(image)).sum(0)
                total = summed if total is None else total.add_(summed)
        assert total is not None
        return total / self.rules.passes

    def _stochastic_passes(self, image: Tensor) -> Iterator[Tensor]:
        """Yield the teacher's logits for two copies of the batch, or one where passes are odd."""
        left = self.rules.passes
        while left:
            copies = min(COPIES, left)
            repeated = image.repeat(copies, *[1] * (image.ndim - 1))
            yield self.teacher(self.perturb(repeated))
            left -= copies

    @classmethod
    def check_recipe(cls, settings: UAMTSettings, recipe: Any) -> list[str]:
        """Refuse a recipe without unlabeled patches."""
        if recipe.training.unlabeled_batch < 1:
            return ["method uamt needs training.unlabeled_batch of at least 1"]
        return []

    @classmethod
    def warn_recipe(cls, settings: UAMTSettings, recipe: Any) -> list[str]:
        """Warn of settings that leave the unlabeled images or the mask without effect."""
        rules = resolve(settings)
        out = []
        if rules.consistency_weight == 0:
            out.append("method.consistency_weight is 0: the unlabeled images do nothing")
        if rules.threshold_start == 1:
            out.append("method.threshold_start is 1: no voxel is ever uncertain; use mean_teacher")
        if rules.noise == 0 and not recipe.network.options.get("dropout"):
            out.append(
                "method.noise is 0 and the recipe sets no network.dropout: if the network has none "
                "by itself, all stochastic passes are the same"
            )
        if rules.ramp_fraction is not None and settings.ramp_every is not None:
            out.append("method.ramp_every does nothing where ramp_fraction is set")
        return out
