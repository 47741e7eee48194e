"""Intervals over patients, by hand and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import beta, binom, ttest_1samp
from scipy.stats import t as student

from medssl.evaluation.coverage import coverage_sentence, measured_coverage
from medssl.evaluation.failures import count_failures, failure_sentence, percent_up, upper_bound
from medssl.evaluation.sign_flip import sign_flip_p
from medssl.evaluation.statistics import (
    jackknife_values,
    mean_interval,
    paired_interval,
    patient_means,
    resampled_interval,
)

NAN = float("nan")


def test_students_t_by_hand_and_by_scipy() -> None:
    # Mean 3, standard deviation sqrt(2.5), t of 4 degrees of freedom 2.776445.
    found = mean_interval([1, 2, 3, 4, 5])
    half = 2.776445 * math.sqrt(2.5 / 5)
    assert (found.mean, found.low, found.high) == pytest.approx((3, 3 - half, 3 + half), abs=1e-6)
    assert (found.n, found.level, found.none) == (5, 0.95, "")
    values = np.random.default_rng(0).normal(0.8, 0.1, 11)
    expected = ttest_1samp(values, 0).confidence_interval(0.9)
    found = mean_interval([*values, NAN], level=0.9)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.n == 11


def test_where_there_is_no_interval_it_says_why() -> None:
    for values, n, why in (
        ([0.5], 1, "a value of one patient only"),
        ([0.5, NAN], 1, "a value of one patient only"),
        ([1.0] * 9, 9, "the 9 patients have the same value"),
        ([0.1 + 0.2, 0.3], 2, "the 2 patients have the same value"),
        ([NAN], 0, "no patient has a value"),
        ([], 0, "no patient has a value"),
    ):
        found = mean_interval(values)
        assert (found.n, found.none) == (n, why)
        assert math.isnan(found.low)
        assert math.isnan(found.high)
    with pytest.raises(ValueError, match="level"):
        mean_interval([1, 2], level=95)


def test_ends_are_cut_off_where_a_score_ends() -> None:
    found = mean_interval([0.9, 0.99, 1.0], bounds=(0, 1))
    assert found.high == 1
    assert found.low == pytest.approx(mean_interval([0.9, 0.99, 1.0]).low)


def test_each_patient_counts_once() -> None:
    values = np.array([[0.2, 1.0], [0.4, NAN], [0.9, NAN], [0.5, 3.0]])
    found = patient_means(values, ["p", "p", "q", "p"])
    np.testing.assert_allclose(found, [[1.1 / 3, 2.0], [0.9, NAN]])
    both = patient_means(np.stack((values, values + 1)), ["p", "p", "q", "p"])
    np.testing.assert_allclose(both, np.stack((found, found + 1)))


def test_jackknife_values_of_a_mean_are_the_values() -> None:
    values = np.array([1.0, 2.0, 6.0])
    without = [np.delete(values, i).mean() for i in range(3)]
    np.testing.assert_allclose(jackknife_values(values.mean(), without), values)


# ---------------------------------------------------------------------- pairs


def test_a_shift_smaller_than_the_spread_is_seen() -> None:
    rng = np.random.default_rng(2)
    b = rng.uniform(0.3, 0.9, 40)
    a = b + 0.02 + rng.normal(0, 0.02, 40)
    found = paired_interval(a[None], b[None])
    assert found == mean_interval(a - b)
    assert 0 < found.low < 0.02 < found.high < 0.04
    mirrored = paired_interval(b[None], a[None])
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))
    alone = paired_interval(a[None])
    assert alone == mean_interval(a)


def test_patients_without_a_value_are_left_out() -> None:
    ours = np.array([[0.5, NAN, 0.9, 0.7], [0.6, 0.4, 0.9, 0.8]])
    baseline = np.array([[0.4, 0.4, NAN, 0.6]])
    found = paired_interval(ours, baseline)
    assert (found.n, found.mean) == (2, pytest.approx(0.15))
    with pytest.raises(ValueError, match="do not fit"):
        paired_interval(np.zeros((1, 2)), np.zeros((1, 3)))
    with pytest.raises(ValueError, match="do not fit"):
        paired_interval(np.zeros(2), np.zeros(2))
    nothing = paired_interval(np.array([[NAN]]), np.array([[0.5]]))
    assert nothing.none == "no patient has a value"


def test_the_spread_between_runs_is_added() -> None:
    # Every patient gains the same in a run, but runs differ: only they make the interval.
    b = np.linspace(0.5, 0.9, 20)[None]
    a = b + np.array([[-0.02], [0.03], [0.05]])
    found = paired_interval(a, b)
    # Variance of the three runs 0.0013, 2 degrees of freedom; the one run of b varies alike.
    half = 4.302653 * math.sqrt(0.0013 * (1 / 3 + 1))
    assert found.mean == pytest.approx(0.02)
    assert (found.low, found.high) == pytest.approx((0.02 - half, 0.02 + half), abs=1e-6)
    averaged = paired_interval(a.mean(0)[None], b)
    assert averaged.none == "the 20 patients have the same value"
    # Of two methods the variances are pooled: (0.0026 + 0.0002) / 3, 3 degrees of freedom.
    both = paired_interval(a, b + np.array([[-0.01], [0.01]]))
    half = 3.182446 * math.sqrt(0.0028 / 3 * (1 / 3 + 1 / 2))
    assert (both.low, both.high) == pytest.approx((0.02 - half, 0.02 + half), abs=1e-6)
    # Of one method alone there is no other to vary.
    one = paired_interval(a)
    patients, runs = a.mean(0).var(ddof=1) / 20, 0.0013 / 3
    freedom = (patients + runs) ** 2 / (patients**2 / 19 + runs**2 / 2)
    half = student.ppf(0.975, freedom) * math.sqrt(patients + runs)
    assert one.high - one.mean == pytest.approx(half)
    # Both parts: variances add, degrees of freedom after Satterthwaite.
    gains = np.array([0.0, 0.02, 0.04, 0.06])
    a = np.stack((gains - 0.01, gains + 0.01))
    found = paired_interval(a, np.zeros((1, 4)))
    # Patients: 1/1500 over 4; runs: 1/5000 times 1/2 + 1.
    patients, runs = 1 / 6000, 3 / 10000
    freedom = (patients + runs) ** 2 / (patients**2 / 3 + runs**2 / 1)
    half = student.ppf(0.975, freedom) * math.sqrt(patients + runs)
    assert found.high == pytest.approx(0.03 + half)


def test_the_interval_over_patients_and_runs_holds_the_truth() -> None:
    """Patients, runs and what they share all vary; three runs of each method."""
    rng = np.random.default_rng(0)
    hits, alone = 0, 0
    for _ in range(1000):
        effect = rng.normal(0.01, 0.02, 12)
        runs = [rng.normal(0, 0.015, (3, 1)) + rng.normal(0, 0.01, (3, 12)) for _ in range(2)]
        found = paired_interval(effect + runs[0], runs[1])
        hits += found.low <= 0.01 <= found.high
        single = mean_interval((effect + runs[0]).mean(0) - runs[1].mean(0))
        alone += single.low <= 0.01 <= single.high
    assert 0.935 <= hits / 1000 <= 0.985
    assert alone / 1000 < 0.75  # over patients alone it promises too much


def test_corrected_resampled_t_by_hand() -> None:
    # Nadeau and Bengio: variance (1/J + n_test/n_train) s^2; 5 folds, s^2 = 2.5, t(4) 2.776445.
    found = resampled_interval([1, 2, 3, 4, 5], test_share=1 / 4, patients=20)
    half = 2.776445 * math.sqrt(2.5 * (1 / 5 + 1 / 4))
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half), abs=1e-5)
    assert found.n == 20
    assert resampled_interval([1], test_share=1, patients=4).none == "one division only"
    for wrong in ([], [NAN]):
        with pytest.raises(ValueError, match="finite differences"):
            resampled_interval(wrong, test_share=1, patients=4)
    with pytest.raises(ValueError, match="test_share"):
        resampled_interval([1, 2], test_share=0, patients=4)


def test_sign_flips_by_hand() -> None:
    assert sign_flip_p([1, 2, 3, 4, 5, 6]) == 2 / 64
    # Subsets of 1..6 that sum to at most 4: {}, 1, 2, 3, 4, 1+2, 1+3: 7 of 64 on each side.
    assert sign_flip_p([1, 2, 3, -4, 5, 6]) == 14 / 64
    assert sign_flip_p([-1, -2, -3, 4, -5, -6]) == 14 / 64
    assert sign_flip_p([0.0] * 6) == 1
    assert math.isnan(sign_flip_p([1, 2, 3, 4, 5]))
    assert math.isnan(sign_flip_p([1, 2, 3, 4, 5, NAN]))


def test_sign_flips_of_many_patients_are_drawn() -> None:
    ones = [1.0] * 14 + [-1.0] * 11
    # Of 25 equal sizes it is the sign test: at least 14 or at most 11 of 25.
    assert sign_flip_p(ones) == pytest.approx(2 * binom.sf(13, 25, 0.5), abs=0.006)
    assert sign_flip_p([1.0] * 25) == 1 / 100_001
    assert sign_flip_p(ones) == sign_flip_p(ones)


# ---------------------------------------------------------------------- failures


def test_upper_bounds_by_hand() -> None:
    # None of n: the share p with (1 - p)^n = 0.05.
    assert upper_bound(0, 8) == pytest.approx(1 - 0.05 ** (1 / 8))
    assert upper_bound(8, 8) == 1
    assert upper_bound(0, 0) == 1
    for count, n in ((1, 12), (3, 40)):
        share = upper_bound(count, n)
        assert binom.cdf(count, n, share) == pytest.approx(0.05)
    with pytest.raises(ValueError, match="no share"):
        upper_bound(3, 2)


def test_the_bound_holds_whatever_the_share_is() -> None:
    rng = np.random.default_rng(0)
    for share in (0.05, 0.1, 0.3):
        seen = rng.binomial(8, share, 4000)
        held = np.mean([upper_bound(int(x), 8) >= share for x in seen])
        assert held >= 0.94


def test_failures_are_counted_below_the_threshold() -> None:
    found = count_failures([0.49, 0.5, NAN, 0.9], 0.5)
    assert (found.below, found.patients) == (1, 3)
    assert found.at_most == pytest.approx(beta.ppf(0.95, 2, 2))
    text = failure_sentence(count_failures([0.2, *[0.9] * 11], 0.5).as_dict())
    assert text == (
        "1 of 12 patients below Dice 0.5; with 95% confidence at most 34% of further patients "
        "drawn like these"
    )
    assert failure_sentence(count_failures([0.9], 0.5).as_dict()).startswith("0 of 1 patient below")
    assert [percent_up(x) for x in (0.3388, 0.07217, 1.0, 0.25)] == ["34%", "8%", "100%", "25%"]


# ---------------------------------------------------------------------- coverage


def test_the_stated_coverage_is_that_of_the_number_of_patients() -> None:
    assert measured_coverage(2) is None
    assert "not tried" in coverage_sentence(2)
    for patients, row in ((3, 3), (8, 8), (9, 8), (14, 12), (40, 40), (200, 40)):
        found = measured_coverage(patients)
        assert found.patients == row
        assert 0.7 < found.worst < found.best < 0.97
        text = coverage_sentence(patients)
        assert f"simulated studies of {row} patients" in text
        assert f"held it in {100 * found.worst:.0f} " in text
    assert "one patient in ten" in measured_coverage(8).worst_where
