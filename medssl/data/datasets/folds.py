"""Deal the patients with labels into folds, so that every label both trains and judges.

The folds are a pure function of the patients, the structures that each of them shows, and a seed:
the same call always means the same folds, whichever machine makes it and however often.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from medssl.errors import MedSSLError

ALL = "all"
"""As a number of folds: as many as patients, each alone (leave one out)."""
FEWEST_PATIENTS = 3
_USUAL, _FEW, _ONE_BY_ONE = 5, 4, 5
"""Folds from ten patients on; folds of six to nine; so many patients are left out one by one."""
_TRIES = 64
"""Deals that are tried, each from another shuffle, until none leaves a structure untrained."""


def number_of_folds(patients: int, asked: int | str | None = None) -> int:
    """Return the number of folds for so many patients with labels.

    Five; four for six to nine patients; with three to five, every patient alone is a fold.

    Args:
        patients: at least three.
        asked: what the user wants instead: a number from 2 to that of the patients, or ``all``.

    Raises:
        MedSSLError: too few patients, or a number out of range.
    """
    if patients < FEWEST_PATIENTS:
        raise MedSSLError(
            f"{patients} patients with labels are too few for cross-validation: two patients give "
            "no verdict",
            where="data.labeled",
            fix=f"label at least {FEWEST_PATIENTS} patients, or raise data.labeled where there are",
        )
    if asked == ALL:
        return patients
    if asked is None:
        if patients <= _ONE_BY_ONE:
            return patients
        return _FEW if patients < 2 * _USUAL else _USUAL
    if not isinstance(asked, int) or not 2 <= asked <= patients:
        raise MedSSLError(
            f"{patients} patients cannot be dealt into {asked} folds",
            where="--folds",
            fix=f"give a number from 2 to {patients}, or all to leave out one patient at a time",
        )
    return asked


def deal_folds(
    structures: Mapping[str, frozenset[int]], count: int, *, seed: Sequence[int] = (0,)
) -> tuple[tuple[str, ...], ...]:
    """Deal patients into folds of equal size (up to one), rare structures apart.

    The patients of the rarest structure are dealt first, each to the fold that has fewest of it, of
    these to the smallest, of these to the first of a seeded shuffle. Where that leaves a structure
    without a patient in some training part, though two patients have it, it is tried again from
    other shuffles; the best deal counts.

    Args:
        structures: what each patient shows, in any order.
        count: number of folds, from 2 to the number of patients.
        seed: of the shuffles.

    Returns:
        Patients of each fold, sorted; larger folds need not come first.

    Raises:
        ValueError: a number of folds out of range.

    Source: Sechidis, Tsoumakas and Vlahavas, On the stratification of multi-label data, ECML PKDD
    (2011), here with folds of equal size.
    """
    if not 2 <= count <= len(structures):
        raise ValueError(f"{len(structures)} patients cannot be dealt into {count} folds")
    best: tuple[int, tuple[tuple[str, ...], ...]] | None = None
    for attempt in range(_TRIES):
        folds = _deal(structures, count, np.random.default_rng([*seed, attempt]))
        faults = len(untrained_structures(structures, folds)) - len(_of_one_patient(structures))
        if best is None or faults < best[0]:
            best = faults, folds
        if not faults:
            break
    assert best is not None  # there is a first attempt
    return best[1]


def untrained_structures(
    structures: Mapping[str, frozenset[int]], folds: Sequence[Sequence[str]]
) -> list[tuple[int, int]]:
    """Return each (fold, structure) of which the other folds have no patient, sorted."""
    everything = frozenset().union(*structures.values())
    found = []
    for index, fold in enumerate(folds):
        rest = structures.keys() - set(fold)
        trained = frozenset().union(*(structures[p] for p in rest))
        found += [(index, value) for value in sorted(everything - trained)]
    return found


def _of_one_patient(structures: Mapping[str, frozenset[int]]) -> list[int]:
    """Return the structures that only one patient shows, which no deal can help."""
    counts = Counter(value for shown in structures.values() for value in shown)
    return [value for value, patients in counts.items() if patients == 1]


def _deal(
    structures: Mapping[str, frozenset[int]], count: int, rng: np.random.Generator
) -> tuple[tuple[str, ...], ...]:
    patients = [str(p) for p in rng.permutation(np.array(sorted(structures), dtype=object))]
    tie = [int(i) for i in rng.permutation(count)]
    least, larger = divmod(len(patients), count)
    folds: list[list[str]] = [[] for _ in range(count)]
    left = dict.fromkeys(patients)
    while left:
        remaining = Counter(value for p in left for value in structures[p])
        rarest = min(remaining, key=lambda v: (remaining[v], v), default=None)
        for patient in [p for p in left if rarest is None or rarest in structures[p]]:
            full = sum(len(f) > least for f in folds)
            room = [i for i in tie if len(folds[i]) < least + (full < larger)]

            def load(index: int, value: int | None = rarest) -> tuple[int, int]:
                own = folds[index]
                return sum(value in structures[p] for p in own), len(own)

            folds[min(room, key=load)].append(patient)
            del left[patient]
    return tuple(tuple(sorted(fold)) for fold in folds)
