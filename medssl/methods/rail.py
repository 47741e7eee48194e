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

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from medssl.methods.base import (
    Batch,
    Method,
    NetworkBuilder,
    Progress,
    Stage,
    StepOutput,
    register,
)
from medssl.methods.rail_losses import Best, Prediction, Truth, choose_best, predict, student_loss
from medssl.methods.rail_presets import RailSettings, idle_settings, problems, resolve
from medssl.methods.rail_schedule import (
    Position,
    alternating_position,
    batches_to_load,
    buffered_position,
)
from medssl.networks.ensemble import Ensemble
from medssl.networks.vnet import VNet
from medssl.ops.ema import ema_decay, ema_update, frozen_copy
from medssl.ops.pseudo_labels import sharpen
from medssl.ops.ramps import sigmoid_ramp

logger = logging.getLogger(__name__)

RECENT = 0.99
"""Decay of the record of which student was best."""


@register("rail")
class Rail(Method):
    """Four students, two teachers, one stage.

    Students are numbered as in the published code: V of each group, then R of each group; the mate
    of V number g is number g + groups.
    """

    Settings = RailSettings
    settings: RailSettings
    paper = "Zhao et al., RAIL (arXiv 2505.03538)"

    def __init__(
        self,
        settings: RailSettings,
        build_network: NetworkBuilder,
        *,
        num_classes: int,
        spatial_dims: int,
    ) -> None:
        super().__init__(
            settings, build_network, num_classes=num_classes, spatial_dims=spatial_dims
        )
        self.rules = resolve(settings)
        self.groups = settings.groups
        if settings.preset == "official" and num_classes > 2:
            logger.warning(
                "rail's official preset was published for two classes, not %d: its formulas are "
                "extended to more",
                num_classes,
            )
        first = [build_network() for _ in range(self.groups)]
        name = settings.partner_network
        if name is None and isinstance(first[0], VNet):
            name = "resvnet"
        which = {} if name is None else {"network": name}
        second = [build_network(**which, **settings.partner_options) for _ in range(self.groups)]
        self.students = nn.ModuleList([*first, *second])
        # The code initializes teachers independently; its first update makes them copies.
        own = settings.preset == "official"
        self.teachers = nn.ModuleList(
            [build_network().requires_grad_(False) if own else frozen_copy(v) for v in first]
        )
        self.register_buffer("recent", torch.zeros(2 * self.groups))

    # ------------------------------------------------------------------ schedule

    def stages(self, iterations: int) -> list[Stage]:
        """Spend the whole budget, of all groups together, on one stage."""
        return [Stage("train", iterations)]

    def trainable(self, stage: str) -> dict[str, list[nn.Parameter]]:
        """Optimize each student on its own; those of the inactive group have no gradient."""
        return {f"student_{k}": list(s.parameters()) for k, s in enumerate(self.students)}

    def position(self, iteration: int, total: int) -> Position:
        """Return which group an iteration trains, and where that group stands."""
        rules = self.rules
        if rules.alternation == "buffer":
            return buffered_position(iteration, rules.turn_length, rules.loaded_batches)
        first_term = round(rules.first_term_fraction * total / self.groups)
        return alternating_position(
            iteration, groups=self.groups, turn_length=rules.turn_length, first_term=first_term
        )

    def batch_address(self, stage: str, number: int) -> int:
        """Return to the buffered batches, in the official alternation."""
        if self.rules.alternation == "turn":
            return number
        return buffered_position(number, self.rules.turn_length, self.rules.loaded_batches).batch

    def learning_rate_position(self, stage: Stage, iteration: int) -> tuple[int, int]:
        """Read the schedule at the newest batch loaded, in the official alternation."""
        rules = self.rules
        if rules.alternation == "turn":
            return iteration, stage.iterations
        total = rules.loaded_batches or batches_to_load(stage.iterations, rules.turn_length)
        return min(self.position(iteration, stage.iterations).loaded, total), total

    def ramp(self, group_iteration: int, total: int) -> float:
        """Return the share of the consistency weights at an iteration of a group."""
        rules = self.rules
        length = float(rules.ramp_iterations or 0)
        if rules.ramp_iterations is None:
            length = rules.ramp_fraction * total / self.groups
        return sigmoid_ramp(group_iteration, length, every=rules.ramp_every)

    def decay(self, group_iteration: int) -> float:
        """Return the decay of the teacher's update after an iteration of its group."""
        return ema_decay(group_iteration, self.rules.ema_decay)

    # ------------------------------------------------------------------ the step

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Compute the losses of the two active students, one after the other."""
        labeled, unlabeled = batch.labeled, batch.unlabeled
        assert labeled is not None
        assert unlabeled is not None
        position = self.position(progress.iteration, progress.total)
        active = (position.group, position.group + self.groups)
        self._set_modes(active)

        truth = Truth.of(labeled.label, self.num_classes)
        images = torch.cat([labeled.image, unlabeled.image])
        predictions: dict[int, Prediction] = {}
        # First what leaves no activations behind.
        target = self.teacher_target(position.group, images, len(truth))
        if not position.first_term:
            with self.without_gradients():
                for k in range(2 * self.groups):
                    if k not in active:
                        predictions[k] = predict(self.students[k](images), truth)
        for k in active:
            predictions[k] = predict(self.students[k](images), truth)

        best = None
        if not position.first_term:
            order = [predictions[k] for k in range(2 * self.groups)]
            best = choose_best(order, self.rules.temperature)
        share = self.ramp(position.group_iteration, progress.total)
        weights = (share * self.rules.consistency_weight, share * self.rules.teacher_weight)
        terms = self._first_terms(weights, best)
        mine = {k: predictions[k] for k in active}
        return StepOutput(
            self._losses(mine, truth, images, target, position, weights, best, terms), terms
        )

    def _losses(
        self,
        predictions: dict[int, Prediction],
        truth: Truth,
        images: Tensor,
        target: Tensor,
        position: Position,
        weights: tuple[float, float],
        best: Best | None,
        terms: dict[str, Tensor],
    ) -> Iterator[Tensor]:
        """Yield the loss of each active student and fill in the means of their terms."""
        for number, k in enumerate(list(predictions)):
            if number and self.rules.teacher_mode == "train":
                target = self.teacher_target(position.group, images, len(truth))
            loss, own = student_loss(
                predictions.pop(k),
                truth,
                target,
                self.rules,
                index=k,
                best=best,
                consistency_weight=weights[0],
                teacher_weight=weights[1],
            )
            for key, value in own.items():
                terms[key] = (terms[key] + value / 2) if key in terms else value / 2
            yield loss

    def _first_terms(self, weights: tuple[float, float], best: Best | None) -> dict[str, Tensor]:
        """Return the weights to log, and who is best; keep a record of the latter."""
        terms = {
            "weight/consistency": torch.tensor(weights[0]),
            "weight/teacher": torch.tensor(weights[1]),
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
        if self.rules.teacher_mode == "train":
            logits = self.teachers[group](images)[labeled:]
        else:
            logits = self.teachers[group](images[labeled:])
        return sharpen(torch.softmax(logits.float(), dim=1), self.rules.temperature)

    def without_gradients(self) -> AbstractContextManager[Any]:
        """Return the context in which the inactive students predict."""
        return torch.no_grad()

    def _set_modes(self, active: Sequence[int]) -> None:
        for k, student in enumerate(self.students):
            train = k in active or self.rules.frozen_mode == "train"
            if student.training is not train:
                student.train(train)
        for teacher in self.teachers:
            train = self.rules.teacher_mode == "train"
            if teacher.training is not train:
                teacher.train(train)

    def after_step(self, progress: Progress) -> None:
        """Update the active group's teacher from its V."""
        position = self.position(progress.iteration, progress.total)
        ema_update(
            self.teachers[position.group],
            self.students[position.group],
            self.decay(position.group_iteration),
            buffers=self.rules.ema_buffers,
        )

    # ------------------------------------------------------------------ inference and recipe

    def predictor(self) -> nn.Module:
        """Return the ensemble ``predict_with`` names, or the student most often best lately."""
        students = list(self.students)
        match self.rules.predict_with:
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

    @classmethod
    def check_recipe(cls, settings: RailSettings, recipe: Any) -> list[str]:
        """Refuse what the official code cannot do, and a partner that does not fit the patch."""
        return problems(settings, recipe)

    @classmethod
    def warn_recipe(cls, settings: RailSettings, recipe: Any) -> list[str]:
        """Warn of settings that can do nothing, or that weaken the method."""
        return idle_settings(settings, recipe)
