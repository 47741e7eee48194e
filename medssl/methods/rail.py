"""RAIL: two pairs of different networks teach each other where they disagree.

Paper: Zhao, Huang, Guo, Shen, Zhou, Liu, Yu, "RAIL: Region-Aware Instructive Learning for
Semi-Supervised Tooth Segmentation in CBCT" (2025, arXiv 2505.03538); formulas as in its code.

Algorithm. Two groups of two students, V (the recipe's network) and R (its partner, ResV-Net beside
a V-Net), and a teacher per group that averages V. The groups take turns. Per iteration
  1. all four students predict; the one with the lowest Dice loss on the labeled patches is best;
  2. each active student learns the labels with cross-entropy + Dice, and once more (DFS) where it
     contradicts the best student: 0.5 MSE, and 0.05 KL where it contradicts the label too; the best
     student itself everywhere;
  3. on unlabeled patches it follows the best student's sharpened prediction and is pulled to the
     uniform distribution where the two disagree (CAL, weight up to 20; not the best student), and
     follows its group's sharpened teacher (weight up to 10);
  4. teacher <- d teacher + (1 - d) V.
At first ("first term") a group learns without 1, DFS and CAL.

Presets. ``official`` follows the published code: one labeled patch per iteration, two classes (more
work by the same formulas, which nobody published). ``corrected`` (default) differs as follows:
  * the error region is where prediction and label differ; the code takes an argmax along an image
    axis and gets the predicted foreground (``err_region``);
  * the KL of DFS is one per voxel between prediction and label; the code's softmax runs along an
    image axis, and its gradient is negligible (``dfs_kl``);
  * the pull to uniform is the KL divergence; the code takes a second softmax (``cal_uniform``);
  * any number of classes and labeled patches; the code breaks with two labeled patches;
  * groups alternate every iteration on new batches (``alternation``, ``turn_length``); the code
    buffers two epochs and lets each group see every batch once;
  * the learning rate follows the iteration; the code freezes it during a turn;
  * the first term is 5 % and the ramp 40 % of a group's iterations, for budgets of any size;
  * the teacher predicts in eval mode, once per iteration and for unlabeled patches alone, and
    averages buffers too; the code's has dropout, keeps its own buffers, and runs twice on all;
  * teachers start as copies; the code's have weights of their own until their first update.
Both: the inactive students predict without gradients, which changes no number and saves time and
memory (their BatchNorm statistics move, as in the code). Voxels labeled 255 do not count. A
probability ensemble of all four students predicts, as in the code. Not here: the code's ensemble
bug at inference (neighboring windows leak into each other). Its region of interest from a second
network, at test time alone, is ``data.roi`` of a recipe here: in millimeters, for training too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from medssl.methods import rail_losses as losses
from medssl.methods.base import Batch, Method, NetworkBuilder, Progress, StepOutput
from medssl.methods.rail_losses import Best, Common, StudentOutput, Truth, Weights
from medssl.methods.rail_settings import RailSettings
from medssl.methods.settings import Stage
from medssl.methods.starting import Loader, start_peers
from medssl.networks.ensemble import Ensemble
from medssl.ops.ema import copy_weights, ema_decay, ema_update, frozen_copy
from medssl.ops.modes import set_mode
from medssl.ops.pseudo_labels import sharpen

RECENT = 0.99
"""Decay of the record of which student was best."""


class Rail(Method):
    """Four students, two teachers, one stage.

    Students are numbered as in the published code: V of each group, then R of each group; the mate
    of V number g is number g + groups.
    """

    Settings = RailSettings
    settings: RailSettings
    recent: Tensor

    def make_networks(self, build: NetworkBuilder) -> None:
        """Make two students and a teacher per group, and the record of who was best."""
        settings, self.groups = self.settings, self.settings.groups
        first = [build() for _ in range(self.groups)]
        named = settings.partner_network != "auto"
        which = {"network": settings.partner_network} if named else {}
        second = [build(**which, **settings.partner_options) for _ in range(self.groups)]
        self.students = nn.ModuleList([*first, *second])
        # The code initializes teachers independently; its first update makes them copies.
        own = settings.preset == "official"
        self.teachers = nn.ModuleList(
            [build().requires_grad_(False) if own else frozen_copy(v) for v in first]
        )
        self.register_buffer("recent", torch.zeros(2 * self.groups))

    def start_from(self, load: Loader) -> None:
        """Load all students built alike; all but the first keep heads of their own.

        Teachers become copies of their students, as after the code's first update.
        """
        start_peers(load, list(self.students))
        for teacher, student in zip(self.teachers, self.students, strict=False):
            copy_weights(teacher, student)

    def warn_networks(self) -> list[str]:
        """Warn of more classes than the published code knows."""
        if self.settings.preset != "official" or self.num_classes <= 2:
            return []
        return [
            "rail's official preset was published for two classes, not "
            f"{self.num_classes}: its formulas are extended to more"
        ]

    # ------------------------------------------------------------------ schedule

    def trainable(self, stage: str) -> dict[str, list[nn.Parameter]]:
        """Optimize each student on its own; those of the inactive group have no gradient."""
        return {f"student_{k}": list(s.parameters()) for k, s in enumerate(self.students)}

    def batch_address(self, stage: str, number: int) -> int:
        """Return to the buffered batches, in the official alternation."""
        return self.settings.position(number, 0).batch

    def learning_rate_position(self, stage: Stage, iteration: int) -> tuple[int, int]:
        """Read the schedule at the newest batch loaded, in the official alternation."""
        return self.settings.learning_rate_position(iteration, stage.iterations)

    def decay(self, group_iteration: int) -> float:
        """Return the decay of the teacher's update after an iteration of its group."""
        return ema_decay(group_iteration, self.settings.ema_decay)

    # ------------------------------------------------------------------ the step

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Compute the losses of the two active students, one after the other."""
        labeled, unlabeled = batch.both()
        settings = self.settings
        position = settings.position(progress.iteration, progress.total)
        active = (position.group, position.group + self.groups)
        self._set_modes(active)

        truth = Truth.of(labeled.label, self.num_classes)
        images = torch.cat([labeled.image, unlabeled.image])
        predictions: dict[int, StudentOutput] = {}
        # First what leaves no activations behind.
        target = self.teacher_target(position.group, images, len(truth))
        if not position.first_term:
            with self.without_gradients():
                for k in range(2 * self.groups):
                    if k not in active:
                        predictions[k] = losses.predict(self.students[k](images), truth)
        for k in active:
            predictions[k] = losses.predict(self.students[k](images), truth)

        best = None
        if not position.first_term:
            order = [predictions[k] for k in range(2 * self.groups)]
            best = losses.choose_best(order, settings.temperature)
        share = settings.ramp(position.group_iteration, progress.total)
        weights = Weights(share * settings.consistency_weight, share * settings.teacher_weight)
        terms = self._first_terms(weights, best)
        common = Common(truth, images, position.group, weights, best)
        mine = {k: predictions[k] for k in active}
        return StepOutput(self._losses(mine, target, common, terms), terms)

    def _losses(
        self,
        predictions: dict[int, StudentOutput],
        target: Tensor,
        common: Common,
        terms: dict[str, Tensor],
    ) -> Iterator[Tensor]:
        """Yield the loss of each active student and fill in the means of their terms."""
        truth = common.truth
        for number, k in enumerate(list(predictions)):
            if number and self.settings.teacher_mode == "train":
                target = self.teacher_target(common.group, common.images, len(truth))
            loss, own = losses.student_loss(
                predictions.pop(k),
                truth,
                target,
                self.settings,
                index=k,
                best=common.best,
                weights=common.weights,
            )
            for key, value in own.items():
                terms[key] = (terms[key] + value / 2) if key in terms else value / 2
            yield loss

    def _first_terms(self, weights: Weights, best: Best | None) -> dict[str, Tensor]:
        """Return the weights to log, and who is best; keep a record of the latter."""
        terms = {
            "weight/consistency": torch.tensor(weights.consistency),
            "weight/teacher": torch.tensor(weights.teacher),
        }
        if best is not None:
            hit = torch.zeros_like(self.recent)
            hit.index_fill_(0, best.index.view(1), 1.0)
            self.recent.lerp_(hit, 1 - RECENT)
            terms.update({f"best/student_{k}": hit[k] for k in range(len(hit))})
        return terms

    @torch.no_grad()
    def teacher_target(self, group: int, images: Tensor, labeled: int) -> Tensor:
        """Return a teacher's sharpened probabilities on the unlabeled part of a batch.

        In train mode it sees the labeled part too, because its BatchNorm mixes what it sees.
        """
        if self.settings.teacher_mode == "train":
            logits = self.teachers[group](images)[labeled:]
        else:
            logits = self.teachers[group](images[labeled:])
        return sharpen(torch.softmax(logits.float(), dim=1), self.settings.temperature)

    def without_gradients(self) -> AbstractContextManager[Any]:
        """Return the context in which the inactive students predict."""
        return torch.no_grad()

    def _set_modes(self, active: Sequence[int]) -> None:
        for k, student in enumerate(self.students):
            set_mode(student, "train" if k in active else self.settings.frozen_mode)
        for teacher in self.teachers:
            set_mode(teacher, self.settings.teacher_mode)

    def after_step(self, progress: Progress) -> None:
        """Update the active group's teacher from its V."""
        position = self.settings.position(progress.iteration, progress.total)
        ema_update(
            self.teachers[position.group],
            self.students[position.group],
            self.decay(position.group_iteration),
            buffers=self.settings.ema_buffers,
        )

    # ------------------------------------------------------------------ inference

    def predictor(self) -> nn.Module:
        """Return the ensemble ``predict_with`` names, or the student most often best lately."""
        students = list(self.students)
        match self.settings.predict_with:
            case "best":
                return students[int(self.recent.argmax())]
            case "teacher":
                members = list(self.teachers)
            case "vnet":
                members = students[: self.groups]
            case "resvnet":
                members = students[self.groups :]
            case _:
                members = students
        return Ensemble(members) if len(members) > 1 else members[0]
