"""Does a score tell good cases from bad ones, and how far are predicted volumes from true ones?"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from medssl.evaluation.statistics import LEVEL, jackknife_values, mean_interval

MIN_PATIENTS = 8
"""With fewer, a rank correlation gets no interval: almost any value could come of chance."""
_MOST = 0.99
"""Correlations are cut off here before Fisher's z, which has no value for 1."""


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rank correlation with its interval over patients.

    Attributes:
        spearman: NaN where one of the two does not vary, or fewer than two cases have both.
        low, high: NaN where there is no interval.
        level: nominal coverage.
        n: cases with both values.
        n_patients: their patients.
        none: why there is no interval; empty where there is one.
    """

    spearman: float
    low: float
    high: float
    level: float
    n: int
    n_patients: int
    none: str = ""


def rank_correlation(
    a: Sequence[float],
    b: Sequence[float],
    patients: Sequence[Hashable],
    *,
    level: float = LEVEL,
) -> RankCorrelation:
    """Correlate the ranks of two values per case; cases without one of them are left out.

    The interval is Student's t of Fisher's z over the patients, each standing for what changes
    when it is left out (:func:`medssl.evaluation.statistics.jackknife_values`). In simulations of 8
    to 40 patients it held the truth in 96 to 98 of 100 studies.

    Args:
        a, b: ``(cases,)``; NaN where there is no value.
        patients: of each case; left out with all their cases.
        level: nominal coverage.
    """
    both = np.array((a, b), dtype=np.float64)
    keep = np.asarray(np.isfinite(both).all(axis=0))
    both = both[:, keep]
    names = [p for p, kept in zip(patients, keep, strict=True) if kept]
    owner = {name: i for i, name in enumerate(dict.fromkeys(names))}
    index = np.array([owner[name] for name in names], dtype=int)
    whole = _spearman(both)
    count = len(owner)

    def result(low: float, high: float, none: str) -> RankCorrelation:
        return RankCorrelation(whole, low, high, level, int(keep.sum()), count, none)

    if count < MIN_PATIENTS:
        return result(math.nan, math.nan, f"fewer than {MIN_PATIENTS} patients")
    without = [_fisher(_spearman(both[:, index != i])) for i in range(count)]
    own = jackknife_values(_fisher(whole), without)
    if not np.isfinite(own).all():
        return result(math.nan, math.nan, "one of the two does not vary")
    found = mean_interval(own, center=_fisher(whole), level=level)
    return result(float(np.tanh(found.low)), float(np.tanh(found.high)), found.none)


def _spearman(both: np.ndarray) -> float:
    """Correlate the ranks of ``(2, cases)``; NaN where one does not vary."""
    if both.shape[1] < 2:
        return math.nan
    ranks = rankdata(both, axis=1)
    a, b = ranks - ranks.mean(axis=1, keepdims=True)
    size = math.sqrt(float((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / size if size > 0 else math.nan


def _fisher(correlation: float) -> float:
    return float(np.arctanh(np.clip(correlation, -_MOST, _MOST)))


@dataclass(frozen=True)
class VolumeFactors:
    """By what factor the true volume of a structure differs from the predicted one.

    Attributes:
        low, high: the interval's ends over the predicted volume.
        level: at least this share of new true volumes lies inside, if new cases are like these.
        n: cases it was learned from.
    """

    low: float
    high: float
    level: float
    n: int


def volume_factors(
    predicted: Sequence[float], reference: Sequence[float], *, level: float = 0.9
) -> VolumeFactors | None:
    """Learn an interval for true volumes from cases where both are known.

    The ratios of true to predicted volume are sorted and as many dropped at each end as the level
    allows: of n cases, the k-th smallest and k-th largest hold at least ``1 - 2k / (n + 1)`` of new
    ratios, whatever their distribution (split conformal prediction; one case per patient). With
    fewer than 19 cases not even their extremes hold 90 %; what they hold is returned as the level.

    Args:
        predicted: volumes; cases where nothing was predicted have no ratio and are left out.
        reference: true volumes of the same cases.
        level: wanted.

    Returns:
        None with fewer than two cases.

    Source: Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World (2005).
    """
    pairs = [(p, r) for p, r in zip(predicted, reference, strict=True) if p > 0]
    n = len(pairs)
    if n < 2:
        return None
    ratios = sorted(r / p for p, r in pairs)
    # The small number keeps (n + 1) * 0.05 = 1 from becoming 0.9999.
    drop = max(1, math.floor((n + 1) * (1 - level) / 2 + 1e-9))
    return VolumeFactors(ratios[drop - 1], ratios[n - drop], 1 - 2 * drop / (n + 1), n)
