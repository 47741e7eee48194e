"""Fuse the predictions of several networks for the same voxels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medssl.ops.pseudo_labels import hard_labels


def fuse_others(
    probs: Sequence[Tensor],
    uncertainty: Sequence[Tensor],
    exclude: int | None = None,
    *,
    eps: float = 1e-6,
) -> Tensor:
    """Fuse all predictions but one, weighted by confidence: ``sum_j c_j p_j / sum_j c_j``.

    ``c = 1 / (U + eps)``. Equal uncertainties give the plain mean; a single other prediction is
    returned as it is, whatever its uncertainty. With a weight per class the classes of the result
    do not sum to one.

    Args:
        probs: N tensors ``(B, C, *spatial)``, all in the same frame.
        uncertainty: N tensors that broadcast to them, not negative.
        exclude: index of the prediction to leave out; None fuses all.
        eps: below it, differences in uncertainty no longer count.

    Source: Xia et al., UMCT (WACV 2020), uncertainty-weighted label fusion.
    """
    others = [j for j in range(len(probs)) if j != exclude]
    if not others:
        raise ValueError("nothing to fuse: no other prediction")
    if len(others) == 1:
        return probs[others[0]]
    # In half precision 1 / eps is infinite.
    weights = [(_wide(uncertainty[j]).clamp_min(0) + eps).reciprocal() for j in others]
    fused = torch.zeros_like(_wide(probs[others[0]]))
    for j, weight in zip(others, weights, strict=True):
        fused.addcmul_(_wide(probs[j]), weight)
    return fused.div_(torch.stack(weights).sum(dim=0))


def _wide(x: Tensor) -> Tensor:
    """Return a tensor in single precision, or as it is in double."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def entropy_weights(probs: Sequence[Tensor]) -> list[Tensor]:
    """Return ``exp(-H_i) / sum_j exp(-H_j)`` per voxel: the surer a prediction, the more it counts.

    Args:
        probs: N tensors ``(B, C, *spatial)`` of probabilities.

    Returns:
        N weights ``(B, *spatial)`` that sum to 1; H is in bits.

    Source: Zhao et al., AD-MT (ECCV 2024, arXiv 2311.17325), published code.
    """
    wide = [_wide(p) for p in probs]  # in half precision 1e-10 is 0
    entropy = [-(p * (p + 1e-10).log2()).sum(dim=1) for p in wide]
    return list(torch.softmax(-torch.stack(entropy), dim=0).unbind(0))


def fuse_by_entropy(probs: Sequence[Tensor]) -> Tensor:
    """Return the mean of predictions weighted by :func:`entropy_weights`, ``(B, C, *spatial)``."""
    weights = entropy_weights(probs)
    return torch.stack([w.unsqueeze(1) * p for w, p in zip(weights, probs, strict=True)]).sum(0)


def surer_of(first: Tensor, second: Tensor) -> Tensor:
    """Return of two predictions, voxel by voxel, the surer one; their mean where both say the same.

    Args:
        first: ``(B, C, *spatial)`` probabilities.
        second: of the same shape.

    Source: Cho, Joshi, Dimitriadis, "Local or Global" (FedLabel, ICCV 2023), which asks the local
    or the global model, whichever knows better, and both where they agree.
    """
    same = (hard_labels(first) == hard_labels(second)).unsqueeze(1)
    surer = torch.where(first.amax(1, True) >= second.amax(1, True), first, second)
    return torch.where(same, (first + second) / 2, surer)


def vote_scores(probs: Sequence[Tensor]) -> Tensor:
    """Return ``(votes + mean probability) / (N + 1)`` per class, which sum to one.

    The mean decides between classes of equal votes and can never overturn a vote.

    Args:
        probs: N tensors ``(B, C, *spatial)`` of probabilities.
    """
    classes = torch.arange(probs[0].shape[1], device=probs[0].device)
    classes = classes.view(1, -1, *[1] * (probs[0].ndim - 2))
    scores = torch.stack(list(probs)).mean(dim=0)
    for each in probs:
        scores = scores + (hard_labels(each).unsqueeze(1) == classes)
    return scores / (len(probs) + 1)
