"""What the pseudo supervisor's policy makes of its rewards: scale, baseline, entropy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from literal_steps import make, tiny
from torch import Tensor

from medssl.methods.base import Progress
from medssl.ops import policy as ops


def policy(**settings: Any) -> Any:
    return make("pseudo_supervisor", 3, tiny(3), buffer=4, buffer_patches=2, **settings)


def test_rewards_are_scaled_by_their_running_size() -> None:
    """0.1 is 1; then -0.3 over the root of (0.0099 * 0.01 + 0.01 * 0.09) / (0.0099 + 0.01)."""
    for preset, expected in (("corrected", [1.0, -1.33893]), ("official", [0.105171, 0.0])):
        method = policy(preset=preset)
        described = torch.rand(2, method.policy.features)
        actions = torch.zeros(2, 3, dtype=torch.long)
        for slot, improvement in enumerate((0.1, -0.3)):
            method.remember(slot, described, actions, torch.tensor(improvement))
        assert method.rewards[:2].tolist() == pytest.approx(expected, abs=1e-4)


def test_advantages_are_over_a_moving_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Means of 2.5, then 6.5: the baseline is 2.5, then (0.09 * 2.5 + 0.1 * 6.5) / 0.19."""
    expected: list[Any] = []
    advantages = ops.advantages

    def noted(returns: Tensor, baseline: Tensor | None = None) -> Tensor:
        expected.append(None if baseline is None else float(baseline))
        return advantages(returns, baseline)

    monkeypatch.setattr(ops, "advantages", noted)
    for preset in ("corrected", "official"):
        method = policy(preset=preset)
        for first in (1.0, 5.0):
            method.rewards.copy_(torch.arange(4) + first)
            method.shares.fill_(0.5)
            method.update_policy()
    assert expected[:2] == pytest.approx([2.5, (0.09 * 2.5 + 0.1 * 6.5) / 0.19], rel=1e-5)
    assert expected[2:] == [None, None]


def test_the_entropy_bonus_spreads_the_actions() -> None:
    method = policy(entropy=1000.0, floor=0.0, policy_lr=0.01)
    with torch.no_grad():
        method.policy.layers[-1].bias.copy_(torch.linspace(-1, 1, 15))
    method.rewards.copy_(torch.tensor([0.1, -0.3, 0.2, 0.5]))
    method.descriptions.copy_(torch.rand(4, 2, method.policy.features))
    method.shares.fill_(0.5)
    spread = []
    for _ in range(4):
        logits = method.action_logits(method.descriptions[0]).detach()
        spread.append(float(ops.entropy(logits).mean()))
        method.update_policy()
    assert spread[0] < spread[1] < spread[2] < spread[3]


def loaded(**settings: Any) -> Any:
    """A policy whose buffer holds rewards that are far apart."""
    method = policy(**settings)
    with torch.no_grad():
        method.policy.layers[-1].weight.normal_(std=3.0, generator=torch.Generator().manual_seed(0))
    method.rewards.copy_(torch.tensor([0.1, -0.3, 0.2, 0.5]))
    method.descriptions.copy_(5 * torch.rand(4, 2, method.policy.features))
    method.shares.fill_(0.5)
    return method


def test_the_policys_gradient_has_a_largest_norm() -> None:
    """With a first beta of 0, Adam's first moment is the gradient."""
    torch.manual_seed(0)
    free, bound = loaded(policy_betas=(0.0, 0.5), policy_clip="off"), loaded(policy_clip=0.01)
    bound.load_state_dict(free.state_dict())
    for method in (free, bound):
        method.update_policy()
    assert free.moments[0].norm() > 0.01
    share = 1 - 0.9  # of the default betas
    assert bound.moments[0].norm().item() == pytest.approx(0.01 * share, rel=1e-4)
    direction = bound.moments[0] / bound.moments[0].norm()
    torch.testing.assert_close(direction, free.moments[0] / free.moments[0].norm())


def test_the_policy_learns_once_its_buffer_is_full() -> None:
    method = loaded()
    steps = []
    for iteration in range(9):
        method.after_step(Progress("train", iteration, 100))
        steps.append(int(method.steps))
    assert steps == [0, 0, 0, 1, 1, 1, 1, 2, 2]
