"""BCP: labeled and unlabeled images teach each other by bidirectional copy-paste.

Paper: Bai, Chen, Li, Shen, Wang, "Bidirectional Copy-Paste for Semi-Supervised Medical Image
Segmentation" (CVPR 2023, arXiv 2305.00673).

Algorithm. ``pretrain``: train on mixes of two labeled images. ``self_train``: student and teacher
start from that network; per iteration
  1. the teacher labels the unlabeled patches (hard labels, largest component per class);
  2. a random box with 2/3 of every side cuts each of two mixed images: one with a labeled box on
     an unlabeled canvas, one with an unlabeled box on a labeled canvas;
  3. the student learns both with Dice + CE per region, weight 1 where the label is ground truth
     and 0.5 where it is a pseudo-label;
  4. teacher <- 0.99 teacher + 0.01 student.

Presets. ``official`` follows the published code, of variant ``acdc``, ``la`` or ``pancreas``. The
background-Dice bug it had until October 2023 is ``legacy_background_bug``. ``corrected`` (default)
differs from it as follows:
  * teacher in eval mode: pseudo-labels depend neither on dropout nor on the patches beside;
  * buffers averaged with the weights (official: acdc only), as an eval-mode teacher needs;
  * EMA with warm-up, so that short runs do not keep the stage-1 teacher for their first hundred
    iterations;
  * every box position can be drawn (the code excludes the last) and every mixed image has its own
    box (the code: one per iteration): more varied mixes;
  * losses are normalized per source, ground truth or pseudo-label, over both mixed images
    (``normalize: source``), not per region: a voxel weighs the same inside and outside a box, and
    a class missing in one region does not disturb its Dice;
  * both mixed images in one student pass (``joint_forward``): BatchNorm sees them together, and on
    a CPU a single volume does not fall back to PyTorch's slow convolution;
  * pre-training mixes each labeled image with the next one (``pretrain_pairing: cycle``), so the
    network sees the whole labeled batch and not half as many images; one whole-image Dice + CE;
  * Dice as in ``supervised`` (batch, squared, foreground), so that comparisons are about the data;
  * a fresh optimizer for stage 2 (official: acdc and pancreas go on with the one saved with the
    best weights of stage 1, la does not);
  * as many components per class as the data spec's ``pieces`` says, not always one;
  * labeled and unlabeled batches of any size; the smaller one is cycled;
  * the teacher predicts: the average is the steadier model;
  * share of pre-training (a quarter), argmax and connectivity (full) as in acdc, for all data.
Both exclude voxels of ground truth 255 from every region.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from medssl.methods.base import Batch, LabeledBatch, NetworkBuilder, Progress, StepOutput
from medssl.methods.bcp_mixing import MixedImage, draw_masks, mix_images, pair_up
from medssl.methods.bcp_settings import BCPSettings
from medssl.methods.student_teacher import StudentTeacher
from medssl.networks.passes import forward_each
from medssl.ops.components import begin_largest_components
from medssl.ops.deep_supervision import Prediction, finest, joined
from medssl.ops.ema import copy_weights
from medssl.ops.label_unions import Unions
from medssl.ops.losses import copy_paste_loss, region_terms, supervised_loss, weighted_mean
from medssl.ops.mixing import mix, take
from medssl.ops.modes import set_mode
from medssl.ops.pseudo_labels import confidence, hard_labels

PseudoLabels = tuple[Tensor, dict[str, Tensor]]


class BCP(StudentTeacher):
    """Bidirectional copy-paste with a mean teacher, two stages."""

    Settings = BCPSettings
    settings: BCPSettings
    teaching: Tensor

    def make_networks(self, build: NetworkBuilder) -> None:
        """Make student and teacher."""
        super().make_networks(build)
        # In the state dict, so that a resumed or exported model knows whether its teacher counts.
        self.register_buffer("teaching", torch.zeros((), dtype=torch.bool))

    def start_stage(self, stage: str) -> None:
        """Let the teacher start as a copy of the (best) pre-trained student."""
        if stage == "self_train":
            copy_weights(self.teacher, self.student)
            self.teaching.fill_(True)

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Compute the loss of one iteration of either stage."""
        set_mode(self.student, "train")
        if progress.stage == "pretrain":
            assert batch.labeled is not None
            return self._pretrain_step(batch.labeled, progress)
        labeled, unlabeled = batch.both()
        end_pseudo_labels = self.begin_pseudo_labels(unlabeled.image)
        # All randomness of the method beside dropout: the boxes.
        rng = progress.rng("box")
        images = mix_images(labeled.image, unlabeled.image, self.settings, rng)
        logits = self._predict(images)
        pseudo_label, terms = end_pseudo_labels()
        labels = pair_up(labeled.label, pseudo_label, self.settings)
        target = torch.cat([mix(*pair, m.mask) for pair, m in zip(labels, images, strict=True)])
        is_truth = torch.cat([m.is_truth for m in images])
        if self.settings.normalize == "source":
            truth, guess = source_loss(logits, target, is_truth, self.settings, self.unions)
        else:
            truth, guess = region_loss(logits, images, labels, self.settings, self.unions)
        with torch.no_grad():
            predicted = torch.cat([hard_labels(finest(x).detach()) for x in logits])
            agree = weighted_mean((predicted == target).float(), ~is_truth)
        terms["loss/labeled"] = truth.detach()
        terms["loss/unlabeled"] = guess.detach()
        terms["pseudo/agreement"] = agree
        return StepOutput(truth + guess, terms)

    def _predict(self, images: list[MixedImage]) -> list[Prediction]:
        """Return the student's logits, in one piece or one per mixed image."""
        if not self.settings.joint_forward:
            return forward_each(self.student, [m.image for m in images])
        both = self.student(torch.cat([m.image for m in images]))
        return [both] if self.settings.normalize == "source" else list(both.chunk(2))

    def _pretrain_step(self, labeled: LabeledBatch, progress: Progress) -> StepOutput:
        """Train on labeled images pasted into labeled images."""
        settings, image, label = self.settings, labeled.image, labeled.label
        halves = settings.pretrain_pairing == "halves"
        count = (len(image) + 1) // 2 if halves else len(image)
        shift = count if halves else 1
        mask = draw_masks(image.shape[2:], count, settings, progress.rng("box"), image.device)[0]
        outside, inside = take(label, 0, count), take(label, shift, count)
        logits = self.student(mix(take(image, 0, count), take(image, shift, count), mask))
        if settings.pretrain_loss == "region":
            out, box = copy_paste_loss(
                logits, outside, inside, mask, dice=settings.dice, unions=self.unions
            )
            loss = out + box
            terms = {"loss/outside": out.detach(), "loss/inside": box.detach()}
        else:
            target = mix(outside, inside, mask)
            loss = supervised_loss(logits, target, dice=settings.dice, unions=self.unions)
            loss = loss / 2 if settings.normalize == "region" else loss
            terms = {}
        return StepOutput(loss, {"loss/labeled": loss.detach(), **terms})

    @torch.no_grad()
    def begin_pseudo_labels(self, image: Tensor) -> Callable[[], PseudoLabels]:
        """Label unlabeled patches ``(B, C, *spatial)`` with the teacher.

        A teacher in train mode sees the two halves of the batch separately, as in the published
        code, because its BatchNorm mixes what it sees together.

        Components are found on the host. The loss alone needs them, so on a GPU the student's pass
        goes on meanwhile.

        Returns:
            A function that waits for class indices ``(B, *spatial)`` and statistics to log.
        """
        settings = self.settings
        set_mode(self.teacher, settings.teacher_mode)
        apart = settings.teacher_mode == "train"
        parts = image.split((len(image) + 1) // 2) if apart else [image]
        logits = forward_each(self.teacher, parts)
        probs = torch.softmax((logits[0] if len(logits) == 1 else torch.cat(logits)).float(), dim=1)
        threshold = None if settings.threshold == "argmax" else settings.threshold
        raw = hard_labels(probs, threshold=threshold)
        terms = {"pseudo/confidence": confidence(probs).mean()}
        end_components = None
        if settings.largest_component == "per_class":
            end_components = begin_largest_components(
                raw,
                self.num_classes,
                connectivity=settings.connectivity,
                pieces=self.pieces if settings.spec_pieces else None,
            )

        def end() -> PseudoLabels:
            label = raw
            if end_components is not None:
                label = end_components()
                terms["pseudo/kept"] = (label > 0).sum() / (raw > 0).sum().clamp(min=1)
            terms["pseudo/foreground"] = (label > 0).float().mean()
            return label, terms

        return end

    def after_step(self, progress: Progress) -> None:
        """Update the teacher, in stage 2."""
        if progress.stage == "self_train":
            super().after_step(progress)

    def predictor(self) -> nn.Module:
        """Return the student, or the teacher once there is one and ``predict_with`` says so."""
        teacher = self.settings.predict_with == "teacher" and bool(self.teaching)
        return self.teacher if teacher else self.student


def region_loss(
    logits: list[Prediction],
    images: list[MixedImage],
    labels: list[tuple[Tensor, Tensor]],
    settings: BCPSettings,
    unions: Unions = (),
) -> tuple[Tensor, Tensor]:
    """Compute the published loss: each region of each mixed image is normalized by itself.

    Args:
        logits: the student's, ``(B, C, *spatial)`` per mixed image.
        images: what was mixed.
        labels: outside and inside of the box of each.
        settings: weights and Dice.
        unions: see :func:`medssl.ops.losses.region_terms`.

    Returns:
        The weighted ground-truth and pseudo-label parts; the loss is their sum.
    """
    labeled, unlabeled = [], []
    for prediction, m, (outside, inside) in zip(logits, images, labels, strict=True):
        weights = (settings.weight_gt, settings.weight_pseudo)
        out, box = copy_paste_loss(
            prediction,
            outside,
            inside,
            m.mask,
            weights=weights if m.labeled_outside else weights[::-1],
            dice=settings.dice,
            unions=unions,
        )
        labeled.append(out if m.labeled_outside else box)
        unlabeled.append(box if m.labeled_outside else out)
    return labeled[0] + labeled[1], unlabeled[0] + unlabeled[1]


def source_loss(
    logits: list[Prediction],
    target: Tensor,
    is_truth: Tensor,
    settings: BCPSettings,
    unions: Unions = (),
) -> tuple[Tensor, Tensor]:
    """Compute the loss normalized per source: ground truth or pseudo-label, wherever it lies.

    Args:
        logits: the student's for all mixed images, in one piece or several.
        target: mixed labels ``(B, *spatial)`` of all of them.
        is_truth: boolean, where the label is ground truth.
        settings: weights and Dice.
        unions: see :func:`medssl.ops.losses.region_terms`.

    Returns:
        The weighted ground-truth and pseudo-label parts; the loss is their sum.
    """
    whole = logits[0] if len(logits) == 1 else joined(logits)
    apart = [is_truth, ~is_truth]
    truth, guess = region_terms(whole, target, apart, dice=settings.dice, unions=unions)
    return settings.weight_gt * (truth[0] + truth[1]), settings.weight_pseudo * (
        guess[0] + guess[1]
    )
