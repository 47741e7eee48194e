"""Where a run stands, and how it is asked to stop."""

from __future__ import annotations

import signal
from dataclasses import asdict, dataclass, field, fields
from types import FrameType, TracebackType
from typing import Any

STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)
"""What asks a run to save and end. SIGUSR1 is what SLURM sends ahead of a limit, if told to."""


@dataclass
class State:
    """Where a run stands; with weights and optimizers, all that a resumed run needs.

    ``iteration`` counts the finished iterations of stage number ``stage``, ``step`` those of all;
    ``ended`` marks a stage that early stopping cut short or that was taken from another run;
    ``skipped`` counts iterations whose loss or gradient was not finite; ``exchanged`` is the
    ``step`` of the last exchange with other sites.
    """

    stage: int = 0
    iteration: int = 0
    step: int = 0
    ended: bool = False
    best: float | None = None
    stale: int = 0
    seconds: float = 0.0
    bests: dict[str, float] = field(default_factory=dict)
    skipped: int = 0
    skipped_in_row: int = 0
    exchanged: int = 0

    def start_stage(self, index: int) -> None:
        """Stand before the first iteration of stage number ``index``."""
        self.stage, self.iteration, self.ended = index, 0, False
        self.best, self.stale = None, 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> State:
        """Read what :meth:`to_dict` wrote; what an older version did not know is as at first."""
        return cls(**{f.name: data[f.name] for f in fields(cls) if f.name in data})


class SignalCatcher:
    """While entered, note a signal so that the loop can save; a second one stops at once.

    A repeated SIGUSR1 is a reminder, no more: a queue may send it to every process of a job, and to
    the job's shell, which may pass it on.

    Attributes:
        caught: number of the signal that came, or None.
    """

    def __init__(self) -> None:
        self.caught: int | None = None
        self._earlier: dict[int, Any] = {}

    def __enter__(self) -> SignalCatcher:
        try:
            for signum in STOP_SIGNALS:
                self._earlier[signum] = signal.signal(signum, self._note)
        except ValueError:  # not the main thread: whoever runs that one owns the signals
            pass
        return self

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        reminder = signum == getattr(signal, "SIGUSR1", None)
        if self.caught is not None and not reminder:
            raise KeyboardInterrupt
        self.caught = self.caught or signum

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for signum, handler in self._earlier.items():
            signal.signal(signum, handler)
