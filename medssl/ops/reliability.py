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
BUDGET = 16_384
"""Unsure voxels of a patch that :func:`shrunk_ce` looks at."""


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


def shrunk_ce(
    logits: Prediction, probs: Tensor, threshold: float, budget: int = BUDGET
) -> tuple[Tensor, Tensor]:
    """Learn of unsure voxels what is sure: the likeliest class, and none of the unlikely ones.

    A voxel's likeliest class is held against the classes from rank r on, and those between, with
    which it is confused, are left out: r = 2, 3, ... is the first at which the likeliest is as sure
    as the threshold among those that stay. Where there is none, the voxel does not count; nor does
    any of two classes.

    Args:
        logits: the student's, ``(B, K, *spatial)``; of several scales, for a mean over them.
        probs: q, ``(B, K, *spatial)``, without gradient; zeros where nothing was guessed.
        threshold: below it a voxel is unsure.
        budget: so many unsure voxels of a structure, the least sure of each patch, are looked at.

    Returns:
        The mean over them of ``q_max CE``, cross-entropy among the classes that stay; and the share
        of voxels of a structure that are sure.

    Source: Yang et al., ShrinkMatch (ICCV 2023), published code.
    """
    top, label = probs.max(dim=1)
    structure, unsure = label > 0, top < threshold
    share = weighted_mean((~unsure).float(), structure)

    def term(scale: Tensor, q: Tensor) -> Tensor:
        flat, out = (x.float().flatten(2).transpose(1, 2) for x in (q, scale))
        sure, best = flat.max(dim=2)
        doubt = torch.where((best > 0) & (sure < threshold), 1 - sure, 0.0)
        chosen, place = doubt.topk(min(budget, doubt.shape[1]), dim=1)
        rows = place.unsqueeze(2).expand(-1, -1, flat.shape[2])
        ranked, order = flat.gather(1, rows).sort(dim=2, descending=True)
        among = out.gather(1, rows).gather(2, order)
        kept, reached = _shrunk(ranked, threshold)
        ce = among.masked_fill(~kept, -math.inf).logsumexp(dim=2) - among[..., 0]
        weight = ranked[..., 0] * (reached & (chosen > 0))
        return (weight * ce).sum() / (chosen > 0).sum().clamp(min=1)

    return over_scales(term, logits, probs), share


def _shrunk(ranked: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Return which ranks ``(..., K)`` of falling probabilities stay, and where it is enough."""
    classes = ranked.shape[-1]
    rank = torch.arange(classes, device=ranked.device)
    tails = ranked.flip(-1).cumsum(-1).flip(-1)
    first = ranked[..., :1]
    enough = (first >= threshold * (first + tails)) & (rank >= 2)
    reached = enough.any(-1) & (first[..., 0] > 0)
    start = torch.where(reached, enough.int().argmax(-1), classes)
    return (rank == 0) | (rank >= start.unsqueeze(-1)), reached


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
