"""What the launchers are handed: a piece of work that they start, watch and start again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from medssl.progress import Display

Call = Callable[[Display], object]
"""Does the work of a job from where it stands, and shows it on the display it is given.

Called again after it was stopped, it goes on. For a queue it must be picklable: a frozen dataclass
of plain values, defined in a module.
"""


@dataclass(frozen=True)
class Job:
    """A piece of work that can be stopped and started again.

    Attributes:
        name: what messages call it; no other job of one launch has it.
        call: does it in this process, or in a job of a queue.
        arguments: the same as arguments of the command line ``medssl``, for a process of its own.
        is_finished: says whether nothing is left to do, whoever did it.
    """

    name: str
    call: Call
    arguments: tuple[str, ...]
    is_finished: Callable[[], bool]


@dataclass
class Outcome:
    """What became of the jobs: reasons of failure by name, and the signal that stopped all.

    ``queued`` counts those that are left in a queue.
    """

    failures: dict[str, str] = field(default_factory=dict)
    stopped: int | None = None
    queued: int = 0
