"""From a teacher's probabilities to labels and confidences."""

from __future__ import annotations

import torch
from torch import Tensor


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
        # Ten times faster on a CPU than argmax over a strided axis; both give the first of ties.
        return probs.max(dim=1).indices
    value, index = probs[:, 1:].max(dim=1)
    return torch.where(value >= threshold, index + 1, 0)


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
