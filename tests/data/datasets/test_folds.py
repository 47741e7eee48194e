"""Folds of patients: how many, how dealt, and what they leave untrained."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from medssl.data.datasets.folds import deal_folds, number_of_folds, untrained_structures
from medssl.errors import MedSSLError


def _patients(number: int) -> dict[str, frozenset[int]]:
    return {f"p{i:02d}": frozenset({1, 2}) for i in range(number)}


def test_the_number_of_folds_follows_the_number_of_patients() -> None:
    found = {n: number_of_folds(n) for n in range(3, 12)}
    assert found == {3: 3, 4: 4, 5: 5, 6: 4, 7: 4, 8: 4, 9: 4, 10: 5, 11: 5}
    assert number_of_folds(40) == 5
    assert number_of_folds(8, "all") == 8
    assert number_of_folds(8, 2) == 2
    for patients, asked in ((2, None), (1, "all")):
        with pytest.raises(MedSSLError, match="too few for cross-validation"):
            number_of_folds(patients, asked)
    for asked in (1, 9, 0, -4, "half"):
        with pytest.raises(MedSSLError, match="cannot be dealt into"):
            number_of_folds(8, asked)


@pytest.mark.parametrize(("number", "count"), [(3, 3), (8, 4), (9, 4), (11, 5), (7, 2), (40, 5)])
def test_every_patient_is_in_one_fold_and_sizes_differ_by_one(number: int, count: int) -> None:
    folds = deal_folds(_patients(number), count)
    assert sorted(itertools.chain(*folds)) == sorted(_patients(number))
    sizes = sorted(len(f) for f in folds)
    assert len(sizes) == count
    assert sizes[-1] - sizes[0] <= 1


def test_folds_depend_on_patients_structures_and_seed_alone() -> None:
    patients = _patients(12)
    folds = deal_folds(patients, 4, seed=(5,))
    assert deal_folds(dict(reversed(patients.items())), 4, seed=(5,)) == folds
    others = [deal_folds(patients, 4, seed=(seed,)) for seed in range(6, 12)]
    assert folds not in others
    # Pinned: a folder made by one version is gone on with by the next.
    assert deal_folds(_patients(5), 2) == (("p01", "p02", "p03"), ("p00", "p04"))


def test_rare_structures_are_trained_in_every_fold() -> None:
    """Three rare structures of two patients each, overlapping in a chain, in every order."""
    rare = [{3, 4}, {3}, {4, 5}, {5}, set(), set(), set(), set()]
    for seed in range(30):
        order = np.random.default_rng(seed).permutation(8)
        patients = {f"p{i}": frozenset({1, *rare[k]}) for i, k in enumerate(order)}
        for count in (2, 3, 4, 8):
            folds = deal_folds(patients, count, seed=(seed,))
            assert untrained_structures(patients, folds) == []


def test_a_structure_of_one_patient_is_untrained_where_that_patient_is_held_out() -> None:
    patients = _patients(6) | {"p03": frozenset({1, 2, 7})}
    folds = deal_folds(patients, 3)
    held_out = next(i for i, fold in enumerate(folds) if "p03" in fold)
    assert untrained_structures(patients, folds) == [(held_out, 7)]


def test_common_structures_are_spread_evenly() -> None:
    """Of eight patients four show the left side only: each of four folds gets one."""
    patients = {f"p{i}": frozenset({1} if i < 4 else {2}) for i in range(8)}
    for seed in range(10):
        for fold in deal_folds(patients, 4, seed=(seed,)):
            assert {value for p in fold for value in patients[p]} == {1, 2}


def test_patients_without_any_structure_are_dealt_too() -> None:
    patients = {f"p{i}": frozenset[int]() for i in range(5)}
    assert sorted(len(f) for f in deal_folds(patients, 2)) == [2, 3]
    with pytest.raises(ValueError, match="cannot be dealt"):
        deal_folds(patients, 6)
