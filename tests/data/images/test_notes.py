"""What is odd about many headers is told once for each kind."""

from __future__ import annotations

from medssl.data.images.notes import told_once


def test_notes_that_differ_in_numbers_alone_are_one_kind() -> None:
    notes = ["", "voxels of 1.5 x 8 mm, not 1", "no code", "voxels of 1.25 x 10 mm, not 1", ""]
    assert told_once(notes) == [(1, 2), (2, 1)]
    assert told_once(["", ""]) == told_once([]) == []
