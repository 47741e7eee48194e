"""Weights that rise over training."""

from __future__ import annotations

import math


def sigmoid_ramp(iteration: int, length: float, *, every: int = 1) -> float:
    """Return ``exp(-5 (1 - t)^2)`` with ``t`` the finished share of the ramp, from 0.0067 to 1.

    Args:
        iteration: 0-based.
        length: iterations until the ramp reaches 1; 0 means no ramp.
        every: let the value change only every so many iterations, as the UA-MT family of codes
            does (``iteration // 150`` out of 40 steps is ``length=6000, every=150``).

    Source: Laine and Aila, Temporal Ensembling (2017), section 2.
    """
    return 1.0 if length <= 0 else math.exp(-5.0 * (1.0 - _share(iteration, length, every)) ** 2)


def share_ramp(iteration: int, total: int, share: float, *, steps: int = 0) -> float:
    """Return :func:`sigmoid_ramp` over a share of training.

    Args:
        iteration: 0-based.
        total: iterations of the stage.
        share: of them, until the ramp reaches 1; 0 means no ramp.
        steps: plateaus of the ramp; 0: smooth.
    """
    length = share * total
    every = max(int(length // steps), 1) if steps else 1
    return sigmoid_ramp(iteration, length, every=every)


def _share(iteration: int, length: float, every: int) -> float:
    """Return how much of the ramp is over, in [0, 1]."""
    steps = length / every
    return min(max(float(iteration // every), 0.0), steps) / steps
