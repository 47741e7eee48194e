"""How far a pseudo-label can be relied on, beside the confidence of whoever made it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from medssl.ops.deep_supervision import Prediction, over_scales
from medssl.ops.losses import IGNORE_INDEX, weighted_mean

LEAST = 1e-4
"""Probabilities are kept so far from 0 and 1 where a logarithm would be endless."""
FURTHEST = math.exp(-9)
"""Least value that :func:`elr` takes the logarithm of."""


def boundary(label: Tensor, radius: int | Sequence[int] = 1) -> Tensor:
    """Return where another label is near: a box of ``radius`` voxels holds more than one.

    Voxels outside of the patch count as their nearest ones inside, so its rim is no boundary.

    Args:
        label: ``(B, *spatial)`` class indices.
        radius: voxels on each side, one number or one per axis.

    Returns:
        boolean ``(B, *spatial)``.
    """
    dims = label.ndim - 1
    radii = [radius] * dims if isinstance(radius, int) else list(radius)
    pads = [r for each in reversed(radii) for r in (each, each)]
    padded = F.pad(label.unsqueeze(1).float(), pads, mode="replicate")
    pool = (F.max_pool2d, F.max_pool3d)[dims - 2]
    size = [2 * r + 1 for r in radii]
    return (pool(padded, size, stride=1) != -pool(-padded, size, stride=1)).squeeze(1)


def boundary_factor(label: Tensor, extra: float, radius: int | Sequence[int] = 1) -> Tensor:
    """Return ``1 + extra`` near another label, else 1; see :func:`boundary`."""
    return 1.0 + extra * boundary(label, radius).float()


def soft_background(label: Tensor, probs: Tensor) -> Tensor:
    """Return the probability of background where that is the label, else 1.

    Args:
        label: ``(B, *spatial)`` class indices.
        probs: ``(B, K, *spatial)`` of whoever labeled.

    Source: Xu et al., Soft Teacher (ICCV 2021, arXiv 2106.09018), which weighs background boxes so.
    """
    return torch.where(label == 0, probs[:, 0].float(), 1.0)


def agreement(first: Tensor, second: Tensor) -> Tensor:
    """Return the label of two ``(B, *spatial)`` where they agree, else 255.

    Source: Deng et al., Dual Mean-Teacher (NeurIPS 2023), read off its figure: no code is public.
    """
    return torch.where(first == second, first, IGNORE_INDEX)


def overruled(
    label: Tensor, confidence: Tensor, other: Tensor, surety: Tensor, conflict: Tensor
) -> tuple[Tensor, Tensor]:
    """Take another's label where the teachers conflict, it differs, and the other is surer.

    Args:
        label: ``(B, *spatial)`` class indices of the teachers together.
        confidence: ``(B, *spatial)`` of them.
        other: ``(B, *spatial)`` class indices of the arbiter.
        surety: ``(B, *spatial)`` confidence of it; a tie keeps the teachers'.
        conflict: boolean ``(B, *spatial)``, where the teachers' own labels differ.

    Returns:
        Label and confidence.

    Source: Zhao et al., AD-MT (ECCV 2024, arXiv 2311.17325), published code.
    """
    theirs = conflict & (label != other) & (surety > confidence)
    return torch.where(theirs, other, label), torch.where(theirs, surety, confidence)


def elr(logits: Prediction, probs: Tensor, weight: Tensor | None = None) -> Tensor:
    """Compute the mean of ``log(1 - sum_k q_k p_k)``, which pulls p to q the more, the closer.

    Args:
        logits: the student's, ``(B, K, *spatial)``; of several scales, for a mean over them.
        probs: q, ``(B, K, *spatial)``, without gradient.
        weight: ``(B, *spatial)``; None is everywhere. Zero everywhere gives zero.

    Returns:
        A scalar between -9 and 0.

    Source: Liu et al., "Early-Learning Regularization" (NeurIPS 2020, arXiv 2007.00151), eq. 6;
    an averaged teacher's q takes the place of a table over epochs, as in ELR+.
    """

    def term(scale: Tensor, q: Tensor, w: Tensor | None) -> Tensor:
        p = torch.softmax(scale.float(), dim=1).clamp(LEAST, 1 - LEAST)
        same = (p * q.float().clamp(LEAST, 1 - LEAST)).sum(dim=1)
        return weighted_mean((1 - same).clamp_min(FURTHEST).log(), w)

    return over_scales(term, logits, probs, weight)


def soft_ce(logits: Prediction, probs: Tensor, weight: Tensor) -> Tensor:
    """Compute ``sum(w sum_k -q_k log p_k) / (sum(w) + 1e-16)``.

    Args:
        logits: the student's, ``(B, K, *spatial)``; of several scales, for a mean over them.
        probs: q, ``(B, K, *spatial)``, without gradient.
        weight: w, ``(B, *spatial)``. Zero everywhere gives zero.
    """

    def term(scale: Tensor, q: Tensor, w: Tensor) -> Tensor:
        return weighted_mean(-(q * torch.log_softmax(scale.float(), dim=1)).sum(dim=1), w)

    return over_scales(term, logits, probs, weight)
