"""Self-training from parts: who labels, what counts, what the student is shown, what it learns.

Each preset is one paper's choice of parts, or the one that measured best; a recipe may put any
others together. Papers: FixMatch (Sohn et al., NeurIPS 2020), UDA (Xie et al., NeurIPS 2020),
UniMatch (Yang et al., CVPR 2023), AD-MT (Zhao et al., ECCV 2024), HSSDA (Liu et al., CVPR 2023),
Consistent-Teacher (Wang et al., CVPR 2023), CW-BASS (IJCNN 2025), Teacher-Reviewer-Student (arXiv
2501.09565), ELR (Liu et al., NeurIPS 2020), Soft Teacher (Xu et al., ICCV 2021).

Algorithm, per iteration:
  1. teachers label the weak view of unlabeled patches: probabilities q, no gradient;
  2. a histogram of confidence by class forgets a tenth and takes in the new guesses;
  3. a rule on it says which voxels count, and factors how much: weight w;
  4. the views that the student will see are mixed: image, label and weight alike;
  5. the student predicts them and the labeled patches in one pass;
  6. loss = loss(truth) + lambda(t) (loss(guess, w) x share of guessed voxels that count);
  7. the teachers follow the student; they predict.

Presets (``medssl methods self_training`` shows their values):
  * ``mixed`` (default): an averaged teacher, threshold 0.7, weak views with boxes of each other,
    then pasted into labeled patches and these into them. On hippocampus with 4 labels one stage of
    it was as good as BCP's two (0.813 and 0.811), and +0.014 [0.007, 0.022] above labels alone;
  * ``fixmatch``: method ``fixmatch`` without mixing, in both variants;
  * ``uda``: sharpened probabilities; ``unimatch``: two strong views, each with boxes of its own;
  * ``dual_teacher``: AD-MT, two averages that follow the student in turns, each with its own view;
  * ``hssda``: two levels per class by 2-means, blocks of a patch shuffled;
  * ``consistent_teacher``: a threshold per class from two normal distributions;
  * ``cw_bass``: weight by confidence and boundary; ``reviewer``: a second, slower average;
  * ``elr``: early-learning regularization; ``soft_teacher``: background counts as it is probable;
  * ``open_set``: ``mixed`` with scans weighed by how far they are trusted;
  * ``fedlabel``: at a site of a federation, an average here or the last common model labels each
    voxel, whichever is surer, and both where they agree (Cho et al., ICCV 2023).

Differences from the papers, in all presets of variant ``corrected``:
  * losses, teacher and ramp are those of method ``fixmatch``, preset ``corrected``, and for its
    reasons: Dice + CE, an averaged teacher in eval mode, threshold 0.7;
  * histograms of confidence take the place of stores of scores and of averages of thresholds: the
    published averages start at 1 and forget in thousands of iterations;
  * UniMatch: an averaged teacher labels, once for all views; boxes come from the next patch, never
    the same one, and feature dropout is left out;
  * AD-MT: both teachers begin as the student, label in eval mode and count their own updates; the
    student's own map, which settles conflicts, comes from a pass in eval mode and is mixed as the
    labels are; the mean of both teachers predicts;
  * FedLabel: voxels for images, the average of the student for the local model; its loss between
    both models' outputs where they agree is left out;
  * Consistent-Teacher: the valley between two distributions, since its peak drops half of what is
    sure; CW-BASS: a fixed threshold, since its formula lets every voxel through.
``variant: official`` is there where a published code's values fit voxels: ``fixmatch`` and, of the
rule alone, ``consistent_teacher``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar

import torch
from torch import Tensor, nn

from medssl.methods.base import Batch, LabeledBatch, NetworkBuilder, Progress, StepOutput
from medssl.methods.self_training_cases import EVERY, Cases
from medssl.methods.self_training_memory import Memory
from medssl.methods.self_training_presets import Kind
from medssl.methods.self_training_settings import SelfTrainingSettings
from medssl.methods.self_training_sure_settings import SureSettings
from medssl.methods.self_training_teachers import Guess, decays, guess_of, settled, turn_of
from medssl.methods.self_training_views import agreement, guess_loss, perturb, told_of, truth_loss
from medssl.methods.settings import MethodSettings
from medssl.methods.starting import Loader
from medssl.methods.student_teacher import StudentTeacher
from medssl.networks.ensemble import Ensemble
from medssl.networks.taps import tapped_channels
from medssl.ops.deep_supervision import finest
from medssl.ops.ema import copy_weights, ema_update, frozen_copy
from medssl.ops.modes import set_mode
from medssl.ops.perturb import View
from medssl.ops.pseudo_labels import sharpen


class SelfTraining(StudentTeacher):
    """A student that learns from labels, and from what its averages guess."""

    Settings: ClassVar[type[MethodSettings]] = SelfTrainingSettings
    settings: SureSettings

    def make_networks(self, build: NetworkBuilder) -> None:
        """Make the student; its averages start as copies of it."""
        super().make_networks(build)
        self.parts = self.settings.parts
        if self.parts.teachers == 2:
            self.second = frozen_copy(self.student)
        if self.parts.teacher == "global":
            self.stay = ("second",)
        self.memory = Memory(self.parts, self.num_classes)
        self.cases: Cases | None = None
        if "case" in self.parts.weight:
            self.cases = Cases(self.num_classes, tapped_channels(build, self.spatial_dims))

    @property
    def teachers(self) -> list[nn.Module]:
        """The averages of the student, and of a federation the last common model."""
        return [self.teacher, self.second] if self.parts.teachers == 2 else [self.teacher]

    def start_from(self, load: Loader) -> None:
        """Load the student; its averages become its copies."""
        super().start_from(load)
        for teacher in self.teachers[1:]:
            copy_weights(teacher, self.student)

    def received(self, shared: Collection[str]) -> None:
        """Keep the common model: its averaged teacher, or the student if no teacher is shared."""
        if self.parts.teacher == "global":
            averaged = any(name.startswith("teacher.") for name in shared)
            copy_weights(self.second, self.teacher if averaged else self.student)

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Guess, believe, perturb, predict, learn."""
        labeled, unlabeled = batch.labeled, batch.unlabeled
        assert unlabeled is not None
        settings = self.parts
        with self._watched("unlabeled", unlabeled.case):
            guess = self.guess(unlabeled.image)
        weight = self.memory.believe(guess, self._checked(labeled))
        told: dict[str, Tensor] = {}
        if self.cases is not None:
            if labeled is not None and progress.iteration % EVERY == 0:
                with self._watched("labeled", labeled.case):
                    guess_of(labeled.image, [self.teacher], settings)
            weight, told = self.cases.weigh(weight, guess, batch, self.student, progress)
        nowhere, soft = torch.zeros_like(guess.label, dtype=torch.bool), self._soft(guess)
        views = [
            View(image, guess.label, nowhere, weight, soft)
            for image in self._seen(unlabeled.image, unlabeled.views, progress)
        ]
        shown = perturb(labeled, views, self._kinds(progress), settings, progress)
        set_mode(self.student, "train")
        logits = self.student(shown.view.image)
        truth = finest(logits).new_zeros(())
        if labeled is not None:
            truth = truth_loss(logits, shown, settings)
        guessed = guess_loss(logits, shown, settings)
        factor = settings.unlabeled_weight * progress.ramp(settings.ramp_fraction)
        terms = {
            "loss/labeled": truth.detach(),
            "loss/unlabeled": guessed.detach(),
            "weight/unlabeled": torch.tensor(factor),
            "pseudo/agreement": agreement(finest(logits).detach(), shown),
            **told_of(guess, weight),
            **told,
        }
        return StepOutput(truth + factor * guessed, terms)

    def _watched(self, name: str, case: Tensor) -> AbstractContextManager[None]:
        """Remember what the teacher makes of patches, where scans are weighed."""
        return nullcontext() if self.cases is None else self.cases.watched(name, case, self.teacher)

    def guess(self, image: Tensor) -> Guess:
        """Label weak views ``(B, C, *spatial)``."""
        student = self.parts.teacher == "student"
        guess = guess_of(image, [self.student] if student else self.teachers, self.parts)
        if self.parts.arbiter == "student" and guess.conflict is not None:
            return settled(guess, image, self.student)
        return guess

    def know_cases(self, counts: Mapping[str, int]) -> None:
        """Remember each unlabeled scan, where they are weighed."""
        if self.cases is not None:
            self.cases.make_room(counts["unlabeled"], counts.get("labeled", 0))

    def unlabeled_table(self) -> dict[str, Tensor]:
        """Return what became of each unlabeled scan, where they are weighed."""
        return {} if self.cases is None else self.cases.figures()

    def _checked(self, labeled: LabeledBatch | None) -> tuple[Guess, Tensor] | None:
        """Return guesses of labeled patches with the truth, where the rule asks for them."""
        if labeled is None or self.parts.selection != "gate":
            return None
        return self.guess(labeled.image), labeled.label

    def _soft(self, guess: Guess) -> Tensor | None:
        """Return the probabilities ``(B, K, *spatial)`` that the loss asks for."""
        if not self.parts.needs_probabilities:
            return None
        if self.parts.target == "sharpened":
            return sharpen(guess.probs, self.parts.temperature)
        return guess.probs

    def _seen(
        self, weak: Tensor, strong: tuple[Tensor, ...], progress: Progress
    ) -> tuple[Tensor, ...]:
        """Return the views ``(B, C, *spatial)`` of unlabeled patches that the student sees."""
        shows_weak = self.parts.view == "weak" or self._second_turn(progress)
        return (weak,) if shows_weak else strong

    def _kinds(self, progress: Progress) -> tuple[Kind, ...]:
        """Return how they are mixed."""
        by_turn = self.parts.view == "by_turn"
        return () if by_turn and not self._second_turn(progress) else self.parts.kinds

    def _second_turn(self, progress: Progress) -> bool:
        by_turn = self.parts.view == "by_turn"
        return by_turn and turn_of(self.parts, progress).active == 1

    def averages(self, progress: Progress) -> dict[str, float]:
        """Return the modules that follow the student after an iteration, with their decay."""
        return decays(self.parts, progress)

    def after_step(self, progress: Progress) -> None:
        """Let the averages follow the student."""
        for name, decay in self.averages(progress).items():
            teacher = self.get_submodule(name)
            ema_update(teacher, self.student, decay, buffers=self.parts.ema_buffers)

    def predictor(self) -> nn.Module:
        """Return the student, its average, or the mean of both averages."""
        two = self.parts.predict_with == "teacher" and self.parts.averages == 2
        return Ensemble(self.teachers) if two else super().predictor()
