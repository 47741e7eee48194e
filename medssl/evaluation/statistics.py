"""Intervals over patients: one code for evaluation, comparison, sweep and calibration.

What is stated about patients to come rests on patients, so each counts once: its cases (two cardiac
phases, two eyes, follow-ups) are averaged first. The interval of a mean is Student's t over the
patients' values, n - 1 degrees of freedom. Where runs were repeated with other seeds their spread
is added (`paired_interval`); over repeated divisions into folds, whose training sets overlap, the
t is corrected (`resampled_interval`). A statistic that is no mean is turned into one value per
patient first (`jackknife_values`).

How often such intervals hold the truth is measured by ``benchmarks/coverage.py`` and shown in
``docs/verdict.md``: about as often as they say, except where rare failures decide the mean and no
interval of few patients can know of them. So failures are counted beside every mean
(:mod:`medssl.evaluation.failures`).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit  # scipy.stats takes as long to import as all else here

LEVEL = 0.95
"""Nominal coverage of every interval."""
_NO_BOUNDS = (-math.inf, math.inf)


@dataclass(frozen=True)
class Interval:
    """A mean over patients and the interval around it.

    Attributes:
        mean: NaN where no patient has a value.
        low, high: ends, cut off where a score ends (Dice at 0 and 1); NaN where there is none.
        n: patients with a value.
        level: nominal coverage.
        none: why there is no interval, in a few words; empty where there is one.
    """

    mean: float
    low: float
    high: float
    n: int
    level: float = LEVEL
    none: str = ""


def mean_interval(
    values: Sequence[float] | np.ndarray,
    *,
    center: float | None = None,
    freedom: int | None = None,
    bounds: tuple[float, float] = _NO_BOUNDS,
    level: float = LEVEL,
) -> Interval:
    """Return Student's t interval of the mean of the patients' values.

    One patient gives no interval, and neither do values that are all the same (all missed, all
    perfect): a width of 0 would claim a certainty that nobody has.

    Args:
        values: ``(patients,)``; NaN has no value and is left out.
        center: what the interval lies around, by default the mean.
        freedom: degrees of freedom, by default one less than the values.
        bounds: smallest and largest possible value; the interval is cut off there.
        level: nominal coverage.

    Raises:
        ValueError: the level is not between 0 and 1.
    """
    _check_level(level)
    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    n = known.size
    if not n:
        return Interval(math.nan, math.nan, math.nan, 0, level, "no patient has a value")
    middle = float(known.mean()) if center is None else float(center)
    spread = float(known.std(ddof=1)) if n > 1 else 0.0
    return _around(
        middle, [(spread**2 / n, n - 1 if freedom is None else freedom)], n, bounds, level
    )


def interval_of_moments(
    mean: float,
    variance: float,
    n: int,
    *,
    bounds: tuple[float, float] = _NO_BOUNDS,
    level: float = LEVEL,
) -> Interval:
    """Return what `mean_interval` does, where no more is known than the moments.

    Args:
        mean: of the patients' values.
        variance: of the same, over n - 1.
        n: patients.
        bounds, level: as there.
    """
    _check_level(level)
    return _around(mean, [(variance / n, n - 1)], n, bounds, level)


def paired_interval(
    ours: np.ndarray,
    baseline: np.ndarray | None = None,
    *,
    bounds: tuple[float, float] = _NO_BOUNDS,
    level: float = LEVEL,
) -> Interval:
    """Return the interval of the mean over patients of ``ours - baseline``.

    With several training runs each method is averaged over its runs patient by patient, and what
    runs of one method differ by is added to what patients differ by: the variance between the means
    of its runs, pooled over both methods, over the number of runs of each (degrees of freedom after
    Satterthwaite). So the interval covers the luck of training, as far as so few runs show it; a
    method with one run is taken to vary like the other, and one run each shows none of it. What a
    run and a patient share is counted in both parts, which makes the interval a little wider than
    it must be.

    Args:
        ours: ``(runs, patients)`` values of one metric and structure; a patient without a value
            (NaN) in some run is left out.
        baseline: the same patients in the same order; the number of runs may differ. None: nothing
            is subtracted, and the interval is that of the mean of ours.
        bounds: smallest and largest possible difference; the interval is cut off there.
        level: nominal coverage.

    Raises:
        ValueError: shapes do not fit, or the level is not between 0 and 1.

    Source: Satterthwaite, An approximate distribution of estimates of variance components,
    Biometrics Bulletin 2 (1946).
    """
    _check_level(level)
    methods = [np.asarray(x, np.float64) for x in (ours, baseline) if x is not None]
    if any(x.ndim != 2 or x.shape[1] != methods[0].shape[1] for x in methods):
        shapes = " and ".join(str(x.shape) for x in methods)
        raise ValueError(f"{shapes} do not fit: expected (runs, patients) with the same patients")
    keep = np.isfinite(np.concatenate(methods)).all(0)
    methods = [x[:, keep] for x in methods]
    gains = methods[0].mean(0) - (methods[1].mean(0) if baseline is not None else 0.0)
    n = gains.size
    if not n:
        return mean_interval([], level=level)
    parts = [(float(gains.var(ddof=1)) / n if n > 1 else 0.0, n - 1)]
    freedom = sum(len(x) - 1 for x in methods)
    if freedom:
        means = [x.mean(1) for x in methods]
        pooled = sum(float(((m - m.mean()) ** 2).sum()) for m in means) / freedom
        parts.append((pooled * sum(1 / len(m) for m in means), freedom))
    return _around(float(gains.mean()), parts, n, bounds, level)


def resampled_interval(
    differences: Sequence[float] | np.ndarray,
    *,
    test_share: float,
    patients: int,
    bounds: tuple[float, float] = _NO_BOUNDS,
    level: float = LEVEL,
) -> Interval:
    """Return the corrected resampled t interval of repeated divisions into training and test.

    The training sets of the divisions overlap, so their differences are not independent: the
    variance is multiplied by ``1/J + n_test/n_train`` in place of ``1/J``. For R times repeated
    K-fold cross-validation J is R K and the ratio ``1 / (K - 1)``.

    Args:
        differences: ``(J,)`` mean difference on the test part of each division.
        test_share: ``n_test / n_train``.
        patients: how many patients all divisions are made of; stated with the interval.
        bounds: smallest and largest possible difference; the interval is cut off there.
        level: nominal coverage.

    Raises:
        ValueError: there is no difference, or a number is out of range.

    Source: Nadeau and Bengio, Inference for the generalization error, Machine Learning 52 (2003),
    section 4.
    """
    _check_level(level)
    values = np.asarray(differences, np.float64)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"expected a list of finite differences, got {values.tolist()}")
    if not (test_share > 0 and math.isfinite(test_share)):
        raise ValueError(f"test_share must be positive, got {test_share}")
    count = values.size
    variance = float(values.var(ddof=1)) * (1 / count + test_share) if count > 1 else 0.0
    if count < 2:
        nan = math.nan
        return Interval(float(values[0]), nan, nan, patients, level, "one division only")
    return _around(float(values.mean()), [(variance, count - 1)], patients, bounds, level)


def patient_means(values: np.ndarray, groups: Sequence[Hashable]) -> np.ndarray:
    """Average the cases of each patient, ignoring NaN.

    Args:
        values: ``(..., cases, columns)``.
        groups: the patient of each case.

    Returns:
        ``(..., patients, columns)``, patients in the order of their first cases; NaN where a
        patient has no value.
    """
    index = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    member = np.zeros((len(index), len(groups)))
    member[[index[name] for name in groups], np.arange(len(groups))] = 1.0
    present = np.isfinite(values)
    total, count = member @ np.where(present, values, 0.0), member @ present
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def nanmean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean ignoring NaN; NaN, without a warning, where nothing is left."""
    present = np.isfinite(values)
    total, count = np.where(present, values, 0.0).sum(axis), present.sum(axis)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def jackknife_values(whole: float, without: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return a value per patient whose t interval is that of a statistic which is no mean.

    ``n * whole - (n - 1) * without``, the pseudo-values; of a mean they are the patients' values.
    Give ``center=whole`` to `mean_interval`: their own mean is the statistic less its bias.

    Args:
        whole: the statistic of all patients.
        without: ``(patients,)`` the statistic when each patient is left out.

    Source: Tukey, Bias and confidence in not quite large samples (abstract), Annals of Mathematical
    Statistics 29 (1958).
    """
    rest = np.asarray(without, np.float64)
    return rest.size * whole - (rest.size - 1) * rest


def _around(
    middle: float,
    parts: Sequence[tuple[float, int]],
    n: int,
    bounds: tuple[float, float],
    level: float,
) -> Interval:
    """Return the interval around a mean whose variance is the sum of independent parts.

    Args:
        parts: each a variance and its degrees of freedom.
    """
    total = sum(variance for variance, _ in parts)
    if parts[0][1] < 1:
        return Interval(middle, math.nan, math.nan, n, level, "a value of one patient only")
    if total <= (1e-9 * max(1.0, abs(middle))) ** 2:  # equal but for rounding
        why = f"the {n} patients have the same value"
        return Interval(middle, math.nan, math.nan, n, level, why)
    freedom = total**2 / sum(v**2 / f for v, f in parts if v > 0)
    half = float(stdtrit(freedom, (1 + level) / 2)) * math.sqrt(total)
    low, high = bounds
    return Interval(middle, max(middle - half, low), min(middle + half, high), n, level)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
