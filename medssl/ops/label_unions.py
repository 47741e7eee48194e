"""Unions of classes, which may overlap: their probabilities, and their cross-entropy.

Of a softmax over classes that exclude each other the probability of a union is the sum of theirs,
so a union is never less probable than one inside it. Networks of a sigmoid per region, as nnU-Net
trains them (Isensee et al., nnU-Net for Brain Tumor Segmentation, 2020), promise no such thing.
"""

from __future__ import annotations

import torch
from torch import Tensor

Unions = tuple[tuple[int, ...], ...]
"""Class indices of each union, none of them background (0)."""


def in_unions(values: Tensor, unions: Unions) -> Tensor:
    """Sum values of classes over unions.

    Args:
        values: ``(B, C, *spatial)`` probabilities, or labels one-hot.
        unions: of how many classes you like.

    Returns:
        ``(B, 1 + U, *spatial)``: background as it is, and the unions.
    """
    parts = [values[:, 0], *(values[:, list(union)].sum(dim=1) for union in unions)]
    return torch.stack(parts, dim=1)


def union_cross_entropy(log_probs: Tensor, hot: Tensor, unions: Unions) -> Tensor:
    """Compute the binary cross-entropy of each voxel, a mean over unions.

    With q the probability of a union and y what of the label is in it, ``-(y log q + (1 - y)
    log(1 - q))``, where 1 - q is the sum of all other classes: nothing is subtracted, so it stays
    exact where q is near 1. Of a single structure and background it is the cross-entropy.

    Args:
        log_probs: ``(B, C, *spatial)`` float32, logarithms of a softmax.
        hot: ``(B, C, *spatial)`` labels, one-hot or soft.
        unions: at least one.

    Returns:
        ``(B, *spatial)``.
    """
    total = torch.zeros_like(log_probs[:, 0])
    for union in unions:
        others = [index for index in range(log_probs.shape[1]) if index not in union]
        inside = hot[:, list(union)].sum(dim=1)
        log_in = log_probs[:, list(union)].logsumexp(dim=1)
        log_out = log_probs[:, others].logsumexp(dim=1)
        total = total - inside * log_in - (1 - inside) * log_out
    return total / len(unions)
