"""Bootstrap intervals over patients, and the paired comparison of two methods.

Cases of one patient (two cardiac phases, two eyes, follow-ups) are alike. Resampling them one by
one pretends to more evidence than there is, so patients are drawn, with all their cases at once.
All intervals are percentile bootstraps (Efron and Tibshirani, *An Introduction to the Bootstrap*,
1993, chapter 13), from a generator with a given seed.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_BLOCK_ELEMENTS = 1 << 22  # resamples are drawn in blocks of about 32 MB


@dataclass(frozen=True)
class PairedResult:
    """The mean paired difference ``a - b`` with its bootstrap interval.

    Attributes:
        mean_difference: mean over cases of a minus b (each first averaged over its seeds).
        low: lower end of the interval; NaN with fewer than two patients.
        high: upper end of the interval; NaN with fewer than two patients.
        level: coverage of the interval, for instance 0.95.
        p_better: fraction of the resamples in which a is greater than b (ties count half). For a
            metric where less is better, read ``1 - p_better``.
        n_cases: pairs compared.
        n_groups: patients.
        n_dropped: pairs left out because one of the two has no value.
        n_seeds: training runs behind a and behind b.
    """

    mean_difference: float
    low: float
    high: float
    level: float
    p_better: float
    n_cases: int
    n_groups: int
    n_dropped: int
    n_seeds: tuple[int, int]


def paired_bootstrap(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    groups: Sequence[Hashable] | None = None,
    *,
    n: int = 10000,
    seed: int = 0,
    level: float = 0.95,
    absent_value: float | None = None,
    paired_seeds: bool = False,
) -> PairedResult:
    """Compare two methods on the same cases by the mean of the per-case differences ``a - b``.

    With several training seeds, values are ``(seeds, cases)``: each method is averaged over its
    seeds case by case, and every resample draws seeds as well as patients (two levels), so the
    interval covers the lottery of training and not only the choice of test patients.

    Args:
        a: ``(cases,)`` or ``(seeds, cases)`` values of one metric and structure.
        b: the same cases in the same order; the number of seeds may differ.
        groups: the patient of each case; by default each case is its own.
        n: number of resamples.
        seed: seed of the resampling.
        level: coverage of the interval.
        absent_value: what NaN counts as where the structure has a value in some of the compared
            runs but not in all: a run that rightly leaves it out has no value, one that invents it
            is penalized. Give 1 for Dice, IoU and NSD, 0 for distances; with None the pair is
            dropped and counted in ``n_dropped``. Pairs without any value are always dropped.
        paired_seeds: draw the same seeds for a and b. Only where run i of both shares what the
            seed decides (for instance the choice of labeled cases).

    Raises:
        ValueError: shapes do not fit, no pair is left, or a setting is out of range.
    """
    first, second = np.atleast_2d(np.asarray(a, float)), np.atleast_2d(np.asarray(b, float))
    names = list(range(first.shape[1])) if groups is None else list(groups)
    _check(first, second, names, n, level, paired_seeds)
    both = np.concatenate((first, second))
    if absent_value is not None:
        both = np.where(np.isnan(both) & ~np.isnan(both).all(0), absent_value, both)
    keep = ~np.isnan(both).any(0)
    if not keep.any():
        raise ValueError("no case has a value in both: there is nothing to compare")
    both, names = both[:, keep], [name for name, kept in zip(names, keep, strict=True) if kept]
    split = len(first)
    membership = group_matrix(names)
    sums, sizes = membership @ both.T, membership.sum(1)  # (patients, seeds), (patients,)
    rng = np.random.default_rng(seed)
    draws = []
    for weights in group_draws(len(sizes), n, rng):
        per_seed = (weights @ sums) / (weights @ sizes)[:, None]
        seeds_a = _seed_draws(split, len(weights), rng)
        paired = seeds_a if paired_seeds else _seed_draws(len(both) - split, len(weights), rng)
        mean_a = (per_seed[:, :split] * seeds_a).sum(1)
        draws.append(mean_a - (per_seed[:, split:] * paired).sum(1))
    differences = np.concatenate(draws)
    low, high = percentile_interval(differences, level, n_groups=len(sizes))
    return PairedResult(
        mean_difference=float((both[:split].mean(0) - both[split:].mean(0)).mean()),
        low=low,
        high=high,
        level=level,
        p_better=float((differences > 0).mean() + 0.5 * (differences == 0).mean()),
        n_cases=int(keep.sum()),
        n_groups=len(sizes),
        n_dropped=int((~keep).sum()),
        n_seeds=(split, len(both) - split),
    )


def bootstrap_means(
    values: np.ndarray, groups: Sequence[Hashable], *, n: int = 10000, seed: int = 0
) -> np.ndarray:
    """Resample patients and return each column's mean over cases, ignoring NaN.

    Args:
        values: ``(cases, columns)``.
        groups: the patient of each case.
        n: number of resamples.
        seed: seed of the resampling.

    Returns:
        ``(n, columns)`` means; NaN where a resample holds no value of a column. The columns share
        the draws, so a mean over columns is a resample of that mean.
    """
    membership = group_matrix(groups)
    present = np.isfinite(values)
    sums = membership @ np.where(present, values, 0.0)
    counts = membership @ present
    rng = np.random.default_rng(seed)
    out = []
    for weights in group_draws(len(membership), n, rng):
        total, count = weights @ sums, weights @ counts
        out.append(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0))
    return np.concatenate(out)


def percentile_interval(
    draws: np.ndarray, level: float = 0.95, *, n_groups: int = 2
) -> tuple[float, float]:
    """Return the central interval of bootstrap draws, NaN if fewer than two patients were drawn."""
    draws = draws[np.isfinite(draws)]
    if n_groups < 2 or not draws.size:
        return float("nan"), float("nan")
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def group_matrix(groups: Sequence[Hashable]) -> np.ndarray:
    """Return ``(patients, cases)`` 0/1 float64: which case belongs to which patient."""
    index = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    matrix = np.zeros((len(index), len(groups)))
    matrix[[index[name] for name in groups], np.arange(len(groups))] = 1.0
    return matrix


def group_draws(n_groups: int, n: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Draw n resamples of the patients: how often each was drawn, ``(block, patients)`` float64."""
    block = max(1, _BLOCK_ELEMENTS // n_groups)
    for start in range(0, n, block):
        size = min(block, n - start)
        yield rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size).astype(np.float64)


def _seed_draws(n_seeds: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw ``(n, seeds)`` weights that sum to 1 in each row."""
    return rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=n) / n_seeds


def _check(
    a: np.ndarray, b: np.ndarray, groups: list, n: int, level: float, paired_seeds: bool
) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or len(groups) != a.shape[1]:
        raise ValueError(
            f"a {a.shape}, b {b.shape} and {len(groups)} groups do not fit: expected (seeds, cases)"
            " with the same cases"
        )
    if paired_seeds and len(a) != len(b):
        raise ValueError(f"paired_seeds needs as many runs of a ({len(a)}) as of b ({len(b)})")
    if n < 1 or not 0 < level < 1:
        raise ValueError(f"n must be positive and level between 0 and 1, got {n} and {level}")
