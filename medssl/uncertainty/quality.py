"""Does a score tell good cases from bad ones, and how far are predicted volumes from true ones?"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from medssl.evaluation.statistics import group_draws, group_matrix, percentile_interval


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rank correlation with its bootstrap interval over patients.

    Attributes:
        spearman: NaN where one of the two does not vary, or fewer than two cases have both.
        low, high: NaN with fewer than two patients.
        level: coverage of the interval.
        n: cases with both values.
        n_patients: their patients.
    """

    spearman: float
    low: float
    high: float
    level: float
    n: int
    n_patients: int


def rank_correlation(
    a: Sequence[float],
    b: Sequence[float],
    patients: Sequence[Hashable],
    *,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> RankCorrelation:
    """Correlate the ranks of two values per case; cases without one of them are left out.

    Args:
        a, b: ``(cases,)``; NaN where there is no value.
        patients: of each case; patients are resampled, with all their cases.
        n: number of resamples.
        seed: of the resampling.
        level: coverage of the interval.
    """
    both = np.array((a, b), dtype=np.float64)
    keep = np.isfinite(both).all(axis=0)
    both = both[:, keep]
    if keep.sum() < 2:
        count = int(keep.sum())
        return RankCorrelation(math.nan, math.nan, math.nan, level, n=count, n_patients=count)
    membership = group_matrix([p for p, kept in zip(patients, keep, strict=True) if kept])
    draws = []
    if len(membership) > 1:
        rng = np.random.default_rng(seed)
        for weights in group_draws(len(membership), n, rng):
            draws.append(_spearman(both, weights @ membership))
    low, high = percentile_interval(
        np.concatenate(draws) if draws else np.empty(0), level, n_groups=len(membership)
    )
    return RankCorrelation(
        spearman=float(_spearman(both, np.ones((1, both.shape[1])))[0]),
        low=low,
        high=high,
        level=level,
        n=int(keep.sum()),
        n_patients=len(membership),
    )


def _spearman(both: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Correlate ranks in resamples: ``(resamples,)``, NaN where a value does not vary.

    Args:
        both: ``(2, cases)`` values.
        times: ``(resamples, cases)`` how often each case is in a resample.
    """
    total = times.sum(axis=1, keepdims=True)
    centered = []
    for values in both:
        less = (values[None] < values[:, None]) + 0.5 * (values[None] == values[:, None])
        ranks = times @ less.T  # the mean rank of ties, less a constant
        centered.append(ranks - (times * ranks).sum(axis=1, keepdims=True) / total)
    a, b = centered
    size = np.sqrt((times * a**2).sum(axis=1) * (times * b**2).sum(axis=1))
    product = (times * a * b).sum(axis=1)
    return np.divide(product, size, out=np.full(size.shape, np.nan), where=size > 1e-9)


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
