"""Which scans are chosen, on points whose answer is plain."""

from __future__ import annotations

import numpy as np
import pytest

from medssl.rounds.choose import CUT, DRAWN, RULES, Candidates, as_points, choose


def on_a_line(*places: float, errors: list[float] | None = None, **more: object) -> Candidates:
    """Return candidates on a line, none labeled, each of a patient of its own."""
    n = len(places)
    return Candidates(
        errors=np.array(errors or [0.1] * n),
        points=np.array(places, dtype=float)[:, None],
        **{"labeled": np.zeros((0, 1)), "patients": list(range(n)), **more},
    )


def test_uncertainty_takes_the_largest_expected_error_first() -> None:
    found = choose("uncertainty", on_a_line(0, 1, 2, 3, errors=[0.2, 0.9, 0.4, 0.9]), 3)
    assert found == [1, 3, 2]


def test_diversity_takes_the_middle_of_each_group_before_what_is_odd() -> None:
    # A group of three, one of five, and an odd one: the middles stand for most.
    places = (0, 1, 2, 100, 101, 102, 103, 104, 160)
    assert choose("diversity", on_a_line(*places), 3) == [4, 1, 8]


def test_diversity_keeps_away_from_labeled_scans() -> None:
    near = on_a_line(0, 1, 2, 100, 101, 102, labeled=np.array([[101.0]]))
    assert choose("diversity", near, 1) == [1]


def test_the_combination_goes_where_scans_are_predicted_badly() -> None:
    # Groups alike but for their errors.
    errors = [0.1, 0.11, 0.12, 0.5, 0.51, 0.52]
    assert choose("combined", on_a_line(0, 1, 2, 100, 101, 102, errors=errors), 2)[0] == 4
    # How far errors lie apart does not matter, only their order.
    small = [0.1 + e / 1000 for e in errors]
    assert choose("combined", on_a_line(0, 1, 2, 100, 101, 102, errors=small), 2)[0] == 4


@pytest.mark.parametrize("rule", DRAWN)
def test_what_is_drawn_is_of_its_seed_alone(rule: str) -> None:
    candidates = on_a_line(*range(20))
    assert choose(rule, candidates, 5, seed=1) == choose(rule, candidates, 5, seed=1)
    assert choose(rule, candidates, 5, seed=1) != choose(rule, candidates, 5, seed=2)


@pytest.mark.parametrize("rule", DRAWN)
def test_each_scan_is_as_likely_to_be_drawn(rule: str) -> None:
    # Two tight groups of unequal size and an odd scan: whatever is unlike, the share is 3 / 10.
    candidates = on_a_line(0, 1, 2, 3, 4, 5, 100, 101, 102, 500)
    draws = [choose(rule, candidates, 3, seed=seed) for seed in range(2000)]
    shares = np.bincount(np.concatenate(draws), minlength=10) / len(draws)
    # Five standard errors of a share of 0.3 over 2000 draws.
    assert np.abs(shares - 0.3).max() < 5 * np.sqrt(0.3 * 0.7 / 2000)


def test_spread_takes_as_many_of_each_group_as_its_share() -> None:
    candidates = on_a_line(*range(40), *range(1000, 1020))
    for seed in range(50):
        far = sum(i >= 40 for i in choose("spread", candidates, 6, seed=seed))
        assert far == 2


@pytest.mark.parametrize("rule", RULES)
def test_no_patient_twice_while_another_has_none(rule: str) -> None:
    patients = ["a", "a", "a", "b", "c", "d"]
    candidates = on_a_line(0, 1, 2, 3, 4, 5, errors=[0.9] * 3 + [0.1] * 3, patients=patients)
    found = choose(rule, candidates, 6, seed=3)
    assert {patients[i] for i in found[:4]} == {"a", "b", "c", "d"}
    assert sorted(found) == list(range(6))
    labeled = on_a_line(0, 1, 2, 3, 4, 5, patients=patients, labeled_patients=frozenset("abc"))
    assert choose(rule, labeled, 1, seed=3) == [5]


@pytest.mark.parametrize("rule", RULES)
def test_fewer_scans_than_are_wanted_are_all_taken(rule: str) -> None:
    assert sorted(choose(rule, on_a_line(5, 5, 5), 9)) == [0, 1, 2]


def test_features_count_alike_and_missing_ones_as_usual() -> None:
    rows = [{"a": 1.0, "b": 1000.0, "same": 3.0}, {"a": 2.0, "b": 2000.0, "same": 3.0}]
    rows += [{"a": 3.0, "b": 3000.0, "same": 3.0}]
    points, labeled = as_points(rows, [{"a": 2.0, "same": 3.0}])
    assert points.shape == (3, 2)  # what never varies is no axis
    assert np.allclose(points[:, 0], points[:, 1])
    assert np.allclose(labeled, 0)
    wild, _ = as_points([{"a": float(x)} for x in (1, 2, 3, 4, 1e9)])
    assert wild.max() == CUT
    none, _ = as_points([{}, {}])
    assert none.shape == (2, 0)
    assert choose("diversity", Candidates(np.ones(2), none, none[:0], "ab"), 1) == [0]


def test_a_feature_without_a_number_is_usual() -> None:
    points, _ = as_points([{"a": 1.0}, {"a": float("nan")}, {"a": 3.0}, {"a": 2.0}])
    assert points[1, 0] == 0
    assert np.isfinite(points).all()
