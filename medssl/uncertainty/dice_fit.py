"""Learn what Dice to expect of a prediction from patients whose labels their model never saw."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from medssl.evaluation.statistics import Interval, mean_interval
from medssl.inference.expected_dice import FEATURES, ExpectedDice

MIN_PATIENTS = 4
"""With fewer, no rule is learned: three points lie on a plane whatever they are."""
PENALTY = 1.0
"""Of the ridge regression, times the number of patients: a single feature gets half of its least
squares slope, three that say the same get three quarters of theirs together."""
_STILL = 1e-6


@dataclass(frozen=True)
class LearnedDice:
    """A rule for Dice, and how far it was off for patients it was not learned from.

    Attributes:
        rule: learned from all patients.
        error: of the mean absolute error over patients, each predicted by the rule of the others.
        error_of_mean: of the same error where everybody is said to reach the others' mean Dice.
        predicted: what was said of each case by the rule of the other patients; NaN where nothing.
    """

    rule: ExpectedDice
    error: Interval
    error_of_mean: Interval
    predicted: tuple[float, ...]


def learn_dice(
    numbers: Sequence[Mapping[str, float]],
    dice: Sequence[float],
    patients: Sequence[Hashable],
) -> LearnedDice | None:
    """Learn the Dice of a case from the numbers of the one model that never saw its patient.

    Ridge regression on standardized features; several cases of a patient count as their mean.

    Args:
        numbers: of each case, see :mod:`medssl.inference.members`; a case that lacks one of those
            that others have is left out.
        dice: true mean Dice of each case; NaN has none.
        patients: of each case.

    Returns:
        The rule with its error; None with fewer than :data:`MIN_PATIENTS` patients.

    Source: Hoerl and Kennard, Ridge Regression, Technometrics 12 (1970).
    """
    names = [name for name in FEATURES if any(name in one for one in numbers)]
    usable = [
        i
        for i, one in enumerate(numbers)
        if names and all(name in one for name in names) and math.isfinite(dice[i])
    ]
    by_patient: dict[Hashable, list[int]] = {}
    for i in usable:
        by_patient.setdefault(patients[i], []).append(i)
    if len(by_patient) < MIN_PATIENTS:
        return None
    table = np.array(
        [
            np.mean([[*(numbers[i][n] for n in names), dice[i]] for i in own], axis=0)
            for own in by_patient.values()
        ]
    )
    predicted = np.full(len(dice), np.nan)
    errors: list[float] = []
    of_mean: list[float] = []
    for row, own in enumerate(by_patient.values()):
        others = np.delete(table, row, axis=0)
        rule = _fit(others, names)
        said = [rule.of_member(numbers[i]) for i in own]
        predicted[own] = said
        errors.append(float(np.mean([abs(predicted[i] - dice[i]) for i in own])))
        of_mean.append(float(np.mean([abs(rule.mean - dice[i]) for i in own])))
    error = mean_interval(errors, bounds=(0.0, 1.0))
    return LearnedDice(
        replace(_fit(table, names), error=error.mean),
        error,
        mean_interval(of_mean, bounds=(0.0, 1.0)),
        tuple(predicted.tolist()),
    )


def _fit(table: np.ndarray, names: Sequence[str]) -> ExpectedDice:
    """Fit a rule to ``(patients, features + 1)``, Dice last; its error is not known."""
    features, dice = table[:, :-1], table[:, -1]
    centers, scales = features.mean(axis=0), features.std(axis=0)
    varies = scales > _STILL * np.maximum(1.0, np.abs(centers))
    x = (features - centers)[:, varies] / scales[varies]
    y = dice - dice.mean()
    slopes = np.linalg.solve(x.T @ x + PENALTY * len(x) * np.eye(x.shape[1]), x.T @ y)
    kept = [name for name, moves in zip(names, varies, strict=True) if moves]

    def named(values: np.ndarray) -> dict[str, float]:
        return dict(zip(kept, values.tolist(), strict=True))

    return ExpectedDice(
        named(slopes),
        named(centers[varies]),
        named(scales[varies]),
        float(dice.mean()),
        math.nan,
        len(table),
    )
