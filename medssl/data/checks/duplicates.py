"""Find scans and labels that are there twice, under whatever name, format or intensity scale."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from medssl.data.checks.case_facts import CaseFacts
from medssl.data.checks.measures import THUMBNAIL
from medssl.data.checks.sketches import near_pairs
from medssl.data.datasets.problem import Problem
from medssl.data.datasets.resemblance import with_parts

Reader = Callable[[CaseFacts], np.ndarray | None]
"""Reads the thumbnail of a case once more; None if that is not possible."""


def duplicate_problems(facts: Sequence[CaseFacts], read: Reader) -> list[Problem]:
    """Compare every case with every other, across labeled, unlabeled and test cases."""
    found, exact = _exact(facts)
    near = list(_near(facts, exact, read))
    named = {problem.case for problem in near}
    parts = (problem for problem in _parts(facts, exact) if problem.case not in named)
    return [*found, *near, *parts, *_labels(facts, exact)]


def exact_groups(facts: Sequence[CaseFacts]) -> list[list[CaseFacts]]:
    """Return the groups of two and more cases whose image voxels are equal."""
    groups: list[list[CaseFacts]] = []
    place: dict[str, list[CaseFacts]] = {}
    for f in facts:
        if not f.levels:  # constant images are equal, but that is another fault
            continue
        group = next((place[h] for h in f.image_hashes if h in place), None)
        if group is None:
            group = []
            groups.append(group)
        group.append(f)
        place |= {h: place.get(h, group) for h in f.image_hashes}
    return [g for g in groups if len(g) > 1]


def _role(facts: CaseFacts) -> str:
    return f"{facts.role} case '{facts.case.id}'"


def _fix(first: CaseFacts, second: CaseFacts) -> str:
    if first.role != second.role and "test" in (first.role, second.role):
        return "take one out of dataset.json: a test on scans that were trained on means nothing"
    if second.role == "unlabeled" and first.role != "test":
        return "take it out of dataset.json"
    return "take one out of dataset.json, or make them one patient so that no split parts them"


def _exact(facts: Sequence[CaseFacts]) -> tuple[list[Problem], set[tuple[str, str]]]:
    found, pairs = [], set()
    for group in exact_groups(facts):
        first = group[0]
        pairs |= {(a.case.patient, b.case.patient) for a in group for b in group}
        for other in group[1:]:
            found.append(
                Problem(
                    "warning",
                    other.case.images[0],
                    f"the {_role(other)} has exactly the voxels of the {_role(first)}",
                    _fix(first, other),
                    "duplicate",
                    other.case.id,
                )
            )
    return found, pairs


def _near(
    facts: Sequence[CaseFacts], exact: set[tuple[str, str]], read: Reader
) -> Iterator[Problem]:
    """Find scans of different patients that are one scan rescaled, resampled or turned.

    Each is named once, with the first that it is like.
    """
    usable = [f for f in facts if f.sketch is not None]

    def is_known(i: int, j: int) -> bool:
        # Frames of one heart are alike by nature, and so are those of a patient found twice.
        one, other = usable[i].case.patient, usable[j].case.patient
        return one == other or (other, one) in exact

    pairs = near_pairs(
        [f.sketch for f in usable if f.sketch is not None],
        lambda number: read(usable[number]),
        pass_over=is_known,
        first_only=True,
    )
    for i, j, correlation in pairs:
        first, other = usable[j], usable[i]
        yield Problem(
            "warning",
            other.case.images[0],
            f"the {_role(other)} is nearly the {_role(first)} (correlation "
            f"{correlation:.4f} at {THUMBNAIL} x {THUMBNAIL} x {THUMBNAIL} voxels)",
            "if it is one scan, take one out; if one patient, give both items the same "
            '"patient" in dataset.json',
            "near_duplicate",
            other.case.id,
        )


def _parts(facts: Sequence[CaseFacts], exact: set[tuple[str, str]]) -> Iterator[Problem]:
    """Find scans of different patients of which one was cut out of the other.

    Each is named once, with the first that it is like.
    """
    by_id = {f.case.id: f for f in facts}
    order = {case: number for number, case in enumerate(by_id)}
    marks = {case: f.marks for case, f in by_id.items()}
    named = set()
    for kept, case in with_parts(marks, by_id):
        first, other = by_id[kept], by_id[case]
        one, two = first.case.patient, other.case.patient
        if order[case] < order[kept] or one == two or (one, two) in exact or case in named:
            continue
        named.add(case)
        yield Problem(
            "warning",
            other.case.images[0],
            f"the {_role(other)} is a cropped or padded copy of the {_role(first)}",
            _fix(first, other),
            "part",
            other.case.id,
        )


def _labels(facts: Sequence[CaseFacts], exact: set[tuple[str, str]]) -> Iterator[Problem]:
    """Find one label map used for two different scans."""
    seen: dict[str, CaseFacts] = {}
    for f in facts:
        if not f.label_hash or not f.structures or f.case.label is None:
            continue
        first = seen.setdefault(f.label_hash, f)
        if first is f or (first.case.patient, f.case.patient) in exact:
            continue
        assert first.case.label is not None
        yield Problem(
            "warning",
            f.case.label,
            f"the label has exactly the voxels of {first.case.label.name}, but the scans differ",
            "find out which of the two scans it belongs to",
            "duplicate_label",
            f.case.id,
        )
