"""Whose turn it is: RAIL's alternation of two groups, as pure functions of the iteration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Alternation = Literal["turn", "buffer"]


@dataclass(frozen=True)
class Turn:
    """A stretch of iterations that trains one group on consecutive batches.

    Attributes:
        group: which group.
        first_term: whether it is the group's first turn.
        first_batch: number of the first batch; the others follow.
        batches: how many batches, one iteration each.
        group_iteration: iterations the group has had before.
    """

    group: int
    first_term: bool
    first_batch: int
    batches: int
    group_iteration: int

    @property
    def last_batch(self) -> int:
        """Number of the last batch; when the turn starts, it has just been loaded."""
        return self.first_batch + self.batches - 1


@dataclass(frozen=True)
class Position:
    """Where one iteration stands in the alternation.

    Attributes:
        group: the group that is trained.
        group_iteration: iterations this group has had before.
        batch: number of the batch to use.
        loaded: number of the newest batch loaded by then (official learning rate).
        first_term: whether the iteration belongs to the group's first turn.
    """

    group: int
    group_iteration: int
    batch: int
    loaded: int
    first_term: bool


def buffered_turn(number: int, turn_length: int, loaded: int | None = None) -> Turn:
    """Return turn ``number`` of the published loop.

    An epoch loads ``turn_length`` batches into a buffer; then one group, in alternation, trains on
    the whole buffer, which keeps two epochs. Turn 0 is one epoch, all others are two: every batch
    is used once by each group. Loading stops after batch ``loaded``; the group whose turn that
    would be is skipped and the other trains once more on the buffer.

    Args:
        number: 0-based.
        turn_length: batches of an epoch, L.
        loaded: number of the last batch loaded; None: no end.

    Source: Zhao et al. (RAIL, 2025), published code.
    """
    first = max(number - 1, 0) * turn_length
    if loaded is None or number < loaded // turn_length:
        batches = turn_length if number == 0 else 2 * turn_length
        return Turn(number % 2, number < 2, first, batches, first)
    return Turn((number + 1) % 2, number == 0, first, loaded + 1 - first, number * turn_length)


def buffered_turns(turn_length: int, loaded: int) -> list[Turn]:
    """Return all turns of a run that loads batches 0 to ``loaded``."""
    count = loaded // turn_length + 1
    return [buffered_turn(k, turn_length, loaded) for k in range(count)]


def buffered_iterations(turn_length: int, loaded: int) -> int:
    """Return the iterations of both groups together in such a run."""
    return sum(turn.batches for turn in buffered_turns(turn_length, loaded))


def buffered_position(iteration: int, turn_length: int, loaded: int | None = None) -> Position:
    """Return where a 0-based iteration (of both groups together) of the published loop stands."""
    number = 0
    if iteration >= turn_length:
        number = 1 + (iteration - turn_length) // (2 * turn_length)
    if loaded is not None:
        # Whatever follows the last full epoch belongs to the last turn.
        number = min(number, loaded // turn_length)
    start = 0 if number == 0 else (2 * number - 1) * turn_length
    turn = buffered_turn(number, turn_length, loaded)
    offset = iteration - start
    return Position(
        turn.group,
        turn.group_iteration + offset,
        turn.first_batch + offset,
        turn.last_batch,
        turn.first_term,
    )


def alternating_position(
    iteration: int, *, groups: int, turn_length: int, first_term: int
) -> Position:
    """Return where an iteration stands when groups take turns on new batches, without a buffer.

    Args:
        iteration: 0-based, of all groups together.
        groups: how many.
        turn_length: iterations of a turn.
        first_term: iterations of each group that count as its first term.
    """
    turn, offset = divmod(iteration, turn_length)
    group_iteration = turn // groups * turn_length + offset
    return Position(
        turn % groups, group_iteration, iteration, iteration, group_iteration < first_term
    )


def batches_to_load(iterations: int, turn_length: int) -> int:
    """Return about how many batches an endless buffered run of ``iterations`` loads."""
    return max((iterations + turn_length) // 2, 1)
