"""One scan under two names: who is one patient, and what of it must not be trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from medssl.data.datasets.case import Case
from medssl.data.datasets.contents import Contents
from medssl.data.datasets.decathlon_header import read_json
from medssl.data.datasets.split import ROLES, LeftOut, Splits
from medssl.errors import MedSSLError

HELD_BACK = ("test", "validation")
"""Roles whose scans are not trained on, the more important first."""

ALIKE = 0.05
"""Scans whose looks differ in a smaller share of signs are one: of two people's hippocampi, hearts
or atria 0.29 or more differ, of two phantoms 0.19."""

_NEARLY = "nearly "
"""Begins what stands among the hashes of two scans that look alike."""


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
    """Return what :func:`find_copies` compares of each scan: hashes of voxels, and looks if known.

    Raises:
        MedSSLError: a file cannot be read.
    """
    everyone = [case for role in ROLES for case in getattr(splits, role)]
    hashes = {case.id: contents.all_of(case) for case in everyone}
    return with_looks(splits, hashes, {case.id: contents.look_of(case) for case in everyone})


def with_looks(
    splits: Splits, contents: Mapping[str, Sequence[str]], looks: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """Return the hashes with one more for each held-back scan and those that look as it does.

    Args:
        splits: as for :func:`find_copies`.
        contents: hashes of the voxels by case id.
        looks: by case id, as :meth:`medssl.data.datasets.contents.Contents.look_of` gives them;
            empty where nothing is known.
    """
    out = {case: tuple(hashes) for case, hashes in contents.items()}
    numbers = {case: (int(text, 16), 4 * len(text)) for case, text in looks.items() if text}
    held = [c.id for role in HELD_BACK for c in getattr(splits, role) if c.id in numbers]
    for kept in held:
        own, bits = numbers[kept]
        alike = [
            case
            for case, (other, n) in numbers.items()
            # Of a negative, all signs are turned.
            if n == bits and not ALIKE * n < (own ^ other).bit_count() < (1 - ALIKE) * n
        ]
        for case in alike if len(alike) > 1 else ():
            out[case] = (*out.get(case, ()), _NEARLY + kept)
    return out


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
            :func:`with_looks`.
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
            nearly = shared is not None and shared.startswith(_NEARLY)
            same = shared is not None and not nearly
            found.append(LeftOut(case.id, role, first.id, as_role, same, nearly))
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
