"""FixMatch, voxelwise: learn the strong view of a patch from confident labels of the weak view.

Paper: Sohn et al., "FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence"
(NeurIPS 2020, arXiv 2001.07685). It classifies whole images; here every voxel is one.

Algorithm, per iteration:
  1. probabilities q of the weakly augmented unlabeled patches, no gradient;
  2. pseudo-label = arg-max q; a voxel counts where max q >= threshold;
  3. the student predicts labeled patches and the strong view of the unlabeled ones (same geometry,
     strong noise, gamma, contrast, brightness, blur) in one pass;
  4. loss = supervised(labeled) + w(t) * loss of the strong view on the counted voxels;
  5. teacher <- d teacher + (1 - d) student.

Presets. ``official`` is the paper: the student itself labels the weak view, in train mode;
threshold 0.95; cross-entropy, summed over the counted voxels and divided by **all** (eq. 4), so
that the weight rises by itself as confidence does; weight 1, no ramp; the average of the weights
(0.999) predicts. It deviates where images became patches: no Cutout and no geometric strong
augmentation, which would have to be undone voxel by voxel; the weak view has a pass of its own, not
interleaved with the others. ``corrected`` (default) differs:
  * the averaged teacher labels, in eval mode: steadier labels, that do not depend on dropout or on
    the patches beside;
  * Dice + CE as in ``supervised`` on both parts: the confident voxels are nearly all background at
    first, and CE alone teaches that there is nothing else;
  * threshold 0.7: what is undecided in a segmentation is its boundary. After 300 iterations on 4
    hippocampi, 0.95 kept a third of the predicted foreground, and the strong view agreed with all
    of it: nothing to learn. 0.7 kept 78 % (81 % of it right; of all, 72 %), with 1 % disagreement;
  * a ramp over 40 % of the iterations, because the first confident labels are background;
  * EMA decay 0.99 with warm-up, which suits a few thousand iterations.
``normalize: kept`` divides by the counted voxels instead; ``all`` scales Dice by the counted share
too, so that both parts keep their proportion.
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
from medssl.ops.losses import IGNORE_INDEX, DiceVariant, region_terms
from medssl.ops.pseudo_labels import hard_labels

DICE = DiceVariant(background=False)
LossName = Literal["ce", "dice_ce"]


class FixMatchSettings(Settings):
    """Settings of ``fixmatch``; null means: as the preset says."""

    preset: Literal["official", "corrected"] = "corrected"
    threshold: float | None = Field(None, ge=0, le=1, description="least confidence that counts")
    unlabeled_weight: float | None = Field(None, ge=0, description="after the ramp")
    ramp_fraction: float | None = Field(None, ge=0, le=1, description="of all iterations")
    loss: LossName | None = Field(None, description="of both parts")
    normalize: Literal["all", "kept"] | None = Field(None, description="voxels to divide by")
    labels_from: Literal["student", "teacher"] | None = None
    label_mode: Literal["train", "eval"] | None = Field(None, description="of the labeling pass")
    ema_decay: float | None = Field(None, ge=0, lt=1)
    ema_warmup: bool | None = None
    ema_buffers: BufferRule | None = None
    predict_with: Literal["student", "teacher"] | None = None


@dataclass(frozen=True)
class Rules:
    """The settings with the preset filled in; the defaults are preset ``corrected``."""

    threshold: float = 0.7
    unlabeled_weight: float = 1.0
    ramp_fraction: float = 0.4
    loss: str = "dice_ce"
    normalize: str = "all"
    labels_from: str = "teacher"
    label_mode: str = "eval"
    ema_decay: float = 0.99
    ema_warmup: bool = True
    ema_buffers: BufferRule = "average"
    predict_with: str = "teacher"


PRESETS = {
    "corrected": Rules(),
    "official": Rules(
        threshold=0.95,
        ramp_fraction=0.0,
        loss="ce",
        labels_from="student",
        label_mode="train",
        ema_decay=0.999,
        ema_warmup=False,
        ema_buffers="copy",
    ),
}


def resolve(settings: FixMatchSettings) -> Rules:
    """Fill in the preset."""
    given = {f.name: getattr(settings, f.name) for f in fields(Rules)}
    return replace(PRESETS[settings.preset], **{k: v for k, v in given.items() if v is not None})


def confident_labels(logits: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Label a prediction and drop what it is not sure of.

    Args:
        logits: ``(B, C, *spatial)``.
        threshold: least probability of the most probable class that counts.

    Returns:
        int64 ``(B, *spatial)`` with 255 where it does not count, and the confidence everywhere,
        ``(B, *spatial)``.

    Source: Sohn et al. 2020, section 2.2.
    """
    confidence, label = torch.softmax(logits.float(), dim=1).max(dim=1)
    return torch.where(confidence >= threshold, label, IGNORE_INDEX), confidence


def strong_view_loss(
    logits: Tensor, target: Tensor, *, loss: str = "ce", normalize: str = "all"
) -> Tensor:
    """Compute the loss of the strong view on the voxels that count.

    Args:
        logits: the student's for the strong view, ``(B, C, *spatial)``.
        target: ``(B, *spatial)``, 255 where the voxel does not count.
        loss: ``ce`` or ``dice_ce``.
        normalize: ``kept`` is the mean over the counted voxels; ``all`` multiplies it by their
            share, which for cross-entropy is the sum over them divided by all voxels.

    Source: Sohn et al. 2020, eq. 4.
    """
    ((dice, ce),) = region_terms(logits, target, [None], dice=DICE)
    value = ce if loss == "ce" else dice + ce
    return value * (target != IGNORE_INDEX).float().mean() if normalize == "all" else value


@register("fixmatch")
class FixMatch(StudentTeacher):
    """Weak-to-strong consistency on confident voxels."""

    Settings = FixMatchSettings
    settings: FixMatchSettings
    uses_strong_view = True
    paper = "Sohn et al., NeurIPS 2020 (arXiv 2001.07685)"

    def __init__(
        self,
        settings: FixMatchSettings,
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

    def unlabeled_weight(self, progress: Progress) -> float:
        """Return the weight of the strong view's loss at an iteration."""
        return self.ramped(self.rules.unlabeled_weight, progress)

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Compute the supervised and the strong view's loss."""
        labeled, unlabeled = batch.labeled, batch.unlabeled
        assert labeled is not None
        assert unlabeled is not None
        assert unlabeled.strong is not None
        target, terms = self.pseudo_labels(unlabeled.image)
        if not self.student.training:
            self.student.train()
        logits = self.student(torch.cat([labeled.image, unlabeled.strong]))
        count = len(labeled.image)
        ((dice, ce),) = region_terms(logits[:count], labeled.label, [None], dice=DICE)
        supervised = ce if self.rules.loss == "ce" else dice + ce
        unsupervised = strong_view_loss(
            logits[count:], target, loss=self.rules.loss, normalize=self.rules.normalize
        )
        with torch.no_grad():
            kept = target != IGNORE_INDEX
            agree = (hard_labels(logits.detach()[count:]) == target).sum() / kept.sum().clamp(min=1)
        weight = self.unlabeled_weight(progress)
        return StepOutput(
            supervised + weight * unsupervised,
            {
                "loss/labeled": supervised.detach(),
                "loss/unlabeled": unsupervised.detach(),
                "weight/unlabeled": torch.tensor(weight),
                "pseudo/agreement": agree,
                **terms,
            },
        )

    @torch.no_grad()
    def pseudo_labels(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Label the weak view ``(B, C, *spatial)``; 255 where the label does not count.

        A student in train mode updates its BatchNorm statistics here, on patches that it does not
        otherwise see, as it does in the paper.

        Returns:
            Class indices ``(B, *spatial)``, and the shares to log: of all voxels that count, of
            those predicted as foreground that count, and the mean confidence.
        """
        network = self.teacher if self.rules.labels_from == "teacher" else self.student
        train = self.rules.label_mode == "train"
        if network.training is not train:
            network.train(train)
        logits = network(image)
        target, confidence = confident_labels(logits, self.rules.threshold)
        kept = target != IGNORE_INDEX
        foreground = logits[:, 0] < logits[:, 1:].amax(dim=1)
        sure = (kept & foreground).sum() / foreground.sum().clamp(min=1)
        return target, {
            "pseudo/kept": kept.float().mean(),
            "pseudo/kept_foreground": sure,
            "pseudo/confidence": confidence.mean(),
        }

    @classmethod
    def warn_recipe(cls, settings: FixMatchSettings, recipe: Any) -> list[str]:
        """Warn of settings that leave the unlabeled images without effect."""
        rules = resolve(settings)
        out = []
        if rules.unlabeled_weight == 0:
            out.append("method.unlabeled_weight is 0: the unlabeled images do nothing")
        if rules.threshold > 0.9999:
            out.append(
                f"method.threshold is {rules.threshold:g}: next to no voxel is ever so sure, and "
                "the unlabeled images do nothing; the paper's value is 0.95"
            )
        if rules.threshold <= 0.5:
            out.append(
                f"method.threshold is {rules.threshold:g}: with two classes every voxel is as sure "
                "as that, and the threshold does nothing"
            )
        if recipe.training.augment.strong_probability == 0:
            out.append(
                "training.augment.strong_probability is 0: the strong view is the weak one, and "
                "its pseudo-labels have little to teach"
            )
        return out
