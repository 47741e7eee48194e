"""FixMatch, voxelwise: learn the strong view of a patch from confident labels of the weak view.

Paper: Sohn et al., "FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence"
(NeurIPS 2020, arXiv 2001.07685). It classifies whole images; here every voxel is one.

Algorithm, per iteration:
  1. probabilities q of the weakly augmented unlabeled patches, no gradient;
  2. pseudo-label = arg-max q; a voxel counts where max q >= threshold;
  3. the student predicts labeled patches and the strong view of the unlabeled ones (same geometry,
     strong noise, gamma, contrast, brightness, blur) in one pass; the views are mixed with each
     other, and their pseudo-labels alike;
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
  * ``mixing: cutmix``, boxes of other patches: where only intensities differ, the strong view soon
    agrees with nearly all that it is told, and there is nothing left to learn;
  * a ramp over 40 % of the iterations, because the first confident labels are background;
  * EMA decay 0.99 with warm-up, which suits a few thousand iterations.
``normalize: kept`` divides by the counted voxels instead; ``all`` scales Dice by the counted share
too, so that both parts keep their proportion.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medssl.methods.base import Batch, Progress, StepOutput
from medssl.methods.fixmatch_settings import FixMatchSettings
from medssl.methods.student_teacher import StudentTeacher
from medssl.ops.deep_supervision import Prediction, finest
from medssl.ops.losses import IGNORE_INDEX, supervised_loss
from medssl.ops.modes import set_mode
from medssl.ops.perturb import View, mixing_of
from medssl.ops.pseudo_labels import hard_labels, kept_shares
from medssl.ops.ramps import share_ramp
from medssl.ops.variants import LossName


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
    logits: Prediction, target: Tensor, *, loss: LossName = "ce", normalize: str = "all"
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
    value = supervised_loss(logits, target, loss=loss)
    return value * (target != IGNORE_INDEX).float().mean() if normalize == "all" else value


class FixMatch(StudentTeacher):
    """Weak-to-strong consistency on confident voxels."""

    Settings = FixMatchSettings
    settings: FixMatchSettings

    def unlabeled_weight(self, progress: Progress) -> float:
        """Return the weight of the strong view's loss at an iteration."""
        ramp = share_ramp(progress.iteration, progress.total, self.settings.ramp_fraction)
        return self.settings.unlabeled_weight * ramp

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Compute the supervised and the strong view's loss."""
        labeled, unlabeled = batch.both()
        (strong,) = unlabeled.views
        settings, count = self.settings, len(labeled.image)
        target, terms = self.pseudo_labels(unlabeled.image)
        rng = progress.rng("mixing")
        view = View(strong, target).each(mixing_of(settings.mixing, strong, rng))
        set_mode(self.student, "train")
        logits = self.student(torch.cat([labeled.image, view.image]))
        supervised = supervised_loss(logits[:count], labeled.label, loss=settings.loss)
        unsupervised = strong_view_loss(
            logits[count:], view.label, loss=settings.loss, normalize=settings.normalize
        )
        with torch.no_grad():
            right = hard_labels(finest(logits).detach()[count:]) == view.label
            agree = right.sum() / (view.label != IGNORE_INDEX).sum().clamp(min=1)
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
        network = self.teacher if self.settings.labels_from == "teacher" else self.student
        set_mode(network, self.settings.label_mode)
        logits = network(image)
        target, confidence = confident_labels(logits, self.settings.threshold)
        return target, {**kept_shares(logits, target), "pseudo/confidence": confidence.mean()}
