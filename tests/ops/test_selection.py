"""Rules on the histogram of confidence: by hand, on golden numbers, and what none may do."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from medssl.ops.selection import (
    BINS,
    adaptive,
    bin_centres,
    class_histogram,
    gmm_peak,
    gmm_valley,
    levels_or,
    mean_of,
    normal_weight,
    otsu,
    reliable_threshold,
    remembered,
    scaled_by_class,
    two_means,
    variance_of,
    voxel_weight,
)

Golden = Callable[[str], dict]
RULES = {
    "adaptive": adaptive,
    "two_means": two_means,
    "gmm_peak": gmm_peak,
    "gmm_valley": gmm_valley,
    "reliable": lambda h: reliable_threshold(h, h.flip(-1), 0.6),
}
EACH = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def histogram(*confidences: list[float]) -> Tensor:
    """Return a histogram with these confidences for class 0, 1, ..."""
    values = torch.tensor([c for row in confidences for c in row])
    labels = torch.tensor([k for k, row in enumerate(confidences) for _ in row])
    return class_histogram(values[None], labels[None], len(confidences))


def random_histogram(classes: int) -> Tensor:
    return torch.rand(classes, BINS, generator=torch.Generator().manual_seed(classes))


def test_voxels_are_counted_by_class_and_bin() -> None:
    label = torch.tensor([[0, 1, 1], [2, 255, 1]])
    confidence = torch.tensor([[0.5, 1.0, 0.99], [0.0, 0.7, 1 / 64]])
    found = class_histogram(confidence, label, 3)
    assert found.dtype == torch.float32
    assert {tuple(i): int(found[tuple(i)]) for i in found.nonzero().tolist()} == {
        (0, 32): 1,
        (1, 63): 2,
        (1, 1): 1,
        (2, 0): 1,
    }


def test_mean_and_variance_are_those_of_the_bin_centres() -> None:
    h = histogram([0.1, 0.2, 0.9], [])
    values = np.array([6.5, 12.5, 57.5]) / 64
    assert mean_of(h)[0].item() == pytest.approx(values.mean(), rel=1e-6)
    assert variance_of(h)[0].item() == pytest.approx(values.var(), rel=1e-5)
    assert mean_of(h)[1].isnan()
    assert variance_of(h)[1].isnan()


def test_two_means_by_hand() -> None:
    """Confidences .1 .2 .3 and .8 .9: the centres are their means, of the middles of the bins."""
    low, high = two_means(histogram([0.1, 0.2, 0.3, 0.8, 0.9]))[0].tolist()
    assert low == pytest.approx((6.5 + 12.5 + 19.5) / 3 / 64)
    assert high == pytest.approx((51.5 + 57.5) / 2 / 64)
    assert (round(low, 4), round(high, 4)) == (0.2005, 0.8516)
    assert two_means(histogram([0.7, 0.7]))[0].tolist() == [44.5 / 64] * 2


def test_two_normals_find_peak_and_valley() -> None:
    """4000 draws of N(.5, .08) and 8000 of N(.93, .03): the peak is the latter's mean."""
    rng = np.random.default_rng(0)
    drawn = np.concatenate([rng.normal(0.5, 0.08, 4000), rng.normal(0.93, 0.03, 8000)])
    h = histogram([], drawn.clip(0, 1).tolist())
    peak, valley = gmm_peak(h)[1], gmm_valley(h)[1]
    assert peak[0] == peak[1]
    assert peak[0].item() == pytest.approx(0.93, abs=2e-3)
    assert 0.75 < valley[0].item() < 0.85, "three standard deviations from either mean"
    sure = 8000 / 12000
    assert h[1][bin_centres() >= valley[0]].sum().item() / 12000 == pytest.approx(sure, abs=0.005)


def test_adaptive_thresholds(golden: Golden) -> None:
    truth = golden("unimatch")["checks"]["05_thresholds"]["freematch"]
    tau, since = torch.ones((), dtype=torch.float64), 0
    for iterations, expected in sorted((int(k), v) for k, v in truth["tau_after"].items()):
        for _ in range(iterations - since):
            tau = remembered(tau, torch.full_like(tau, 0.98), 0.999)
        since = iterations
        assert tau.item() == pytest.approx(expected, rel=1e-6)
    hand = truth["hand"]
    found = scaled_by_class(torch.tensor(hand["tau"]), torch.tensor(hand["p"]))
    assert found.tolist() == pytest.approx(hand["tau_c"], rel=1e-5)


def test_adaptive_takes_what_is_predicted_as_a_class() -> None:
    h = histogram([0.9, 0.9, 0.9], [0.6], [])
    sure, unsure = 57.5 / 64, 38.5 / 64
    overall = (3 * sure + unsure) / 4
    found = adaptive(h)
    assert found[:2, 0].tolist() == pytest.approx([overall, overall * unsure / sure])
    assert found[2].isnan().all()
    assert levels_or(found, 0.7)[2].tolist() == pytest.approx([0.7, 0.7])


def test_weights_by_a_normal_distribution(golden: Golden) -> None:
    truth = golden("unimatch")["checks"]["05_thresholds"]["softmatch"]
    start, later = (torch.tensor(v, dtype=torch.float64) for v in ([0.5, 1.0], [0.98, 0.002]))
    for _ in range(1000):
        start = remembered(start, later, 0.999)
    mean, variance = start
    assert mean.item() == pytest.approx(truth["mu_after_1000"], rel=1e-5)
    assert variance.item() == pytest.approx(truth["var_after_1000"], rel=1e-5)
    found = normal_weight(torch.tensor(0.6), mean, variance).item()
    assert found == pytest.approx(truth["w_of_0.6_after_1000"], rel=1e-5)
    hand = truth["hand"]
    for c, expected in hand["w"].items():
        found = normal_weight(
            torch.tensor(float(c)), torch.tensor(hand["mu"]), torch.tensor(hand["var"])
        )
        assert found.item() == pytest.approx(expected, rel=1e-5)


def test_the_reliable_threshold_is_the_least_that_is_right_often_enough() -> None:
    right = histogram([0.95] * 90 + [0.75] * 10, [0.9], [], [0.3])
    wrong = histogram([0.95] * 5 + [0.75] * 9 + [0.55] * 2, [], [], [0.95])
    found = reliable_threshold(right, wrong, 0.9)[:, 0]
    # 90 of 95 from .95 on, 100 of 114 from .75 on: the bins between hold nothing.
    assert found[0].item() == pytest.approx(49 / 64)
    assert found[1].item() == 0
    assert found[2].isnan()
    assert found[3].item() == 1
    assert reliable_threshold(right, wrong, 0.86)[0, 0].item() == pytest.approx(0)


def test_voxels_below_count_nothing_between_as_they_are_sure_above_fully() -> None:
    levels = torch.tensor([[0.5, 0.8], [0.9, 0.9]])
    label = torch.tensor([[0, 0, 0, 0, 1, 1, 255]])
    confidence = torch.tensor([[0.4, 0.5, 0.7, 0.8, 0.8, 0.9, 1.0]])
    found = voxel_weight(confidence, label, levels)
    assert found.flatten().tolist() == pytest.approx([0, 0.5, 0.7, 1, 0, 1, 0])


@EACH
@pytest.mark.parametrize("classes", [2, 3, 15])
def test_rules_know_neither_scale_nor_order_of_classes(
    rule: Callable[[Tensor], Tensor], classes: int
) -> None:
    h = random_histogram(classes)
    levels = rule(h)
    assert levels.shape == (classes, 2)
    assert bool((levels[:, 0] <= levels[:, 1]).all())
    torch.testing.assert_close(rule(10 * h), levels)
    torch.testing.assert_close(rule(h.flip(0)), levels.flip(0))


@EACH
def test_a_class_without_voxels_has_no_level_and_disturbs_no_other(
    rule: Callable[[Tensor], Tensor],
) -> None:
    h = random_histogram(3)
    alone = torch.cat([h, torch.zeros(1, BINS)])
    assert rule(alone)[3].isnan().all()
    torch.testing.assert_close(rule(alone)[:3], rule(h))
    one = torch.zeros(1, BINS)
    one[0, 40] = 5
    assert bool((rule(one) >= 0).all())
    assert bool((rule(one) <= 1).all())


@EACH
def test_rules_need_no_values_on_the_host(rule: Callable[[Tensor], Tensor]) -> None:
    h = torch.zeros(3, BINS, device="meta")
    assert rule(h).dtype == torch.float32
    assert rule(h).device.type == "meta"


@pytest.mark.parametrize("rule", [two_means, gmm_peak, gmm_valley])
def test_one_class_leaves_the_levels_of_others(rule: Callable[[Tensor], Tensor]) -> None:
    h = random_histogram(3)
    other = h.clone()
    other[0] = other[0].flip(-1)
    assert torch.equal(rule(h)[1:], rule(other)[1:])
    assert not torch.equal(rule(h)[0], rule(other)[0])


def test_nan_is_nothing_else_than_unseen() -> None:
    assert not math.isnan(levels_or(two_means(histogram([0.4], [])), 0.7).sum().item())


def test_otsu_by_hand() -> None:
    losses = torch.tensor([1.0, 0.02, 0.01, 1.1, 0.03])
    assert otsu(losses, torch.ones(5)).item() == pytest.approx(0.03), "ties belong below"
    unseen = torch.tensor([1.0, float("nan"), 0.01, 1.1, 0.03])
    assert otsu(unseen, torch.tensor([1.0, 0, 1, 1, 1])).item() == pytest.approx(0.03)
    for same in (torch.ones(4), torch.ones(1)):
        assert otsu(same, torch.ones(len(same))).isnan(), "nothing to part"
    h = torch.zeros(3, 64)
    h[0, [10, 11, 50]], h[1, [3, 40, 41]] = torch.tensor([5.0, 5, 9]), torch.tensor([2.0, 7, 1])
    for scale in (1, 10):
        found = otsu(bin_centres(), scale * h)
        assert found[:2].tolist() == [11.5 / 64, 3.5 / 64]
        assert found[2].isnan()
