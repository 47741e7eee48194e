"""Which scans show one body though their voxels are not all the same."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from medssl.data.datasets.case import Case
from medssl.data.datasets.contents import Contents
from medssl.data.datasets.marks import LEAST

ALIKE = 0.05
"""Scans whose looks differ in a smaller share of signs are one: of two people's hippocampi, hearts
or atria 0.29 or more differ, of two phantoms 0.19."""

NEARLY, PARTLY = "nearly ", "partly "
"""Begin what stands among the hashes of two scans that look alike, or have a part in common."""


def known_of(
    cases: Iterable[Case], contents: Contents, anchors: Collection[str]
) -> dict[str, tuple[str, ...]]:
    """Return what tells which scans show one body: they have one of these in common.

    Args:
        cases: any scans.
        contents: reads them; one that was given looks tells copies that were changed, too.
        anchors: ids of the cases that others are held against where their voxels are not the same.

    Raises:
        MedSSLError: a file cannot be read.
    """
    cases = list(cases)
    hashes = {case.id: contents.all_of(case) for case in cases}
    looks = {case.id: contents.look_of(case) for case in cases}
    marks = {case.id: contents.marks_of(case) for case in cases}
    return with_resembling(hashes, looks, marks, anchors)


def with_resembling(
    contents: Mapping[str, Sequence[str]],
    looks: Mapping[str, str],
    marks: Mapping[str, Sequence[int]],
    anchors: Collection[str],
) -> dict[str, tuple[str, ...]]:
    """Return the hashes with one more for each anchor and those that look as it does, or that have
    a part of it.

    Args:
        contents: hashes of the voxels by case id.
        looks: by case id, as :meth:`medssl.data.datasets.contents.Contents.look_of` gives them;
            empty where nothing is known.
        marks: by case id, as :meth:`medssl.data.datasets.contents.Contents.marks_of` gives them.
        anchors: ids of the cases that others are held against.
    """
    out = {case: tuple(hashes) for case, hashes in contents.items()}
    alike = [(kept, case, NEARLY) for kept, case in _alike(looks, anchors)]
    parts = [(kept, case, PARTLY) for kept, case in with_parts(marks, anchors)]
    for kept, case, how in (*alike, *parts):
        if {*out.get(kept, ())}.isdisjoint(contents.get(case, ())):
            out[kept] = tuple(dict.fromkeys((*out.get(kept, ()), how + kept)))
            out[case] = (*out.get(case, ()), how + kept)
    return out


def in_words(shared: str, other: str) -> str:
    """Return what a scan is that has ``shared`` in common with another one, named ``other``."""
    if shared.startswith(PARTLY):
        return f"a cropped or padded copy of {other}"
    return f"a copy of {other}" + " in other intensities" * shared.startswith(NEARLY)


def _alike(looks: Mapping[str, str], anchors: Collection[str]) -> Iterator[tuple[str, str]]:
    numbers = {case: (int(text, 16), 4 * len(text)) for case, text in looks.items() if text}
    for kept in anchors:
        own, bits = numbers.get(kept, (0, 0))
        for case, (other, n) in numbers.items():
            # Of a negative, all signs are turned.
            same = n == bits and not ALIKE * n < (own ^ other).bit_count() < (1 - ALIKE) * n
            if same and case != kept:
                yield kept, case


def with_parts(
    marks: Mapping[str, Sequence[int]], anchors: Collection[str]
) -> Iterator[tuple[str, str]]:
    """Yield each anchor with each other case of which it is a part, or that is a part of it.

    Args:
        marks: by case id.
        anchors: ids of the cases that others are held against.
    """
    bearers: dict[int, list[str]] = {}
    for case, numbers in marks.items():
        for number in numbers:
            bearers.setdefault(number, []).append(case)
    for kept in anchors:
        shared: dict[str, int] = {}
        for number in marks.get(kept, ()):
            for case in bearers[number]:
                shared[case] = shared.get(case, 0) + 1
        for case, count in shared.items():
            if case != kept and count >= LEAST:
                yield kept, case
