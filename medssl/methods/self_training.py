"""Self-training from parts: who labels, what counts, what the student is shown, what it learns.

Each preset is one paper's choice of parts, or the one that measured best; a recipe may put any
others together. Papers: FixMatch (Sohn et al., NeurIPS 2020), UDA (Xie et al., NeurIPS 2020),
UniMatch (Yang et al., CVPR 2023), AD-MT (Zhao et al., ECCV 2024), HSSDA (Liu et al., CVPR 2023),
Consistent-Teacher (Wang et al., CVPR 2023), CW-BASS (IJCNN 2025), Teacher-Reviewer-Student (arXiv
2501.09565), ELR (Liu et al., NeurIPS 2020), Soft Teacher (Xu et al., ICCV 2021), FST (Du et al.,
NeurIPS 2022), ShrinkMatch (Yang et al., ICCV 2023), SAA (Gui et al., ICCV 2023).

Algorithm, per iteration:
  1. teachers label the weak view of unlabeled patches: probabilities q, no gradient;
  2. a histogram of confidence by class forgets a tenth and takes in the new guesses;
  3. a rule on it says which voxels count, and factors how much: weight w;
  4. the views that the student will see are mixed: image, label and weight alike;
  5. the student predicts them and the labeled patches in one pass;
  6. loss = loss(truth) + lambda(t) (loss(guess, w) x share of guessed voxels that count);
  7. the teachers follow the student; they predict.

Presets, and how they differ from their papers: :mod:`medssl.methods.self_training_presets`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from medssl.methods.base import Batch, NetworkBuilder, Progress, StepOutput
from medssl.methods.scan_trust import EVERY, Cases
from medssl.methods.self_training_checks import unfit
from medssl.methods.self_training_hardness import Hardness
from medssl.methods.self_training_losses import agreement, guess_loss, told_of, truth_loss
from medssl.methods.self_training_memory import Memory
from medssl.methods.self_training_settings import SelfTrainingSettings
from medssl.methods.self_training_slots import Slots
from medssl.methods.self_training_sure_settings import SureSettings
from medssl.methods.self_training_teachers import Guess, decays, guess_of, settled
from medssl.methods.self_training_views import Shown, perturb, plain_view, views_of
from medssl.methods.settings import MethodSettings
from medssl.methods.starting import Loader
from medssl.methods.student_teacher import StudentTeacher
from medssl.networks.ensemble import Ensemble
from medssl.networks.taps import dropped, tapped_channels
from medssl.ops.deep_supervision import finest
from medssl.ops.ema import copy_weights, ema_update, frozen_copy
from medssl.ops.modes import set_mode
from medssl.ops.virtual_step import descend, gradients_of, put_back


class SelfTraining(StudentTeacher):
    """A student that learns from labels, and from what its averages guess."""

    Settings: ClassVar[type[MethodSettings]] = SelfTrainingSettings
    settings: SureSettings

    @cached_property
    def slots(self) -> Slots:
        """Which part fills each slot."""
        return cast(Slots, self.settings)

    def make_networks(self, build: NetworkBuilder) -> None:
        """Make the student; its averages start as copies of it."""
        super().make_networks(build)
        if self.slots.teachers == 2:
            self.second = frozen_copy(self.student)
        if self.slots.teacher == "global":
            self.stay = ("second",)
        self.memory = Memory(self.slots, self.num_classes)
        self.cases: Cases | None = None
        if "case" in self.slots.weight:
            self.cases = Cases(self.num_classes, tapped_channels(build, self.spatial_dims))
        self.hardness = Hardness() if self.slots.adapt == "otsu" else None

    def check_networks(self) -> list[str]:
        """Say what the number of classes, or the network, is not made for."""
        return list(unfit(self.slots, self.num_classes, self.student))

    @property
    def teachers(self) -> list[nn.Module]:
        """The averages of the student, and of a federation the last common model."""
        return [self.teacher, self.second] if self.slots.teachers == 2 else [self.teacher]

    def start_from(self, load: Loader) -> None:
        """Load the student; its averages become its copies."""
        super().start_from(load)
        for teacher in self.teachers[1:]:
            copy_weights(teacher, self.student)

    def received(self, shared: Collection[str]) -> None:
        """Keep the common model: its averaged teacher, or the student if no teacher is shared."""
        if self.slots.teacher == "global":
            averaged = any(name.startswith("teacher.") for name in shared)
            copy_weights(self.second, self.teacher if averaged else self.student)

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Guess, believe, perturb, predict, learn."""
        unlabeled = batch.unlabeled
        assert unlabeled is not None
        foresees, cases = self.slots.teacher == "future", self.cases
        with cases.watched("unlabeled", unlabeled.case, self.teacher) if cases else nullcontext():
            guess = self._foreseen(batch, progress) if foresees else self.guess(unlabeled.image)
        return self._learned(batch, guess, progress)

    def _learned(self, batch: Batch, guess: Guess, progress: Progress) -> StepOutput:
        """Return what the student learns from labels, and from guesses of unlabeled patches."""
        labeled, unlabeled = batch.labeled, batch.unlabeled
        assert unlabeled is not None
        settings = self.slots
        checked = None
        if labeled is not None and settings.selection == "gate":
            checked = (self.guess(labeled.image), labeled.label)
        weight = self.memory.believe(guess, checked)
        told: dict[str, Tensor] = {}
        if self.cases is not None:
            if labeled is not None and progress.iteration % EVERY == 0:
                with self.cases.watched("labeled", labeled.case, self.teacher):
                    guess_of(labeled.image, [self.teacher], settings)
            told_by = (guess.label, guess.probs)
            weight, told = self.cases.weigh(weight, told_by, batch, self.student, progress)
        easy = self.hardness.naive(unlabeled.case, progress) if self.hardness else None
        seen, kinds = views_of(unlabeled, easy, settings, progress)
        plain = plain_view(unlabeled.image, guess, weight, settings)
        shown = perturb(labeled, [replace(plain, image=i) for i in seen], kinds, settings, progress)
        set_mode(self.student, "train")
        logits = self.student(shown.view.image)
        truth = truth_loss(logits, shown, settings, self.unions)
        guessed = guess_loss(logits, shown, settings, self.unions)
        if settings.feature_drop > 0:
            with dropped(self.student, settings.feature_drop):
                again = self.student(plain.image)
            alone = Shown(plain, slice(0), (slice(None),))
            guessed = (guessed + guess_loss(again, alone, settings, self.unions)) / 2
        if self.hardness is not None:
            self.hardness.remember(unlabeled.case, finest(logits), shown)
        factor = settings.unlabeled_weight
        if labeled is not None:  # else the ramp is of the site's weight among others: Exchanger
            factor *= self.unlabeled_ramp(progress)
        terms = {
            "loss/labeled": truth.detach(),
            "loss/unlabeled": guessed.detach(),
            "weight/unlabeled": torch.tensor(factor),
            "pseudo/agreement": agreement(finest(logits).detach(), shown),
            **(told_of(guess, weight) | told),
        }
        return StepOutput(truth + factor * guessed, terms)

    def unlabeled_ramp(self, progress: Progress) -> float:
        """Return how much guesses count yet."""
        return progress.ramp(self.slots.ramp_fraction)

    def _foreseen(self, batch: Batch, progress: Progress) -> Guess:
        """Label by the average as it will be after virtual steps, which are taken back."""
        weights, unlabeled = list(self.student.parameters()), batch.unlabeled
        assert unlabeled is not None
        with put_back(self):
            for _ in range(self.slots.peeks):
                (loss,) = self._learned(batch, self.guess(unlabeled.image), progress).losses()
                descend(weights, self.sum_tensors(gradients_of(loss, weights)), lr=progress.lr)
                self.after_step(progress)
            return self.guess(unlabeled.image)

    def guess(self, image: Tensor) -> Guess:
        """Label weak views ``(B, C, *spatial)``."""
        who = [self.student] if self.slots.teacher == "student" else self.teachers
        guess = guess_of(image, who, self.slots)
        if self.slots.arbiter == "student" and guess.conflict is not None:
            return settled(guess, image, self.student)
        return guess

    def know_cases(self, counts: Mapping[str, int]) -> None:
        """Remember each unlabeled scan, where they are weighed."""
        for scans in (self.cases, self.hardness):
            if scans is not None:
                scans.make_room(counts["unlabeled"], counts.get("labeled", 0))

    def unlabeled_table(self) -> dict[str, Tensor]:
        """Return what became of each unlabeled scan, where they are weighed."""
        return {} if self.cases is None else self.cases.figures()

    def averages(self, progress: Progress) -> dict[str, float]:
        """Return the modules that follow the student after an iteration, with their decay."""
        return decays(self.slots, progress)

    def after_step(self, progress: Progress) -> None:
        """Let the averages follow the student."""
        for name, decay in self.averages(progress).items():
            average = self.get_submodule(name)
            ema_update(average, self.student, decay, buffers=self.slots.ema_buffers)

    def predictor(self) -> nn.Module:
        """Return the student, its average, or the mean of both averages."""
        two = self.slots.predict_with == "teacher" and self.slots.averages == 2
        return Ensemble(self.teachers) if two else super().predictor()
