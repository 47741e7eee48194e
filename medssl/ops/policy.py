"""Policy gradients for choosing pseudo-labels: rewards, returns, advantages, log-probabilities.

Sources: Williams, REINFORCE (1992); Luo et al., Harvard-GDP (ICCV 2023) for the rectified reward
and the returns that restart.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from medssl.ops.losses import IGNORE_INDEX, one_hot
from medssl.ops.moving import to_device

TINY = 1e-12


# ------------------------------------------------------------------------------ rewards, returns


def rectified_reward(improvement: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Return ``max(exp(alpha * improvement) - 1, 0)``; a loss that rose earns nothing.

    Args:
        improvement: loss before minus loss after, any shape.
        alpha: steepness.

    Source: Luo et al. 2023.
    """
    return torch.expm1(alpha * improvement).clamp_min(0)


def scaled(value: Tensor, moments: Tensor, *, decay: float) -> tuple[Tensor, Tensor]:
    """Divide a scalar by the running root mean square of its predecessors and itself.

    The spread is taken about zero, so that the sign stays and the first value gives 1 or -1.

    Args:
        value: scalar.
        moments: ``(2,)``: decayed sums of squares and of weights; zeros at first.
        decay: of the sums.

    Returns:
        The scaled value and the new moments.
    """
    moments = decay * moments + (1 - decay) * torch.stack([value.square(), torch.ones_like(value)])
    return value / ((moments[0] / moments[1]).sqrt() + TINY), moments


def discounted_returns(rewards: Tensor, *, gamma: float, restart: bool = False) -> Tensor:
    """Return ``R_t = r_t + gamma R_(t+1)``, from the last to the first.

    Args:
        rewards: ``(T,)`` in order of time.
        gamma: in [0, 1]; 0 gives each action its own reward alone.
        restart: ``R_t = 0`` where ``r_t`` is 0: what came before such a step is not credited with
            what came after.

    Source: Luo et al. 2023, published code, for ``restart``.
    """
    returns = torch.zeros_like(rewards)
    following = torch.zeros_like(rewards[:1])[0]
    for t in range(len(rewards) - 1, -1, -1):
        following = rewards[t] + gamma * following
        if restart:
            following = torch.where(rewards[t] == 0, torch.zeros_like(following), following)
        returns[t] = following
    return returns


def is_flat(values: Tensor) -> Tensor:
    """Return whether all values are equal up to rounding: there is nothing to learn from them."""
    return values.max() - values.min() <= 1e-6 * values.abs().max() + TINY


def advantages(returns: Tensor, baseline: Tensor | float | None = None) -> Tensor:
    """Return ``(R - baseline) / (s.d. of R + 1e-8)``; zeros where all returns are equal.

    Args:
        returns: ``(T,)``, at least two.
        baseline: what was to be expected; None is their own mean.
    """
    center = returns.mean() if baseline is None else baseline
    value = (returns - center) / (returns.std() + 1e-8)
    return torch.where(is_flat(returns), torch.zeros_like(value), value)


# ------------------------------------------------------------------------------ actions


def with_floor(logits: Tensor, floor: float) -> Tensor:
    """Return the log-probabilities of a policy that never rules an action out.

    It is the mixture ``(1 - floor) softmax(logits) + floor / A``: no action is rarer than
    ``floor / A``, which bounds the entropy from below however long the policy is trained. The
    result is normalized, so that it may stand wherever logits are asked for.

    Args:
        logits: ``(..., A)``.
        floor: share of the uniform distribution, in [0, 1]; 0 returns the logits as they are.
    """
    if floor == 0:
        return logits
    probs = torch.softmax(logits, dim=-1)
    return ((1 - floor) * probs + floor / logits.shape[-1]).log()


def sample_actions(log_probs: Tensor, uniform: Tensor) -> Tensor:
    """Draw actions by inversion of the cumulative distribution.

    Args:
        log_probs: ``(..., A)``.
        uniform: ``(...)`` in [0, 1), one independent number per action.

    Returns:
        int64 ``(...)`` in ``[0, A)``.
    """
    cumulative = log_probs.exp().cumsum(-1)
    drawn = (uniform.unsqueeze(-1) >= cumulative).sum(-1)
    return drawn.clamp_max(log_probs.shape[-1] - 1)


def draw_actions(logits: Tensor, rng: np.random.RandomState) -> Tensor:
    """Draw an action per patch and class.

    Args:
        logits: ``(B, C, A)``.
        rng: gives one uniform number per patch and class.

    Returns:
        int64 ``(B, C)`` in ``[0, A)``.
    """
    drawn = rng.random_sample(tuple(logits.shape[:2]))
    uniform = to_device(torch.from_numpy(drawn).to(logits.dtype), logits.device)
    return sample_actions(torch.log_softmax(logits, dim=-1), uniform)


def joint_log_prob(logits: Tensor, actions: Tensor) -> Tensor:
    """Return the log-probability of each sample's actions together.

    Args:
        logits: ``(B, C, A)``: C independent choices among A.
        actions: ``(B, C)`` in ``[0, A)``.

    Returns:
        ``(B,)``: one number per sample, paired with that sample's actions.
    """
    log_probs = torch.log_softmax(logits, dim=-1)
    return log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1).sum(-1)


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy of each sample's C independent choices, ``(B, C, A)`` to ``(B,)``."""
    log_probs = torch.log_softmax(logits, dim=-1)
    return -(log_probs.exp() * log_probs).sum((-2, -1))


def reinforce_loss(log_prob: Tensor, advantage: Tensor) -> Tensor:
    """Return ``-mean(advantage * log_prob)``; both ``(B,)``, and no gradient to the advantage.

    Raises:
        ValueError: the shapes differ; broadcasting would credit samples with others' actions.
    """
    if log_prob.shape != advantage.shape:
        raise ValueError(f"one advantage per action: {log_prob.shape} and {advantage.shape}")
    return -(log_prob * advantage.detach()).mean()


def keep_confident(probs: Tensor, thresholds: Tensor) -> Tensor:
    """Label voxels whose class is predicted with at least that class's threshold.

    Args:
        probs: ``(B, C, *spatial)`` probabilities.
        thresholds: ``(B, C)``; above 1 drops the class.

    Returns:
        int64 ``(B, *spatial)``, 255 where dropped.
    """
    confidence, label = probs.max(dim=1)
    needed = thresholds.gather(1, label.flatten(1)).view_as(confidence)
    return torch.where(confidence >= needed, label, IGNORE_INDEX)


def leave_out(target: Tensor, others: Tensor, dropped: Tensor) -> Tensor:
    """Leave dropped classes out of the labels on both sides: where either model sees them.

    A dropped class has no label of its own any more. Where the student predicts it and the teacher
    another class, a label would still speak against it, and it would slowly disappear.

    Args:
        target: ``(B, *spatial)`` classes, 255 where unlabeled.
        others: ``(B, *spatial)`` classes that the student predicts.
        dropped: boolean ``(B, C)``.

    Returns:
        ``target`` with 255 where ``others`` is a dropped class.
    """
    out = dropped.gather(1, others.flatten(1)).view_as(others)
    return target.masked_fill(out, IGNORE_INDEX)


# ------------------------------------------------------------------------------ state


def describe_labels(teacher: Tensor, student_label: Tensor, *, sure: float = 0.9) -> Tensor:
    """Describe pseudo-labels of patches by a few numbers in [0, 1].

    Per class: mean probability, square root of the predicted volume share, mean confidence where
    predicted, share of it above ``sure``, and Dice with the student's labels (0 where neither has
    the class). For the patch: mean entropy over its maximum, and mean confidence.

    Args:
        teacher: ``(B, C, *spatial)`` probabilities.
        student_label: ``(B, *spatial)`` classes.
        sure: confidence that counts as sure; stands for a quantile without sorting.

    Returns:
        ``(B, 5 C + 2)`` float32.
    """
    probs = teacher.float().flatten(2)
    classes, voxels = probs.shape[1:]
    confidence, label = probs.max(dim=1)
    mine, other = one_hot(label, classes), one_hot(student_label.flatten(1), classes)
    count, count_other = mine.sum(-1), other.sum(-1)
    some = count.clamp_min(1)
    per_class = [
        probs.mean(-1),
        (count / voxels).sqrt(),
        (mine * confidence.unsqueeze(1)).sum(-1) / some,
        (mine * (confidence >= sure).unsqueeze(1)).sum(-1) / some,
        2 * (mine * other).sum(-1) / (count + count_other).clamp_min(1),
    ]
    disorder = -(probs * probs.clamp_min(TINY).log()).sum(1).mean(-1) / math.log(classes)
    return torch.cat([*per_class, disorder[:, None], confidence.mean(-1)[:, None]], dim=1)


# ------------------------------------------------------------------------------ optimizer


def adam_step(
    weights: Tensor,
    gradient: Tensor,
    moments: Tensor,
    steps: Tensor,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float = 1e-8,
) -> tuple[Tensor, Tensor, Tensor]:
    """Take one step of Adam on a vector, with all state given and returned.

    Args:
        weights: ``(P,)``.
        gradient: ``(P,)``.
        moments: ``(2, P)``, running first and second moments; zeros at first.
        steps: scalar, steps taken so far.
        lr: learning rate.
        betas: decays of the moments.
        eps: added to the root of the second moment.

    Returns:
        New weights, moments and number of steps.

    Source: Kingma and Ba, Adam (2015), algorithm 1.
    """
    # The decays stay numbers of the host: a tensor of them would have to be copied to a card.
    new = (gradient, gradient.square())
    running = [b * old + (1 - b) * g for b, old, g in zip(betas, moments, new, strict=True)]
    moments, steps = torch.stack(running), steps + 1
    first, second = (m / (1 - b**steps) for b, m in zip(betas, running, strict=True))
    return weights - lr * first / (second.sqrt() + eps), moments, steps


def clipped(gradient: Tensor, largest: float) -> Tensor:
    """Scale a vector down to a norm of at most ``largest``; one that is not finite becomes zero."""
    norm = gradient.norm()
    shrunk = gradient * (largest / (norm + TINY)).clamp(max=1.0)
    return torch.where(torch.isfinite(norm), shrunk, torch.zeros_like(gradient))
