"""Whose turn it is, where two averages of one student follow it by turns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Turn:
    """Where an iteration stands among the turns.

    Attributes:
        active: 0 or 1, who follows the student; 0 begins.
        updates: how often the active one has followed it before.
    """

    active: int
    updates: int


def draw_turns(
    total: int, longest: int, rng: np.random.RandomState, *, random: bool = True
) -> np.ndarray:
    """Return the lengths of turns in iterations, as many as ``total`` iterations need at most.

    Args:
        total: iterations.
        longest: P; lengths are drawn uniformly from 1 to P.
        rng: draws them.
        random: False lets each turn last P iterations.

    Source: Zhao et al., AD-MT (ECCV 2024, arXiv 2311.17325), published code; there, a turn that is
    not random lasts one iteration.
    """
    if not random:
        return np.full(-(-total // longest), longest)
    return rng.randint(1, longest + 1, size=total)


def turn_at(iteration: int, lengths: np.ndarray) -> Turn:
    """Return whose turn a 0-based iteration is.

    Args:
        iteration: below the sum of the lengths.
        lengths: of the turns in iterations, in order.
    """
    ends = np.cumsum(lengths)
    number = int(np.searchsorted(ends, iteration, side="right"))
    into = iteration - (int(ends[number - 1]) if number else 0)
    return Turn(number % 2, int(lengths[number % 2 : number : 2].sum()) + into)
