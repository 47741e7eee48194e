"""One scan under two names: who is one patient, and what of it must not be trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from medssl.data.datasets.case import Case
from medssl.data.datasets.contents import Contents
from medssl.data.datasets.decathlon_header import read_json
from medssl.data.datasets.resemblance import NEARLY, PARTLY, known_of
from medssl.data.datasets.split import ROLES, LeftOut, Splits
from medssl.errors import MedSSLError

HELD_BACK = ("test", "validation")
"""Roles whose scans are not trained on, the more important first."""


def patient_groups(cases: Iterable[Case], contents: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Put together the scans of one person: those of one patient, and copies under other names.

    Args:
        cases: any scans, unlabeled ones included.
        contents: hashes of the voxels by case id, as
            :meth:`medssl.data.datasets.contents.Contents.all_of` gives them; copies share one.

    Returns:
        The group of each case id: the name of its first patient in the order of ``cases``.
    """
    parent: dict[str, str] = {}

    def top(patient: str) -> str:
        while parent[patient] != patient:
            parent[patient] = parent[parent[patient]]
            patient = parent[patient]
        return patient

    cases = list(cases)
    place: dict[str, int] = {}
    first: dict[str, str] = {}
    for case in cases:
        parent.setdefault(case.patient, case.patient)
        place.setdefault(case.patient, len(place))
        for content in contents.get(case.id, ()):
            one, other = sorted(
                (top(first.setdefault(content, case.patient)), top(case.patient)),
                key=place.__getitem__,
            )
            parent[other] = one
    return {case.id: top(case.patient) for case in cases}


def contents_of(splits: Splits, contents: Contents) -> dict[str, tuple[str, ...]]:
    """Return what :func:`find_copies` compares of each scan, held-back ones against all.

    Raises:
        MedSSLError: a file cannot be read.
    """
    everyone = [case for role in ROLES for case in getattr(splits, role)]
    held = [case.id for role in HELD_BACK for case in getattr(splits, role)]
    return known_of(everyone, contents, held)


def find_copies(
    splits: Splits, contents: Mapping[str, Sequence[str]], *, transductive: bool = False
) -> tuple[LeftOut, ...]:
    """Find what would be trained on though it shows a patient of the validation or test set.

    A copy of a test scan is found among validation, labeled and unlabeled cases; one of a
    validation scan among labeled and unlabeled ones. With a copy, all scans of its patient are
    found: they are of the same person.

    Args:
        splits: as :func:`medssl.data.datasets.split.make_splits` makes them.
        contents: hashes of the voxels by case id, see :func:`patient_groups`, perhaps
            :func:`medssl.data.datasets.resemblance.with_resembling`.
        transductive: images of test patients may serve as unlabeled ones.
    """
    order = (*HELD_BACK, *(role for role in ROLES if role not in HELD_BACK))
    cases = [(role, case) for role in order for case in getattr(splits, role)]
    groups = patient_groups((case for _, case in cases), contents)
    kept: dict[str, tuple[str, Case]] = {}
    exact: dict[str, tuple[str, Case]] = {}
    found = []
    for role, case in cases:
        owner = kept.get(groups[case.id])
        if owner is not None and owner[0] != role:
            if transductive and (role, owner[0]) == ("unlabeled", "test"):
                continue
            own = contents.get(case.id, ())
            shared = next((content for content in own if content in exact), None)
            as_role, first = owner if shared is None else exact[shared]
            nearly, partly = ((shared or "").startswith(how) for how in (NEARLY, PARTLY))
            same = shared is not None and not (nearly or partly)
            found.append(LeftOut(case.id, role, first.id, as_role, same, nearly, partly))
        elif role in HELD_BACK:
            kept.setdefault(groups[case.id], (role, case))
            for content in contents.get(case.id, ()):
                exact.setdefault(content, (role, case))
    return tuple(found)


def without(splits: Splits, left_out: Sequence[LeftOut]) -> Splits:
    """Return the splits without some of their cases, of which they keep a record."""
    gone = {(found.role, found.case) for found in left_out}
    roles = {r: tuple(c for c in getattr(splits, r) if (r, c.id) not in gone) for r in ROLES}
    return replace(splits, **roles, left_out=(*splits.left_out, *left_out))


def recorded_copies(path: Path) -> tuple[LeftOut, ...]:
    """Return what ``splits.json`` says was left out; nothing if it says nothing of the kind."""
    try:
        entries = read_json(path)[0].get("left_out", [])
        return tuple(LeftOut(**entry) for entry in entries)
    except (MedSSLError, TypeError):
        return ()
