"""Turns: their lengths, whose they are, and how often each has had one."""

from __future__ import annotations

import numpy as np

from medssl.ops.turns import Turn, draw_turns, turn_at


def test_lengths_lie_between_one_and_the_longest_and_suffice() -> None:
    drawn = draw_turns(500, 7, np.random.RandomState(3))
    assert set(drawn.tolist()) == set(range(1, 8))
    assert drawn.sum() >= 500
    assert draw_turns(10, 4, np.random.RandomState(3), random=False).tolist() == [4, 4, 4]


def test_updates_are_those_of_whoever_is_active() -> None:
    lengths = np.array([2, 1, 3, 4])
    found = [turn_at(i, lengths) for i in range(10)]
    whose = [0, 0, 1, 0, 0, 0, 1, 1, 1, 1]
    assert found == [Turn(w, whose[:i].count(w)) for i, w in enumerate(whose)]


def test_turns_longer_than_the_run_leave_one_teacher() -> None:
    lengths = draw_turns(5, 9, np.random.RandomState(0), random=False)
    assert [turn_at(i, lengths) for i in range(5)] == [Turn(0, i) for i in range(5)]
