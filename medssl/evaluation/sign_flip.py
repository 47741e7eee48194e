"""A test of paired differences that assumes nothing about their size."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

MIN_PATIENTS = 6
"""With fewer patients no assignment of signs is rarer than 1 in 20: 2 * 0.5^5 = 0.06."""
_EXACT_SIGN_FLIPS = 20
_SIGN_FLIPS = 100_000


def sign_flip_p(differences: Sequence[float] | np.ndarray) -> float:
    """Return the two-sided p of "the signs of the differences are chance".

    The share of all assignments of signs whose sum is at least as far from 0 as the one seen: exact
    up to 20 patients, else from 100,000 assignments drawn with a fixed seed, the one seen added.
    It assumes nothing about the size of the differences, only that they are as likely to be
    positive as negative.

    Args:
        differences: ``(patients,)``.

    Returns:
        NaN with fewer than six differences, which cannot give a p below 0.05.

    Source: Fisher, The Design of Experiments (1935), section 21.
    """
    known = np.asarray(differences, np.float64)
    known = known[np.isfinite(known)]
    if known.size < MIN_PATIENTS:
        return math.nan
    # Sums that are equal but for rounding count as equal.
    seen = abs(known.sum()) - 1e-9 * np.abs(known).sum()
    if known.size <= _EXACT_SIGN_FLIPS:
        sums = known[:1]  # the first sign is fixed: every sum has a mirror image
        for value in known[1:]:
            sums = np.concatenate((sums + value, sums - value))
        return float((np.abs(sums) >= seen).mean())
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(_SIGN_FLIPS // 10_000):
        signs = rng.integers(0, 2, (10_000, known.size), dtype=np.int8) * 2 - 1
        hits += int((np.abs(signs @ known) >= seen).sum())
    return (hits + 1) / (_SIGN_FLIPS + 1)
