"""The rule for Dice: slopes by hand, what it is off by, and when there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medssl.uncertainty.dice_fit import MIN_PATIENTS, PENALTY, learn_dice


def numbers(entropy: list[float]) -> list[dict[str, float]]:
    return [{"entropy": e, "volume": 7.0, "agreement": 0.1 * i} for i, e in enumerate(entropy)]


def test_the_slope_is_that_of_the_ridge_and_what_stays_the_same_has_none() -> None:
    own, dice = [0.1, 0.2, 0.3, 0.4, 0.5], [0.9, 0.85, 0.8, 0.75, 0.7]
    found = learn_dice(numbers(own), dice, list("abcde"))
    # One standardized feature: n over n + PENALTY n of the least squares slope.
    assert found.rule.slopes == {"entropy": pytest.approx(-np.std(dice) / (1 + PENALTY))}
    assert found.rule.centers == {"entropy": pytest.approx(0.3)}
    assert found.rule.mean == pytest.approx(0.8)
    assert found.rule.patients == 5
    assert found.rule.of_member({"entropy": 0.3}) == pytest.approx(0.8)


def test_the_error_is_that_of_each_patient_by_the_rule_of_the_others() -> None:
    own, dice = [0.1, 0.2, 0.3, 0.4, 0.5], [0.9, 0.85, 0.8, 0.75, 0.7]
    found = learn_dice(numbers(own), dice, list("abcde"))
    errors, of_mean = [], []
    for i in range(5):
        x, y = np.delete(own, i), np.delete(dice, i)
        step = (own[i] - x.mean()) / x.std()
        said = y.mean() - y.std() / (1 + PENALTY) * np.clip(step, -3, 3)
        assert found.predicted[i] == pytest.approx(said)
        errors.append(abs(said - dice[i]))
        of_mean.append(abs(y.mean() - dice[i]))
    assert found.error.mean == found.rule.error == pytest.approx(np.mean(errors))
    assert found.error_of_mean.mean == pytest.approx(np.mean(of_mean))
    assert found.error.mean < found.error_of_mean.mean
    half = 2.776445 * np.std(errors, ddof=1) / math.sqrt(5)
    assert found.error.high == pytest.approx(np.mean(errors) + half, abs=1e-6)


def test_several_scans_of_a_patient_are_left_out_together_and_count_once() -> None:
    own, dice = [0.1, 0.2, 0.3, 0.4], [0.9, 0.8, 0.8, 0.7]
    once = learn_dice(numbers(own), dice, list("abcd"))
    twice = learn_dice(numbers([*own, 0.4, 0.4]), [*dice, 0.7, 0.7], list("abcddd"))
    assert twice.rule.slopes["entropy"] == pytest.approx(once.rule.slopes["entropy"])
    assert twice.error.mean == pytest.approx(once.error.mean)
    assert twice.predicted[3:] == pytest.approx([once.predicted[3]] * 3)


def test_cases_that_cannot_teach_are_left_out_and_too_few_patients_teach_nothing() -> None:
    own, dice = [0.1, 0.2, 0.3, 0.4, 0.5], [0.9, 0.85, 0.8, 0.75, 0.7]
    more = [*numbers(own), {"volume": 0.0}, {"entropy": 0.3, "volume": 7.0}]
    found = learn_dice(more, [*dice, 0.0, math.nan], list("abcdefg"))
    assert found.rule == learn_dice(numbers(own), dice, list("abcde")).rule
    assert np.isnan(found.predicted[5:]).all()
    few = MIN_PATIENTS - 1
    assert learn_dice(numbers(own[:few]), dice[:few], list("abc")) is None
    assert learn_dice(numbers(own), dice, list("aabbc")) is None
    assert learn_dice([{}] * 5, dice, list("abcde")) is None


def test_the_stated_error_is_about_the_real_one() -> None:
    """Over many draws of eight patients, the mean of what is stated and of what is true agree."""
    rng = np.random.default_rng(0)
    stated, real = [], []
    for _ in range(200):
        sure = rng.normal(size=108)
        dice = np.clip(0.8 + 0.05 * sure + rng.normal(0, 0.03, 108), 0, 1)
        entropy = 0.4 - 0.05 * sure + rng.normal(0, 0.02, 108)
        rows = [
            {"entropy": float(e), "volume": float(v)} for e, v in zip(entropy, sure, strict=True)
        ]
        found = learn_dice(rows[:8], dice[:8].tolist(), list(range(8)))
        stated.append(found.error.mean)
        said = [found.rule.of_member(row) for row in rows[8:]]
        real.append(np.abs(np.array(said) - dice[8:]).mean())
    assert np.mean(stated) == pytest.approx(np.mean(real), rel=0.1)
