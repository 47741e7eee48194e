"""How many patients failed, and how many more may: what stands beside every mean.

No interval of the mean of few patients knows of failures that were not among them. Their share is
bounded exactly instead, whatever the scores are like, as long as the threshold was fixed before the
scores were seen: it is a key of the recipe, ``evaluation.failure_dice``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import betaincinv

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Failures:
    """Patients below a threshold.

    Attributes:
        threshold: Dice below which a patient failed.
        below: how many of the patients did.
        patients: patients with a value.
        at_most: with ``confidence``, at most this share of further patients fails; 1 without any
            patient.
        confidence: of that bound.
    """

    threshold: float
    below: int
    patients: int
    at_most: float
    confidence: float = CONFIDENCE

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


def count_failures(
    scores: Sequence[float] | np.ndarray, threshold: float, *, confidence: float = CONFIDENCE
) -> Failures:
    """Count the patients below a threshold and bound the share of further ones.

    Args:
        scores: ``(patients,)`` Dice, each the mean over a patient's cases; NaN has no value.
        threshold: fixed before the scores were seen.
        confidence: of the bound.
    """
    known = np.asarray(scores, np.float64)
    known = known[np.isfinite(known)]
    below = int((known < threshold).sum())
    bound = upper_bound(below, known.size, confidence=confidence)
    return Failures(threshold, below, int(known.size), bound, confidence)


def upper_bound(count: int, n: int, *, confidence: float = CONFIDENCE) -> float:
    """Return the exact upper bound of a share of which ``count`` of n were seen.

    The largest share with which so few would still be seen in at least ``1 - confidence`` of all
    draws of n; one-sided.

    Raises:
        ValueError: the numbers are out of range.

    Source: Clopper and Pearson, The use of confidence or fiducial limits illustrated in the case of
    the binomial, Biometrika 26 (1934).
    """
    if not 0 <= count <= n or not 0 < confidence < 1:
        raise ValueError(f"no share: {count} of {n}, confidence {confidence}")
    return 1.0 if count == n else float(betaincinv(count + 1, n - count, confidence))


def percent_up(share: float) -> str:
    """Return a share in whole percent, rounded up: a bound that is rounded down bounds nothing."""
    return f"{math.ceil(100 * share - 1e-9):d}%"


def failure_cell(failures: Mapping[str, Any]) -> str:
    """Return what `Failures.as_dict` holds for a cell of a table: ``1/12`` and the bound below."""
    if not failures["patients"]:
        return "-"
    return f"{failures['below']}/{failures['patients']}\n≤{percent_up(failures['at_most'])}"


def failure_sentence(failures: Mapping[str, Any], what: str = "Dice") -> str:
    """Say in one sentence what `Failures.as_dict` holds."""
    n, below = failures["patients"], failures["below"]
    return (
        f"{below} of {n} {'patient' if n == 1 else 'patients'} below {what} "
        f"{failures['threshold']:g}; with {failures['confidence']:.0%} confidence at most "
        f"{percent_up(failures['at_most'])} of further patients drawn like these"
    )
