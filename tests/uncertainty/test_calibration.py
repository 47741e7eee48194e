"""Temperature, calibration error, rank correlation, volume intervals: against hand-made truths."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm, spearmanr

from medssl.data.datasets.case import IGNORE_INDEX
from medssl.ops.uncertainty import tempered
from medssl.uncertainty import temperature as c
from medssl.uncertainty.quality import rank_correlation, volume_factors
from medssl.uncertainty.sample import region_near, sample_blocks


def two_classes(confidence: float, right: int, wrong: int) -> tuple[np.ndarray, np.ndarray]:
    """Voxels that are all sure of class 1 to one degree, ``right`` of them rightly."""
    logs = np.log(np.tile([1 - confidence, confidence], (right + wrong, 1)))
    return logs, np.array([1] * right + [0] * wrong)


def test_the_temperature_is_the_one_that_makes_the_accuracy_true() -> None:
    # 0.9 said, 0.75 right: log 9 / T = log 3, so T = 2. And the other way round.
    assert c.fit_temperature(*two_classes(0.9, 75, 25)) == pytest.approx(2.0, abs=1e-3)
    assert c.fit_temperature(*two_classes(0.75, 90, 10)) == pytest.approx(0.5, abs=1e-3)
    assert c.fit_temperature(*two_classes(0.8, 80, 20)) == pytest.approx(1.0, abs=1e-3)
    with pytest.raises(ValueError, match="no voxel"):
        c.fit_temperature(np.zeros((0, 2)), np.zeros(0))


def test_likelihood_by_hand() -> None:
    logs, labels = two_classes(0.9, 3, 1)
    expected = -(3 * math.log(0.9) + math.log(0.1)) / 4
    assert c.negative_log_likelihood(logs, labels) == pytest.approx(expected)
    expected = -(3 * math.log(0.75) + math.log(0.25)) / 4  # sqrt(9) : 1
    assert c.negative_log_likelihood(logs, labels, 2.0) == pytest.approx(expected)


def test_calibration_error_by_hand() -> None:
    confidence = np.array([0.92, 0.96, 0.94, 0.98, 0.55, 0.55, 1.0])
    correct = np.array([1, 1, 1, 0, 1, 0, 1])
    sums = c.bin_sums(confidence, correct, bins=10)
    assert sums[0].tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 0, 5]
    curve = c.reliability(sums)
    assert curve.confidence[5] == pytest.approx(0.55)
    assert curve.accuracy[9] == pytest.approx(4 / 5)
    assert math.isnan(curve.accuracy[0])
    # bins: |1 - 1.1| = 0.1 and |4 - 4.8| = 0.8, over 7 voxels
    assert curve.ece == pytest.approx(0.9 / 7)
    assert c.ece_of_sums(np.stack((sums, 2 * sums))).tolist() == pytest.approx([0.9 / 7] * 2)
    # An inner edge belongs to the upper bin.
    assert c.bin_sums(np.array([0.5]), np.array([1]), bins=2)[0].tolist() == [0, 1]


def test_temperature_ends_the_calibration_error_it_was_made_for() -> None:
    logs, labels = two_classes(0.9, 75, 25)
    before = c.bin_sums(*c.top_label(c.tempered_log(logs, 1.0), labels))
    after = c.bin_sums(*c.top_label(c.tempered_log(logs, 2.0), labels))
    assert c.ece_of_sums(before) == pytest.approx(0.15)
    assert c.ece_of_sums(after) == pytest.approx(0.0, abs=1e-9)
    judged = c.one_class(0)(logs, labels)
    assert judged[0][0] == pytest.approx(0.1)
    assert judged[1].sum() == 25


def test_cross_fitting_uses_the_other_patients_only() -> None:
    (sure, right), (fine, true) = two_classes(0.9, 75, 25), two_classes(0.8, 80, 20)
    found = c.cross_fitted([sure, fine, sure], [right, true, right], ["a", "b", "a"])
    assert found == pytest.approx([1.0, 2.0, 1.0], abs=1e-3)
    with pytest.raises(ValueError, match="two patients"):
        c.cross_fitted([sure, fine], [right, true], ["a", "a"])


def test_change_of_the_error_over_patients() -> None:
    off, fine = (
        c.bin_sums(np.full(10, 0.9), np.arange(10) < share) for share in (5, 9)
    )  # errors 0.4 and 0
    change = c.ece_change(np.stack((off, off)), np.stack((fine, fine)), ["a", "b"])
    assert (change.before, change.after) == pytest.approx((0.4, 0.0))
    assert math.isnan(change.difference_interval[0])  # both change alike
    mixed = c.ece_change(np.stack((off, fine)), np.stack((off, fine)), ["a", "b"])
    assert mixed.before == pytest.approx(0.2)
    # Without one of them the error is 0 or 0.4: two values, one degree of freedom, cut off at 0
    # and 1.
    assert mixed.before_interval == pytest.approx((0.0, 1.0))
    assert math.isnan(mixed.difference_interval[0])
    alone = c.ece_change(off[None], fine[None], ["a"])
    assert math.isnan(alone.before_interval[0])


def test_tempering_probabilities_divides_the_logits() -> None:
    logits = 4 * torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    probs = logits.softmax(0)
    for temperature in (0.5, 2.0):
        expected = (logits / temperature).softmax(0)
        torch.testing.assert_close(tempered(probs, temperature), expected)
        moved = c.tempered_log(probs.log().flatten(1).T.numpy(), temperature)
        np.testing.assert_allclose(np.exp(moved), expected.flatten(1).T.numpy(), rtol=1e-5)
    assert tempered(probs, 1.0) is probs
    sure = tempered(torch.tensor([1.0, 0.0]), 3.0)
    assert torch.isfinite(sure).all()
    assert sure[0] > 0.999


def test_the_error_of_many_patients_by_hand() -> None:
    shares = (5, 6, 7, 9, 8)
    sums = np.stack([c.bin_sums(np.full(10, 0.9), np.arange(10) < s) for s in shares])
    whole = 0.9 - sum(shares) / 50
    found = c.ece_change(sums, sums, list("abcde"))
    assert found.before == pytest.approx(whole)
    # All lie in one bin and below it, so the error is the mean of the patients' own.
    half = 2.776445 * np.std([0.9 - s / 10 for s in shares], ddof=1) / math.sqrt(5)
    assert found.before_interval == pytest.approx((whole - half, whole + half), abs=1e-6)
    double = np.concatenate((sums, sums))  # two scans of each patient
    twice = c.ece_change(double, double, list("abcde") * 2)
    assert twice.before_interval == pytest.approx(found.before_interval)


def test_rank_correlation_by_hand() -> None:
    patients = list("abcdefghij")
    assert rank_correlation([1, 2, 3], [3, 2, 1], patients[:3]).spearman == pytest.approx(-1)
    # Ranks 1 2 3 4 5 against 2 1 4 3 5: 1 - 6 * 4 / (5 * 24) = 0.8
    mixed = rank_correlation([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], patients[:5])
    assert mixed.spearman == pytest.approx(0.8)
    gap = rank_correlation([1, math.nan, 3, 4], [1, 2, math.nan, 4], list("aabb"))
    assert (gap.n, gap.n_patients, gap.spearman) == (2, 2, pytest.approx(1))
    assert math.isnan(rank_correlation([1, 1, 1], [1, 2, 3], patients[:3]).spearman)
    lonely = rank_correlation([1, math.nan], [1, 2], ["a", "b"])
    assert math.isnan(lonely.spearman)
    assert lonely.n == 1


def test_fewer_than_eight_patients_give_no_interval_of_a_rank_correlation() -> None:
    a, b = [1, 2, 3, 4, 5, 6, 7, 8], [2, 1, 4, 3, 5, 7, 6, 8]
    for n in (2, 3, 7):
        found = rank_correlation(a[:n], b[:n], list(range(n)))
        assert math.isnan(found.low)
        assert math.isnan(found.high)
        assert found.none == "fewer than 8 patients"
    eight = rank_correlation(a, b, list(range(8)))
    assert eight.none == ""
    assert 0 < eight.low < eight.spearman < eight.high < 1
    # Sixteen scans of four patients are four patients.
    assert math.isnan(rank_correlation(a * 2, b * 2, list(range(4)) * 4).low)
    # One and the same order in all is no certainty either.
    perfect = rank_correlation(a, a, list(range(8)))
    assert perfect.spearman == pytest.approx(1)
    assert math.isnan(perfect.low)
    still = rank_correlation([1] * 8, b, list(range(8)))
    assert still.none == "one of the two does not vary"


def test_the_interval_of_a_rank_correlation_by_hand() -> None:
    a, b = [1, 2, 3, 4, 5, 6, 7, 8], [2, 1, 4, 3, 5, 7, 6, 8]
    z = math.atanh(spearmanr(a, b).statistic)
    without = [
        math.atanh(min(spearmanr(np.delete(a, i), np.delete(b, i)).statistic, 0.99))
        for i in range(8)
    ]
    own = 8 * z - 7 * np.array(without)
    half = 2.364624 * own.std(ddof=1) / math.sqrt(8)
    found = rank_correlation(a, b, list(range(8)))
    assert found.low == pytest.approx(math.tanh(z - half), abs=1e-6)
    assert found.high == pytest.approx(math.tanh(z + half), abs=1e-6)


def test_the_interval_of_a_rank_correlation_holds_the_truth() -> None:
    rng = np.random.default_rng(0)
    truth = 6 / np.pi * np.arcsin(0.6 / 2)  # Spearman's of two normals correlated by 0.6
    hits = []
    for _ in range(400):
        a = rng.normal(size=10)
        b = norm.cdf(0.6 * a + 0.8 * rng.normal(size=10))
        found = rank_correlation(a.tolist(), b.tolist(), list(range(10)))
        hits.append(found.low <= truth <= found.high)
    assert 0.93 <= np.mean(hits) <= 0.995


def test_rank_correlation_agrees_with_scipy() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, 20), rng.integers(0, 6, 20)  # many ties
    found = rank_correlation(a.tolist(), b.tolist(), list(range(20)))
    assert found.spearman == pytest.approx(spearmanr(a, b).statistic)


def test_volume_factors_drop_as_many_cases_as_the_level_allows() -> None:
    ratios = np.arange(1, 20) / 10  # 19 of them: the extremes hold 1 - 2/20
    found = volume_factors([100.0] * 19, (100 * ratios).tolist())
    assert (found.low, found.high, found.n) == (pytest.approx(0.1), pytest.approx(1.9), 19)
    assert found.level == pytest.approx(0.9)
    ratios = np.arange(1, 40) / 10  # 39: the second from each end hold 1 - 4/40
    found = volume_factors([10.0] * 39, (10 * ratios).tolist())
    assert (found.low, found.high) == pytest.approx((0.2, 3.8))
    assert found.level == pytest.approx(0.9)
    few = volume_factors([10.0, 10.0, 0.0, 10.0], [10.0, 12.0, 5.0, 9.0])
    assert (few.low, few.high, few.n) == (pytest.approx(0.9), pytest.approx(1.2), 3)
    assert few.level == pytest.approx(0.5)
    assert volume_factors([1.0, 0.0], [1.0, 1.0]) is None


def test_volume_factors_keep_their_promise() -> None:
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(300):
        ratio = rng.lognormal(0, 0.3, 21)
        found = volume_factors([1.0] * 20, ratio[:20].tolist())
        inside.append(found.low <= ratio[20] <= found.high)
    assert np.mean(inside) == pytest.approx(19 / 21, abs=0.05)


def sampled(
    reference: np.ndarray, foreground: np.ndarray, limit: int
) -> tuple[np.ndarray, np.ndarray]:
    probs = torch.stack((torch.full(reference.shape, 0.8), torch.full(reference.shape, 0.2)))
    probs[:, torch.from_numpy(foreground)] = torch.tensor([[0.3], [0.7]])
    blocks = [((slice(a, a + 4), slice(None), slice(None)), probs[:, a : a + 4]) for a in (0, 4)]
    region = region_near(reference, 1)
    return sample_blocks(blocks, reference, region, limit=limit, rng=np.random.default_rng(0))


def test_voxels_near_a_structure_or_predicted_are_drawn_and_no_others() -> None:
    reference = np.zeros((8, 8, 8), np.uint8)
    reference[2, 2, 2] = 1
    reference[1, 2, 2] = IGNORE_INDEX
    foreground = np.zeros(reference.shape, bool)
    foreground[6, 6, 6] = True
    probs, labels = sampled(reference, foreground, 1000)
    assert len(labels) == 27 - 1 + 1
    assert labels.sum() == 1
    assert sorted(np.unique(probs[:, 1]).tolist()) == pytest.approx([0.2, 0.7])
    reference[1, 2, 2] = 0
    reference[6, 6, 6] = IGNORE_INDEX
    assert len(sampled(reference, foreground, 1000)[1]) == 27


def test_the_sample_is_bounded_and_repeats_itself() -> None:
    reference = np.ones((8, 8, 8), np.uint8)
    reference[:, :, 4:] = 0
    nothing = np.zeros(reference.shape, bool)
    probs, labels = sampled(reference, nothing, 50)
    again = sampled(reference, nothing, 50)
    assert len(labels) == len(probs) == 50
    assert 0 < labels.sum() < 50
    np.testing.assert_array_equal(labels, again[1])
