"""How far confidence can be believed: temperature, expected calibration error, reliability.

Pure functions on samples of voxels. ``medssl calibrate`` writes what they give to
``RUN/calibration.json``, a strict JSON file of plain numbers (null: undefined or unbounded)::

    format         1
    predictor      what was calibrated: checkpoint, tta, largest_component, members, weights (one
                   SHA-256 of the checkpoint file per run of the ensemble)
    cases_from     "validation", "test", "named cases", or which patients of a cross-validation
    n_cases, n_patients
    voxels         number of voxels looked at
    region         in words: which voxels count
    temperature    T; probabilities become p^(1/T), normalized
    ece            definition (in words), bins, before, after, level, and before_low, before_high,
                   after_low, after_high, difference (after - before), difference_low,
                   difference_high: Student's t over patients; null where there is no interval
    nll            before, after: negative log-likelihood per voxel, in nats
    structures     name -> label, ece_before, ece_after (of that class's own probability)
    reliability    before, after: a list of bins, each low, high (edges), count (voxels),
                   confidence, accuracy (means in the bin; null where it is empty)
    quality        definition (in words), spearman, low, high, level, no_interval (why low and high
                   are null, or empty), n, n_patients; structures: name -> spearman, low, high, n;
                   cases: a list of case, patient, quality, dice
    volume         name -> low_factor, high_factor (times the predicted volume: the interval),
                   level (share of true volumes inside), n
    reference      what images and predictions of the calibration cases look like; see
                   :mod:`medssl.inference.unusual`
    folds          of a cross-validation whose folds were calibrated one by one, else not there:
                   members (folds), temperatures (of each, dividing its logits; T above is 1 then),
                   looks (see :class:`medssl.inference.decision.Deciding`), no_dice (why dice is
                   null), dice: the rule of :mod:`medssl.inference.expected_dice` (slopes, centers,
                   scales, mean), definition (in words), patients, error (mean absolute, each
                   patient by the rule of the others), error_low, error_high, level, no_interval,
                   error_of_mean (of saying the others' mean), cases: a list of case, patient,
                   predicted, dice and the numbers of the fold that left it out
    held_out       null, or the same figures on other cases that nothing was fitted on: cases_from,
                   n_cases, n_patients, voxels, ece, nll, structures, reliability, quality, and
                   volume: name -> coverage (share of true volumes inside the interval), n

``after`` is cross-validated: the temperature that a case is measured with was fitted on the cases
of other patients. In ``held_out`` it is the temperature of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from medssl.evaluation.statistics import LEVEL, jackknife_values, mean_interval

BINS = 15
RANGE = (0.1, 10.0)
"""Temperatures that are considered."""


@dataclass(frozen=True)
class Reliability:
    """A reliability curve: ``bins`` equal parts of [0, 1].

    Attributes:
        voxels: number of voxels per bin.
        confidence: mean confidence in each bin, NaN where it is empty.
        accuracy: share of the voxels in each bin whose class is right, NaN where it is empty.
    """

    voxels: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def ece(self) -> float:
        """Expected calibration error: mean gap of accuracy and confidence over voxels."""
        sums = (
            self.voxels,
            np.nan_to_num(self.confidence) * self.voxels,
            np.nan_to_num(self.accuracy) * self.voxels,
        )
        return float(ece_of_sums(np.stack(sums)))


def tempered_log(log_probs: np.ndarray, temperature: float) -> np.ndarray:
    """Return the logarithm of ``p^(1/T)``, normalized over the last axis: ``(N, K)``."""
    return log_softmax(np.asarray(log_probs, dtype=np.float64) / temperature, axis=-1)


def negative_log_likelihood(
    log_probs: np.ndarray, labels: np.ndarray, temperature: float = 1.0
) -> float:
    """Return the mean of ``-log p`` of the true classes, in nats.

    Args:
        log_probs: ``(N, K)`` logarithms of probabilities.
        labels: ``(N,)`` true class indices.
        temperature: see :func:`tempered_log`.
    """
    chosen = np.take_along_axis(
        tempered_log(log_probs, temperature), np.asarray(labels)[:, None].astype(np.intp), axis=1
    )
    return float(-chosen.mean())


def fit_temperature(log_probs: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature that makes the true classes most likely.

    The negative log-likelihood is convex in 1/T, so it has one minimum; it is looked for from
    0.1 to 10.

    Args:
        log_probs: ``(N, K)`` logarithms of probabilities.
        labels: ``(N,)`` true class indices.

    Raises:
        ValueError: there is no voxel.

    Source: Guo et al., On Calibration of Modern Neural Networks (ICML 2017). There it divides the
    logits; here probabilities are means over windows, so their logarithms take the logits' place.
    """
    if not len(labels):
        raise ValueError("no voxel to fit a temperature on")
    found = minimize_scalar(
        lambda log_t: negative_log_likelihood(log_probs, labels, float(np.exp(log_t))),
        bounds=tuple(np.log(RANGE)),
        method="bounded",
        options={"xatol": 1e-4},
    )
    return float(np.exp(found.x))


def cross_fitted(
    log_probs: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    patients: Sequence[Hashable],
    *,
    folds: int = 10,
) -> list[float]:
    """Return for each case the temperature fitted on the cases of patients in other folds.

    Args:
        log_probs: ``(N_i, K)`` per case.
        labels: ``(N_i,)`` per case.
        patients: of each case; the cases of one patient lie in one fold.
        folds: at most so many; with fewer patients, one patient per fold.

    Raises:
        ValueError: fewer than two patients.
    """
    order = {name: i for i, name in enumerate(dict.fromkeys(patients))}
    count = min(folds, len(order))
    if count < 2:
        raise ValueError("cross-validation needs the cases of at least two patients")
    fold = np.array([order[name] % count for name in patients])
    fitted = []
    for index in range(count):
        kept = np.flatnonzero(fold != index).tolist()
        fitted.append(
            fit_temperature(
                np.concatenate([log_probs[i] for i in kept]),
                np.concatenate([labels[i] for i in kept]),
            )
        )
    return [fitted[index] for index in fold]


def bin_sums(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Sort voxels into equal parts of [0, 1] by confidence.

    Args:
        confidence: ``(N,)`` in [0, 1]; 1 belongs to the last bin, an inner edge to the upper one.
        correct: ``(N,)`` whether the class is right.

    Returns:
        ``(3, bins)``: voxels, sum of their confidence, number of those that are right.
    """
    index = np.minimum((np.asarray(confidence, np.float64) * bins).astype(np.intp), bins - 1)
    return np.stack(
        [
            np.bincount(index, weights=weights, minlength=bins)
            for weights in (None, confidence, np.asarray(correct, dtype=np.float64))
        ]
    ).astype(np.float64)


def reliability(sums: np.ndarray) -> Reliability:
    """Return the reliability curve of the sums ``(3, bins)`` of :func:`bin_sums`."""
    voxels, confidence, correct = sums
    empty = np.full(voxels.shape, np.nan)
    return Reliability(
        voxels=voxels,
        confidence=np.divide(confidence, voxels, out=empty.copy(), where=voxels > 0),
        accuracy=np.divide(correct, voxels, out=empty.copy(), where=voxels > 0),
    )


def ece_of_sums(sums: np.ndarray) -> np.ndarray | float:
    """Return the expected calibration error of sums ``(..., 3, bins)``.

    ``sum_b n_b / n * |accuracy_b - confidence_b|``, which is the sum over bins of
    ``|right - summed confidence|``, over all voxels.

    Source: Naeini et al., Obtaining Well Calibrated Probabilities Using Bayesian Binning (AAAI
    2015).
    """
    voxels, confidence, correct = np.moveaxis(np.asarray(sums, np.float64), -2, 0)
    total = voxels.sum(-1)
    gap = np.abs(correct - confidence).sum(-1)
    out = np.divide(gap, total, out=np.full(np.shape(gap), np.nan), where=total > 0)
    return float(out) if out.ndim == 0 else out


def top_label(log_probs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability of the most probable class, ``(N,)``, and whether it is right."""
    best = log_probs.argmax(axis=1)
    return np.exp(log_probs.max(axis=1)), best == labels


def one_class(
    index: int,
) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return the function that gives the probability of a class, and whether it is that class."""

    def judge(log_probs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.exp(log_probs[:, index]), labels == index

    return judge


@dataclass(frozen=True)
class EceChange:
    """Expected calibration error before and after, with intervals over patients (NaN: none)."""

    before: float
    after: float
    before_interval: tuple[float, float]
    after_interval: tuple[float, float]
    difference_interval: tuple[float, float]


def ece_change(
    before: np.ndarray, after: np.ndarray, patients: Sequence[Hashable], *, level: float = LEVEL
) -> EceChange:
    """Compare two calibrations of the same cases.

    The error is no mean over patients (a gap of one may cancel that of another), so each patient
    stands for what changes when it is left out
    (:func:`medssl.evaluation.statistics.jackknife_values`).

    Args:
        before: ``(cases, 3, bins)`` of :func:`bin_sums`.
        after: the same cases, calibrated.
        patients: of each case; left out with all their cases.
        level: nominal coverage.
    """
    owner = {name: i for i, name in enumerate(dict.fromkeys(patients))}
    both = np.stack((before, after), axis=1)  # (cases, 2, 3, bins)
    sums = np.zeros((len(owner), *both.shape[1:]))
    np.add.at(sums, [owner[name] for name in patients], both)
    total = sums.sum(axis=0)
    figures = np.asarray(ece_of_sums(total))  # (2,)
    without = np.asarray(ece_of_sums(total - sums))  # (patients, 2)

    def interval(weights: tuple[float, float]) -> tuple[float, float]:
        whole = float(figures @ weights)
        own = jackknife_values(whole, without @ weights)
        bounds = (0.0 if sum(weights) else -1.0, 1.0)
        found = mean_interval(own, center=whole, bounds=bounds, level=level)
        return found.low, found.high

    return EceChange(
        before=float(figures[0]),
        after=float(figures[1]),
        before_interval=interval((1.0, 0.0)),
        after_interval=interval((0.0, 1.0)),
        difference_interval=interval((-1.0, 1.0)),
    )
