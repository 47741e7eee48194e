"""From a teacher's probabilities to labels and confidences."""

from __future__ import annotations

import torch
from torch import Tensor

from medssl.ops.losses import IGNORE_INDEX


def hard_labels(probs: Tensor, *, threshold: float | None = None) -> Tensor:
    """Choose a class per voxel.

    Args:
        probs: ``(B, C, *spatial)`` probabilities.
        threshold: None takes the most probable class. A number takes the most probable foreground
            class where its probability is **at least** so much, else background; with two classes
            that is ``p >= threshold``, a tie being foreground.

    Returns:
        int64 ``(B, *spatial)``.
    """
    if threshold is None:
        return _most_probable(probs)
    foreground = probs[:, 1:]
    index = _most_probable(foreground)
    return torch.where(foreground.amax(dim=1) >= threshold, index + 1, 0)


def _most_probable(probs: Tensor) -> Tensor:
    """Return the index of the largest value along dimension 1, the first of equals, int64.

    On a CPU, class by class: for three classes of 295 000 voxels 0.4 ms, where ``max`` over a
    strided axis takes 3.4 and ``argmax`` 34.
    """
    classes = probs.shape[1]
    if probs.device.type != "cpu" or not 1 < classes < 256:
        return probs.max(dim=1).indices
    best = probs[:, 0]
    index = torch.zeros(best.shape, dtype=torch.uint8)
    for c in range(1, classes):
        better = (probs[:, c] > best).to(torch.uint8)
        index = torch.maximum(index, better * c)
        best = torch.maximum(best, probs[:, c])
    return index.long()


def kept_shares(scores: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Return which share of all voxels, and of the predicted foreground, has a pseudo-label.

    Args:
        scores: logits or probabilities ``(B, C, *spatial)``.
        target: ``(B, *spatial)``, 255 where the pseudo-label does not count.
    """
    kept = target != IGNORE_INDEX
    foreground = scores[:, 0] < scores[:, 1:].amax(dim=1)
    sure = (kept & foreground).sum() / foreground.sum().clamp(min=1)
    return {"pseudo/kept": kept.float().mean(), "pseudo/kept_foreground": sure}


def confidence(probs: Tensor) -> Tensor:
    """Return the probability of the most probable class, ``(B, *spatial)``."""
    return probs.amax(dim=1)


def sharpen(probs: Tensor, temperature: float) -> Tensor:
    """Return ``p^(1/T) / sum_c p^(1/T)``: T < 1 sharpens, T = 1 changes nothing.

    Args:
        probs: ``(B, C, *spatial)`` probabilities.
        temperature: T > 0.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, not {temperature:g}")
    # In the log domain, p^(1/T) cannot underflow to 0/0.
    return torch.softmax(probs.clamp_min(torch.finfo(probs.dtype).tiny).log() / temperature, dim=1)
