"""Losses on regions where predictions disagree: RAIL's DFS and CAL, for any number of classes.

Voxel maps are ``(B, *spatial)``, probabilities ``(B, C, *spatial)`` float32. With two classes the
formulas are those of the published code.

Source: Zhao et al., "RAIL: Region-Aware Instructive Learning" (2025, arXiv 2505.03538); formulas as
its code computes them, ``official`` naming what the code does where that was hardly meant.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medssl.ops.variants import ErrorRegion, UniformTerm


def disagreement(hard: Tensor, best: Tensor, is_best: Tensor) -> Tensor:
    """Return where a student contradicts the best one; everywhere for the best one itself.

    Args:
        hard: the student's classes ``(B, *spatial)``.
        best: the best student's classes.
        is_best: boolean scalar, whether both are the same student.
    """
    return (hard != best) | is_best


def error_region(hard: Tensor, label: Tensor, how: ErrorRegion = "true") -> Tensor:
    """Return where a student contradicts the ground truth.

    ``official`` takes the label's argmax along the first spatial axis for the ground truth and
    compares that plane with every slice of the predicted foreground: as the plane is nearly always
    empty, the result is nearly always the predicted foreground.

    Args:
        hard: the student's classes ``(B, *spatial)``.
        label: class indices ``(B, *spatial)``, without ignored voxels if ``official``.
        how: ``true`` or ``official``.
    """
    if how == "true":
        return hard != label
    plane = torch.zeros_like(label[:, :1], dtype=torch.bool)
    if label.shape[1] > 1:
        # The first index of the maximum is 1.
        first, second = label[:, :1], label[:, 1:2]
        plane = (second == label.amax(dim=1, keepdim=True)) & (first < second)
    return (hard > 0) ^ plane


def squared_error(probs: Tensor, hot: Tensor) -> Tensor:
    """Return the mean over classes of ``(P_c - onehot_c)^2`` as a voxel map."""
    return (probs - hot).square().mean(dim=1)


def voxel_kl(log_probs: Tensor, hot: Tensor) -> Tensor:
    """Return ``KL(onehot || P)`` of every voxel, which is its cross-entropy."""
    return -(log_probs * hot).sum(dim=1)


def axis_kl(probs: Tensor, hot: Tensor) -> Tensor:
    """Return the published KL map: softmax along the first spatial axis, not over classes.

    ``t (log t - log q)`` with ``q = softmax(P_c)``, ``t = softmax(onehot_c)`` along that axis,
    averaged over foreground classes. Single values may be negative, and its gradient is negligible.

    Args:
        probs: ``(B, C, *spatial)``, zero at ignored voxels.
        hot: one-hot labels, zero at ignored voxels.
    """
    log_q = torch.log_softmax(probs[:, 1:], dim=2)
    log_t = torch.log_softmax(hot[:, 1:], dim=2)
    return (log_t.exp() * (log_t - log_q)).mean(dim=1)


def uniform_penalty(log_probs: Tensor, how: UniformTerm = "proper") -> Tensor:
    """Return how far every voxel is from the uniform distribution, as a voxel map.

    ``proper`` is ``KL(uniform || P) = -mean_c log P_c - log C``, zero at uniform. ``official``
    applies a second softmax to the probabilities, ``logsumexp_c P_c - mean_c P_c``: a weak push,
    0.693 to 0.813 with two classes.

    Args:
        log_probs: ``(B, C, *spatial)`` log probabilities.
        how: which.
    """
    if how == "proper":
        return -log_probs.mean(dim=1) - math.log(log_probs.shape[1])
    probs = log_probs.exp()
    return torch.logsumexp(probs, dim=1) - probs.mean(dim=1)
