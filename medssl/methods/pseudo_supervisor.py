"""Pseudo supervisor (experimental): a policy learns which pseudo-labels help on labeled patches.

Paper: Luo, Shi, Tian, Elze, Wang, "Harvard Glaucoma Detection and Progression: A Multimodal
Multitask Dataset and Generalization-Reinforced Semi-Supervised Learning" (ICCV 2023). It classifies
2D thickness maps; this is a voxelwise version of its idea, unproven for segmentation.

Why not as published: there, the policy draws each label. With V voxels and one reward, the gradient
of a voxel's choice has a signal-to-noise ratio of 1/sqrt(V), 1/940 for a 96^3 patch. Here, a mean
teacher labels and the policy only *selects*: per patch and class, the confidence from which a label
counts, one of 0.5, 0.7, 0.9, 0.95 or "drop the class": C choices among 5, few enough to learn.

Algorithm, per iteration:
  1. loss of the student on the labeled patches, except ``reward_patches`` that are held out;
  2. the teacher labels the unlabeled patches; the policy (an MLP on statistics of prediction and
     confidence) draws the thresholds; loss of the student on what is left, with a ramped weight;
  3. e0 = loss of the held patches; a virtual gradient step on the unlabeled loss alone;
     e1 = the same loss after it; the reward follows from e0 - e1;
  4. after ``buffer`` rewards: returns, advantages, one policy-gradient step;
  5. teacher <- d teacher + (1 - d) student.

Presets. ``official`` keeps the paper's rules where they carry over: reward
max(exp(e0 - e1) - 1, 0), discount 0.9 that restarts at a zero reward, returns standardized within
the buffer, Adam betas (0, 0.1), cross-entropy alone, weight 1 without ramp. ``corrected`` (the
default):
  * signed reward e0 - e1, scaled by its running root mean square: voxel means change by 1e-4 only,
    and what did harm must count too;
  * no discount: a selection answers for its own step;
  * advantage over a moving baseline, gradient norm 1, betas (0.9, 0.999);
  * entropy bonus 0.1, and a fifth of the draws uniform (``floor``): no threshold falls below 4 %.
    With a bonus of 0.01 and no floor the policy collapsed: a reward that only one class's choice
    deserves settles the others' by luck as well, since all of them are reinforced together
    (their relative entropy after 50 updates on a toy bandit: 0.11 to 0.94, now 0.95 to 1.00). On
    hippocampus one run of two came to ignore a structure, and lost 4 points of Dice by it. The
    bonus does most of it; the floor is the guarantee;
  * dropping a class leaves out all evidence about it, also where the student sees it and the
    teacher does not (``drop: class``). Otherwise the neighbors' labels, which are not dropped,
    make it disappear;
  * learning rate of the policy 0.01, not 0.0001: one update in 50 iterations makes a hundred or so,
    each moving a weight by about the learning rate (at 0.0001, 300 iterations left the entropy at
    0.9999998 of its maximum);
  * Dice + CE as in ``supervised``; weight 0.5 after a ramp over 40 % of the iterations, because a
    mean teacher's unfiltered labels only repeat what is known.
Both presets repair the published code: log-probabilities are paired with their own actions, equal
rewards give no update instead of NaN, rewards are measured in eval mode without touching BatchNorm
or the random generator, and neither validation nor test cases enter a reward.

Deviations from the paper's loop. Its two real optimizer steps are one virtual step of gradient
descent (length ``virtual_lr`` times the gradient, whose norm is cut at 1) and one real step
for both losses together, as in Meta Pseudo Labels (Pham et al. 2021). The held patches come from
the labeled training cases, which the student also trains on in other iterations: a few labels are
too dear to set cases aside. ``reward_patches: 0`` holds nothing out and measures on the whole
labeled batch before its own update.

Ablations (``selection``): ``random`` draws thresholds uniformly, ``always_0.5`` and ``always_0.95``
use one for all. They train on the same patches and skip step 3 and 4. If ``learned`` does not
beat ``random``, the policy has learned nothing of use.

Cost: two more forward passes of the held patches, one copy of the parameters and of their
gradient; no more backward passes. The policy, its buffer and its optimizer (some hundred kB) are in
the state dict.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from medssl.methods.base import Batch, LabeledBatch, Progress, StepOutput
from medssl.methods.pseudo_supervisor_policy import DROP, PolicyTeacher
from medssl.methods.pseudo_supervisor_settings import PseudoSupervisorSettings
from medssl.ops import policy as ops
from medssl.ops.deep_supervision import finest
from medssl.ops.losses import supervised_loss
from medssl.ops.modes import set_mode
from medssl.ops.pseudo_labels import hard_labels, kept_shares
from medssl.ops.virtual_step import around_step, carry_gradients, gradients_of


class PseudoSupervisor(PolicyTeacher):
    """Mean-teacher pseudo-labels, selected by a policy that is rewarded for what they improve."""

    Settings = PseudoSupervisorSettings
    settings: PseudoSupervisorSettings
    undivided = ("policy",)

    def unlabeled_weight(self, progress: Progress) -> float:
        """Return the weight of the unlabeled loss at an iteration."""
        return self.settings.unlabeled_weight * progress.ramp(self.settings.ramp_fraction)

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Compute the loss of the labels, then that of the selected pseudo-labels."""
        terms: dict[str, Tensor] = {}
        return StepOutput(self._losses(batch, progress, terms), terms)

    def _losses(
        self, batch: Batch, progress: Progress, terms: dict[str, Tensor]
    ) -> Iterator[Tensor]:
        """Yield both losses, each computed only when the one before is done with."""
        labeled, unlabeled = batch.both()
        set_mode(self.student, "train")
        set_mode(self.teacher, "eval")
        loss = self.settings.loss
        # At least one patch is left to train on and, unless nothing is held, one to measure on.
        cut = len(labeled.image) - min(self.settings.reward_patches, len(labeled.image) - 1)
        logits = self.student(labeled.image[:cut])
        supervised = supervised_loss(logits, labeled.label[:cut], loss=loss, unions=self.unions)
        terms["loss/labeled"] = supervised.detach()
        del logits
        yield supervised

        with torch.no_grad():
            probs = torch.softmax(self.teacher(unlabeled.image).float(), dim=1)
        logits = self.student(unlabeled.image)
        with torch.no_grad():
            seen = hard_labels(finest(logits).detach())
            description = ops.describe_labels(probs, seen)
            actions = self.choose(description, progress, terms)
            target = ops.keep_confident(probs, self.thresholds[actions])
            if self.settings.drop == "class":
                target = ops.leave_out(target, seen, actions == DROP)
            terms |= kept_shares(probs, target)
        del probs
        unsupervised = supervised_loss(logits, target, loss=loss, unions=self.unions)
        weight = self.unlabeled_weight(progress)
        terms["loss/unlabeled"] = unsupervised.detach()
        terms["weight/unlabeled"] = torch.tensor(weight)
        slot = self.slot(progress)
        if slot is None:
            yield weight * unsupervised
            return
        del logits
        first = cut if cut < len(labeled.image) else 0
        held = LabeledBatch(labeled.image[first:], labeled.label[first:], labeled.case[first:])
        gradients = gradients_of(unsupervised, self.student.parameters())
        improvement = self.improvement(self.sum_tensors(gradients), held)
        terms |= self.remember(slot, description, actions, improvement)
        yield weight * carry_gradients(unsupervised.detach(), self.student.parameters(), gradients)

    @torch.no_grad()
    def improvement(self, gradients: list[Tensor], held: LabeledBatch) -> Tensor:
        """Measure how much a virtual step along ``gradients`` lowers the loss of labeled patches.

        In eval mode and float32, with the same patches before and after. Neither the student's
        weights and buffers nor torch's random generator change.
        """
        logits = around_step(self.student, gradients, held.image, lr=self.settings.virtual_lr)
        loss = partial(supervised_loss, loss=self.settings.loss, unions=self.unions)
        losses = [loss(x, held.label) for x in logits]
        change = losses[0] - losses[1]
        return torch.where(torch.isfinite(change), change, torch.zeros_like(change))
