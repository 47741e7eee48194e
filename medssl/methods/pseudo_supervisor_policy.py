"""The policy of the pseudo supervisor: its actions, its network, what it recalls, how it learns.

The method is in :mod:`medssl.methods.pseudo_supervisor`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from medssl.methods.base import NetworkBuilder, Progress
from medssl.methods.pseudo_supervisor_settings import PseudoSupervisorSettings
from medssl.methods.student_teacher import StudentTeacher
from medssl.networks.threshold_policy import ThresholdPolicy
from medssl.ops import policy as ops

THRESHOLDS = (0.5, 0.7, 0.9, 0.95, float("inf"))
"""What the actions mean; the last drops the class."""
DROP = len(THRESHOLDS) - 1
FIXED = {"always_0.5": 0, "always_0.95": 3}
SCALE_DECAY = 0.99
BASELINE_DECAY = 0.9


class PolicyTeacher(StudentTeacher):
    """A student and its averaged teacher, beside a policy that learns from rewards.

    What it recalls and all state of its optimizer are buffers.
    """

    settings: PseudoSupervisorSettings
    rewards: Tensor
    descriptions: Tensor
    actions: Tensor
    shares: Tensor
    moments: Tensor
    steps: Tensor
    reward_scale: Tensor
    baseline: Tensor
    thresholds: Tensor

    def make_networks(self, build: NetworkBuilder) -> None:
        """Make student, teacher, policy, and the policy's memory."""
        super().make_networks(build)
        self.policy = ThresholdPolicy(self.num_classes, actions=len(THRESHOLDS))
        size, patches = self.settings.buffer, self.settings.buffer_patches
        weights = sum(p.numel() for p in self.policy.parameters())
        actions = torch.zeros(size, patches, self.num_classes, dtype=torch.long)
        self.register_buffer("rewards", torch.zeros(size))
        self.register_buffer("descriptions", torch.zeros(size, patches, self.policy.features))
        self.register_buffer("actions", actions)
        self.register_buffer("shares", torch.zeros(size, patches))
        self.register_buffer("moments", torch.zeros(2, weights))
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("reward_scale", torch.zeros(2))
        self.register_buffer("baseline", torch.zeros(2))
        self.register_buffer("thresholds", torch.tensor(THRESHOLDS), persistent=False)

    def slot(self, progress: Progress) -> int | None:
        """Return where in the buffer an iteration's reward belongs, None if none is measured.

        It follows from the iteration alone, so that no counter has to be read from the device.
        """
        turn, rest = divmod(progress.iteration, self.settings.measure_every)
        if self.settings.selection != "learned" or rest or progress.micro:
            return None
        return turn % self.settings.buffer

    def action_logits(self, description: Tensor) -> Tensor:
        """Return what actions are drawn from, ``(B, F)`` to logits ``(B, C, 5)``."""
        return ops.with_floor(self.policy(description), self.settings.floor)

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
        actions = ops.draw_actions(logits, progress.rng("thresholds"))
        if terms is not None:
            most = ops.entropy(torch.zeros_like(logits))
            terms["policy/entropy"] = (ops.entropy(logits) / most).mean()
            terms["policy/dropped"] = (actions == DROP).float().mean()
        return actions

    @torch.no_grad()
    def remember(
        self, slot: int, description: Tensor, actions: Tensor, improvement: Tensor
    ) -> dict[str, Tensor]:
        """Turn an improvement into a reward and store it with what led to it; return terms."""
        reward = improvement
        if self.settings.scale_reward:
            reward, scale = ops.scaled(improvement, self.reward_scale, decay=SCALE_DECAY)
            self.reward_scale.copy_(scale)
        if self.settings.reward == "rectified":
            reward = ops.rectified_reward(reward, alpha=self.settings.alpha)
        count = min(len(actions), self.settings.buffer_patches)
        self.rewards[slot] = reward
        self.descriptions[slot].zero_()[:count] = description[:count]
        self.actions[slot].zero_()[:count] = actions[:count]
        self.shares[slot].zero_()[:count] = 1 / count
        return {"policy/improvement": improvement, "policy/reward": reward}

    def after_step(self, progress: Progress) -> None:
        """Update the teacher, and the policy when its buffer is full."""
        super().after_step(progress)
        if self.slot(replace(progress, micro=0)) == self.settings.buffer - 1:
            self.update_policy()

    def update_policy(self) -> None:
        """Take one policy-gradient step on the buffer; none if all rewards in it are equal."""
        settings = self.settings
        returns = ops.discounted_returns(
            self.rewards, gamma=settings.gamma, restart=settings.restart
        )
        mean = torch.stack([returns.mean(), torch.ones_like(returns[0])])
        self.baseline.lerp_(mean, 1 - BASELINE_DECAY)
        idle = ops.is_flat(self.rewards)  # stays on the device: the host does not wait for it
        expected = self.baseline[0] / self.baseline[1] if settings.advantage == "baseline" else None
        advantage = ops.advantages(returns, expected)
        parameters = list(self.policy.parameters())
        logits = self.action_logits(self.descriptions.flatten(0, 1))
        log_prob = ops.joint_log_prob(logits, self.actions.flatten(0, 1))
        # A reward belongs to the whole batch; each of its patches has an equal share.
        per_reward = (log_prob.view_as(self.shares) * self.shares).sum(1)
        spread = (ops.entropy(logits).view_as(self.shares) * self.shares).sum(1).mean()
        loss = ops.reinforce_loss(per_reward, advantage) - settings.entropy * spread
        gradient = parameters_to_vector(torch.autograd.grad(loss, parameters))
        largest = float("inf") if settings.policy_clip == "off" else settings.policy_clip
        with torch.no_grad():
            weights, moments, steps = ops.adam_step(
                parameters_to_vector(parameters),
                ops.clipped(gradient, largest),
                self.moments,
                self.steps,
                lr=settings.policy_lr,
                betas=settings.policy_betas,
            )
            for old, new in zip(
                parameters, weights.split([p.numel() for p in parameters]), strict=True
            ):
                old.copy_(torch.where(idle, old, new.view_as(old)))
            self.moments.copy_(torch.where(idle, self.moments, moments))
            self.steps.copy_(torch.where(idle, self.steps, steps))
