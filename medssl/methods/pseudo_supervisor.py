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
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from medssl.methods.base import (
    Batch,
    LabeledBatch,
    NetworkBuilder,
    Progress,
    StepOutput,
    register,
)
from medssl.methods.pseudo_supervisor_policy import (
    DROP,
    FIXED,
    THRESHOLDS,
    ThresholdPolicy,
    draw_actions,
)
from medssl.methods.pseudo_supervisor_presets import (
    PseudoSupervisorSettings,
    recipe_problems,
    recipe_warnings,
    resolve,
)
from medssl.methods.student_teacher import StudentTeacher
from medssl.ops import policy as ops
from medssl.ops.losses import IGNORE_INDEX, DiceVariant, region_terms
from medssl.ops.pseudo_labels import hard_labels
from medssl.ops.virtual_step import around_step, carry_gradients, gradients_of

DICE = DiceVariant(background=False)
SCALE_DECAY = 0.99
BASELINE_DECAY = 0.9


def segmentation_loss(logits: Tensor, target: Tensor, loss: str) -> Tensor:
    """Compute ``ce`` or ``dice_ce`` over the voxels that are not 255."""
    ((dice, ce),) = region_terms(logits, target, [None], dice=DICE)
    return ce if loss == "ce" else dice + ce


@register("pseudo_supervisor")
class PseudoSupervisor(StudentTeacher):
    """Mean-teacher pseudo-labels, selected by a policy that is rewarded for what they improve."""

    Settings = PseudoSupervisorSettings
    settings: PseudoSupervisorSettings
    undivided = ("policy",)
    paper = "after Luo et al., ICCV 2023 (experimental: a voxelwise version, unproven)"
    rewards: Tensor
    descriptions: Tensor
    actions: Tensor
    shares: Tensor
    moments: Tensor
    steps: Tensor
    reward_scale: Tensor
    baseline: Tensor
    thresholds: Tensor

    def __init__(
        self,
        settings: PseudoSupervisorSettings,
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
        self.policy = ThresholdPolicy(num_classes)
        size, patches = settings.buffer, settings.buffer_patches
        weights = sum(p.numel() for p in self.policy.parameters())
        self.register_buffer("rewards", torch.zeros(size))
        self.register_buffer("descriptions", torch.zeros(size, patches, self.policy.features))
        self.register_buffer("actions", torch.zeros(size, patches, num_classes, dtype=torch.long))
        self.register_buffer("shares", torch.zeros(size, patches))
        self.register_buffer("moments", torch.zeros(2, weights))
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("reward_scale", torch.zeros(2))
        self.register_buffer("baseline", torch.zeros(2))
        self.register_buffer("thresholds", torch.tensor(THRESHOLDS), persistent=False)

    def unlabeled_weight(self, progress: Progress) -> float:
        """Return the weight of the unlabeled loss at an iteration."""
        return self.ramped(self.rules.unlabeled_weight, progress)

    def slot(self, progress: Progress) -> int | None:
        """Return where in the buffer an iteration's reward belongs, None if none is measured.

        It follows from the iteration alone, so that no counter has to be read from the device.
        """
        turn, rest = divmod(progress.iteration, self.settings.measure_every)
        if self.settings.selection != "learned" or rest or progress.micro:
            return None
        return turn % self.settings.buffer

    # ------------------------------------------------------------------ the step

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Compute the loss of the labels, then that of the selected pseudo-labels."""
        terms: dict[str, Tensor] = {}
        return StepOutput(self._losses(batch, progress, terms), terms)

    def _losses(
        self, batch: Batch, progress: Progress, terms: dict[str, Tensor]
    ) -> Iterator[Tensor]:
        labeled, unlabeled = batch.labeled, batch.unlabeled
        assert labeled is not None
        assert unlabeled is not None
        self.student.train()
        self.teacher.eval()
        # At least one patch is left to train on and, unless nothing is held, one to measure on.
        cut = len(labeled.image) - min(self.settings.reward_patches, len(labeled.image) - 1)
        logits = self.student(labeled.image[:cut])
        supervised = segmentation_loss(logits, labeled.label[:cut], self.rules.loss)
        terms["loss/labeled"] = supervised.detach()
        del logits
        yield supervised

        with torch.no_grad():
            probs = torch.softmax(self.teacher(unlabeled.image).float(), dim=1)
        logits = self.student(unlabeled.image)
        with torch.no_grad():
            seen = hard_labels(logits.detach())
            description = ops.describe(probs, seen)
            actions = self.choose(description, progress, terms)
            target = ops.keep_confident(probs, self.thresholds[actions])
            if self.rules.drop == "class":
                target = ops.leave_out(target, seen, actions == DROP)
            self._describe_labels(probs, target, terms)
        del probs
        unsupervised = segmentation_loss(logits, target, self.rules.loss)
        weight = self.unlabeled_weight(progress)
        terms["loss/unlabeled"] = unsupervised.detach()
        terms["weight/unlabeled"] = torch.tensor(weight)
        slot = self.slot(progress)
        if slot is None:
            yield weight * unsupervised
            return
        del logits
        first = cut if cut < len(labeled.image) else 0
        held = LabeledBatch(labeled.image[first:], labeled.label[first:])
        gradients = gradients_of(unsupervised, self.student.parameters())
        improvement = self.improvement(self.sum_tensors(gradients), held)
        self._remember(slot, description, actions, improvement, terms)
        yield weight * carry_gradients(unsupervised.detach(), self.student.parameters(), gradients)

    def action_logits(self, description: Tensor) -> Tensor:
        """Return what actions are drawn from, ``(B, F)`` to logits ``(B, C, 5)``."""
        return ops.with_floor(self.policy(description), self.rules.floor)

    @torch.no_grad()
    def choose(
        self, description: Tensor, progress: Progress, terms: dict[str, Tensor] | None = None
    ) -> Tensor:
        """Choose a threshold per patch and class, ``(B, F)`` to int64 ``(B, C)``."""
        logits = self.action_logits(description)
        if self.settings.selection in FIXED:
            fixed = FIXED[self.settings.selection]
            return torch.full(logits.shape[:2], fixed, device=logits.device)
        if self.settings.selection == "random":
            logits = torch.zeros_like(logits)
        # All randomness of the method beside dropout.
        actions = draw_actions(logits, progress.rng("thresholds"))
        if terms is not None:
            most = ops.entropy(torch.zeros_like(logits))
            terms["policy/entropy"] = (ops.entropy(logits) / most).mean()
            terms["policy/dropped"] = (actions == DROP).float().mean()
        return actions

    @staticmethod
    def _describe_labels(probs: Tensor, target: Tensor, terms: dict[str, Tensor]) -> None:
        kept = target != IGNORE_INDEX
        foreground = probs[:, 0] < probs[:, 1:].amax(dim=1)
        sure = (kept & foreground).sum() / foreground.sum().clamp(min=1)
        terms["pseudo/kept"] = kept.float().mean()
        terms["pseudo/kept_foreground"] = sure

    # ------------------------------------------------------------------ the reward

    @torch.no_grad()
    def improvement(self, gradients: list[Tensor], held: LabeledBatch) -> Tensor:
        """Measure how much a virtual step along ``gradients`` lowers the loss of labeled patches.

        In eval mode and float32, with the same patches before and after. Neither the student's
        weights and buffers nor torch's random generator change.
        """
        logits = around_step(self.student, gradients, held.image, lr=self.settings.virtual_lr)
        losses = [segmentation_loss(x, held.label, self.rules.loss) for x in logits]
        change = losses[0] - losses[1]
        return torch.where(torch.isfinite(change), change, torch.zeros_like(change))

    @torch.no_grad()
    def _remember(
        self,
        slot: int,
        description: Tensor,
        actions: Tensor,
        improvement: Tensor,
        terms: dict[str, Tensor],
    ) -> None:
        """Turn an improvement into a reward and store it with what led to it."""
        reward = improvement
        if self.rules.scale_reward:
            reward, scale = ops.scaled(improvement, self.reward_scale, decay=SCALE_DECAY)
            self.reward_scale.copy_(scale)
        if self.rules.reward == "rectified":
            reward = ops.rectified_reward(reward, alpha=self.rules.alpha)
        count = min(len(actions), self.settings.buffer_patches)
        self.rewards[slot] = reward
        self.descriptions[slot].zero_()[:count] = description[:count]
        self.actions[slot].zero_()[:count] = actions[:count]
        self.shares[slot].zero_()[:count] = 1 / count
        terms["policy/improvement"] = improvement
        terms["policy/reward"] = reward

    # ------------------------------------------------------------------ the policy

    def after_step(self, progress: Progress) -> None:
        """Update the teacher, and the policy when its buffer is full."""
        super().after_step(progress)
        if self.slot(replace(progress, micro=0)) == self.settings.buffer - 1:
            self.update_policy()

    def update_policy(self) -> None:
        """Take one policy-gradient step on the buffer; none if all rewards in it are equal."""
        rules = self.rules
        returns = ops.discounted_returns(self.rewards, gamma=rules.gamma, restart=rules.restart)
        mean = torch.stack([returns.mean(), torch.ones_like(returns[0])])
        self.baseline.lerp_(mean, 1 - BASELINE_DECAY)
        idle = ops.is_flat(self.rewards)  # stays on the device: the host does not wait for it
        expected = self.baseline[0] / self.baseline[1] if rules.advantage == "baseline" else None
        advantage = ops.advantages(returns, expected)
        parameters = list(self.policy.parameters())
        logits = self.action_logits(self.descriptions.flatten(0, 1))
        log_prob = ops.joint_log_prob(logits, self.actions.flatten(0, 1))
        # A reward belongs to the whole batch; each of its patches has an equal share.
        per_reward = (log_prob.view_as(self.shares) * self.shares).sum(1)
        spread = (ops.entropy(logits).view_as(self.shares) * self.shares).sum(1).mean()
        loss = ops.reinforce_loss(per_reward, advantage) - rules.entropy * spread
        gradient = parameters_to_vector(torch.autograd.grad(loss, parameters))
        with torch.no_grad():
            weights, moments, steps = ops.adam_step(
                parameters_to_vector(parameters),
                ops.clipped(gradient, rules.policy_clip),
                self.moments,
                self.steps,
                lr=rules.policy_lr,
                betas=rules.policy_betas,
            )
            for old, new in zip(
                parameters, weights.split([p.numel() for p in parameters]), strict=True
            ):
                old.copy_(torch.where(idle, old, new.view_as(old)))
            self.moments.copy_(torch.where(idle, self.moments, moments))
            self.steps.copy_(torch.where(idle, self.steps, steps))

    # ------------------------------------------------------------------ recipes

    @classmethod
    def check_recipe(cls, settings: PseudoSupervisorSettings, recipe: Any) -> list[str]:
        """Refuse batches from which nothing can be held out, or without unlabeled patches."""
        return recipe_problems(settings, recipe)

    @classmethod
    def warn_recipe(cls, settings: PseudoSupervisorSettings, recipe: Any) -> list[str]:
        """Warn of settings that can do nothing."""
        return recipe_warnings(settings, recipe)
