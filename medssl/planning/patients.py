"""How many patients are labeled, held back for validation, and held back for the test."""

from __future__ import annotations

from dataclasses import dataclass

from medssl.data.datasets.folds import FEWEST_PATIENTS, number_of_folds

TEST_SHARE = 0.2
MOST_TEST = 40
CROSSVAL_BELOW = 20
"""With fewer patients that have labels, each both trains and judges: cross-validation."""
VALIDATION_FROM = 20
"""From so many labeled patients on, some of them choose the checkpoint."""

MOST_VALIDATION = 10


@dataclass(frozen=True)
class PatientCounts:
    """Numbers of patients as in a recipe's ``data``, each with its reason."""

    labeled: int | None
    validation: int
    test: int
    labeled_reason: str
    validation_reason: str
    test_reason: str
    folds: int | None = None
    """Folds that the patients with labels are to be dealt into, in place of a test."""


def choose_patients(
    patients: int, labeled: int | None, *, unlabeled: int = 0, uses_unlabeled: bool = True
) -> PatientCounts:
    """Divide the patients that have labels.

    With fewer than ``CROSSVAL_BELOW`` of them none is held back: two or three test patients would
    tell nothing, and each is missed in training. ``medssl crossval`` then trains on all.

    Args:
        patients: patients with labels.
        labeled: how many of them are to be used with their labels; None: all that are not tested.
        unlabeled: cases without labels.
        uses_unlabeled: the method needs at least one unlabeled case.
    """
    test = min(MOST_TEST, max(1, round(TEST_SHARE * patients)))
    needed = 1 if labeled is None else labeled
    if uses_unlabeled and not unlabeled and labeled is not None:
        needed += 1
    test = max(0, min(test, patients - needed))
    dealt = patients if labeled is None else min(labeled, patients)
    folds = None
    if patients < CROSSVAL_BELOW and dealt >= FEWEST_PATIENTS:
        test, folds = 0, number_of_folds(dealt)
    training = patients - test if labeled is None else labeled
    validation = 0
    if training >= VALIDATION_FROM:
        validation = min(MOST_VALIDATION, training // 5)
    first, second, third = _reasons(patients, labeled, training, validation, test)
    if folds is not None:
        third = f"none: with {dealt} labeled patients, medssl crossval judges by each of them"
    return PatientCounts(labeled, validation, test, first, second, third, folds)


def _reasons(
    patients: int, labeled: int | None, training: int, validation: int, test: int
) -> tuple[str, str, str]:
    if labeled is None:
        first = "all patients with labels that are not held back below"
    else:
        first = f"of {patients} patients with labels; the labels of the others stay hidden"
    if validation:
        second = f"of the {training} labeled patients: they choose the best moment of training"
    else:
        second = f"none: with {training} labeled patients, each is worth more in training"
    if test:
        third = "patients never seen in training: only they tell how good the result is"
    else:
        third = "no patient can be spared: nothing will tell how good the result is"
    return first, second, third
