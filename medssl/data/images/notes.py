"""Tell once per dataset what is odd about many of its headers."""

from __future__ import annotations

import re
from collections.abc import Sequence


def told_once(notes: Sequence[str]) -> list[tuple[int, int]]:
    """Return for each kind of note the index of its first and how many there are.

    Args:
        notes: of each image; empty where there is nothing to tell. Notes that differ in their
            numbers alone are of one kind.
    """
    first: dict[str, int] = {}
    counts: dict[str, int] = {}
    for index, note in enumerate(notes):
        if note:
            kind = re.sub(r"[\d.]+", "#", note)
            first.setdefault(kind, index)
            counts[kind] = counts.get(kind, 0) + 1
    return [(index, counts[kind]) for kind, index in first.items()]
