"""One RAIL step as functions of logits: best student, DFS, CAL, teacher term.

Everything is float32 whatever the autocast. Batches hold the labeled patches first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medssl.methods.rail_settings import RailSettings
from medssl.ops.disagreement import (
    axis_kl,
    disagreement,
    error_region,
    squared_error,
    uniform_penalty,
    voxel_kl,
)
from medssl.ops.losses import IGNORE_INDEX, TINY, dice_loss, one_hot, weighted_mean
from medssl.ops.pseudo_labels import hard_labels, sharpen
from medssl.ops.variants import FOREGROUND


@dataclass(frozen=True)
class Truth:
    """Labels of the labeled part in the forms that the losses use.

    Attributes:
        label: ``(B, *spatial)`` class indices, 0 where not annotated.
        hot: one-hot ``(B, C, *spatial)``, zero where not annotated.
        valid: boolean ``(B, *spatial)``, where annotated.
    """

    label: Tensor
    hot: Tensor
    valid: Tensor

    @classmethod
    def of(cls, label: Tensor, num_classes: int) -> Truth:
        """Prepare labels ``(B, *spatial)`` in which 255 means not annotated."""
        valid = label != IGNORE_INDEX
        return cls(torch.where(valid, label, 0), one_hot(label, num_classes), valid)

    def __len__(self) -> int:
        """Return the number of labeled patches."""
        return len(self.label)


@dataclass(frozen=True)
class Part:
    """A prediction for some patches: ``(B, C, *spatial)`` and its classes ``(B, *spatial)``."""

    log_probs: Tensor
    probs: Tensor
    hard: Tensor

    @classmethod
    def of(cls, logits: Tensor) -> Part:
        """Turn logits into probabilities and classes."""
        log_probs = torch.log_softmax(logits, dim=1)
        probs = log_probs.exp()
        return cls(log_probs, probs, hard_labels(probs.detach()))


@dataclass(frozen=True)
class StudentOutput:
    """What the losses need of a student.

    Attributes:
        labeled: its prediction for the labeled patches.
        unlabeled: the same for the unlabeled ones.
        dice: Dice loss on the labeled part: squared, over the whole batch, foreground.
    """

    labeled: Part
    unlabeled: Part
    dice: Tensor


@dataclass(frozen=True)
class Weights:
    """Weights of an iteration: ``consistency`` of CAL, and ``teacher``, after the ramp."""

    consistency: float
    teacher: float


@dataclass(frozen=True)
class Best:
    """The best student of an iteration.

    Attributes:
        index: which one, int64 scalar.
        labeled: its classes ``(B, *spatial)`` on the labeled part.
        unlabeled: the same on the unlabeled part.
        pseudo_label: its sharpened probabilities on the unlabeled part.
    """

    index: Tensor
    labeled: Tensor
    unlabeled: Tensor
    pseudo_label: Tensor


@dataclass(frozen=True)
class Common:
    """What the losses of an iteration have in common.

    Attributes:
        truth: labels of the labeled part.
        images: ``(B, C, *spatial)``, labeled patches first.
        group: the group that is trained.
        weights: of the losses at this iteration.
        best: the best student; None in a group's first term.
    """

    truth: Truth
    images: Tensor
    group: int
    weights: Weights
    best: Best | None


def predict(logits: Tensor, truth: Truth) -> StudentOutput:
    """Turn logits ``(B, C, *spatial)``, labeled patches first, into a prediction."""
    # One split, not many slices: each slice would cost a zero-filled gradient of the whole.
    count = len(truth)
    parts = [Part.of(z) for z in logits.float().split([count, len(logits) - count])]
    dice = dice_loss(parts[0].probs, truth.hot, truth.valid, variant=FOREGROUND)
    return StudentOutput(parts[0], parts[1], dice)


@torch.no_grad()
def choose_best(predictions: Sequence[StudentOutput], temperature: float) -> Best:
    """Choose the student with the lowest Dice loss, the first of equals.

    The index stays on the device: no host waits for it.

    Args:
        predictions: of all students.
        temperature: sharpens the pseudo-label.
    """
    index = torch.stack([p.dice for p in predictions]).argmin()

    def chosen(tensors: list[Tensor]) -> Tensor:
        return torch.stack(tensors).index_select(0, index.view(1))[0]

    return Best(
        index,
        chosen([p.labeled.hard for p in predictions]),
        chosen([p.unlabeled.hard for p in predictions]),
        sharpen(chosen([p.unlabeled.probs for p in predictions]), temperature),
    )


def dfs_loss(
    student: Part, truth: Truth, nll: Tensor, best: Best, is_best: Tensor, settings: RailSettings
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute disagreement-focused supervision: ``alpha MSE over D + beta KL over D and E``.

    Args:
        student: prediction for the labeled patches.
        truth: the labels.
        nll: its cross-entropy per voxel, ``(B, *spatial)``.
        best: the best student.
        is_best: boolean scalar, whether the student is the best one.
        settings: weights and switches.

    Returns:
        The loss, and the shares of the regions D, E and both among the annotated voxels.
    """
    where = disagreement(student.hard, best.labeled, is_best) & truth.valid
    error = error_region(student.hard, truth.label, settings.err_region) & truth.valid
    both = where & error
    loss = settings.dfs_mse_weight * weighted_mean(squared_error(student.probs, truth.hot), where)
    if settings.dfs_kl == "voxel":
        loss = loss + settings.dfs_kl_weight * weighted_mean(nll, both)
    elif settings.dfs_kl == "official":
        kl = axis_kl(student.probs * truth.valid.unsqueeze(1), truth.hot)
        loss = loss + settings.dfs_kl_weight * weighted_mean(kl, both)
    size = truth.valid.sum().clamp(min=1)
    regions = {"disagreement": where, "error": error, "disagreement_and_error": both}
    return loss, {f"region/{k}": v.sum() / size for k, v in regions.items()}


def cal_terms(student: Part, best: Best, settings: RailSettings) -> tuple[Tensor, Tensor, Tensor]:
    """Compute confidence-aware learning of a student that is not the best one.

    Args:
        student: prediction for the unlabeled patches.
        best: the best student.
        settings: which pull to uniform.

    Returns:
        The consistency with the pseudo-label over all voxels; the pull to the uniform distribution
        where the two students disagree; the share of those voxels.
    """
    where = student.hard != best.unlabeled
    consistency = (student.probs - best.pseudo_label).square().mean()
    uniform = uniform_penalty(student.log_probs, settings.cal_uniform)
    return consistency, weighted_mean(uniform, where), where.float().mean()


def student_loss(
    student: StudentOutput,
    truth: Truth,
    teacher_target: Tensor,
    settings: RailSettings,
    *,
    index: int,
    best: Best | None,
    weights: Weights,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the whole loss of one student of the active group.

    Args:
        student: its prediction, with gradient.
        truth: the labels.
        teacher_target: the teacher's sharpened probabilities on the unlabeled part.
        settings: weights and switches.
        index: the student's number.
        best: the best student; None in a group's first term, which has neither DFS nor CAL.
        weights: at this iteration.

    Returns:
        The loss and detached terms to log.
    """
    nll = voxel_kl(student.labeled.log_probs, truth.hot)
    labeled = nll.sum() / (truth.valid.sum() + TINY) + student.dice
    teacher = (student.unlabeled.probs - teacher_target).square().mean()
    loss = labeled + weights.teacher * teacher
    terms = {"loss/labeled": labeled, "loss/teacher": teacher}
    if best is not None:
        is_best = best.index == index
        focused, shares = dfs_loss(student.labeled, truth, nll, best, is_best, settings)
        consistency, uniform, contradicted = cal_terms(student.unlabeled, best, settings)
        instructed = consistency + settings.uniform_weight * uniform
        loss = loss + focused + weights.consistency * (~is_best) * instructed
        terms["loss/dfs"] = focused
        terms["loss/consistency"] = consistency
        terms["loss/uniform"] = uniform
        terms["region/contradicted"] = contradicted
        terms.update(shares)
    return loss, {k: v.detach() for k, v in terms.items()}
