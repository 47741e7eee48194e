"""What a run writes down while it trains: metrics.jsonl, its trackers, and the display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medssl.progress import Display
from medssl.runs.folder import RunFolder
from medssl.trackers.trackers import Trackers
from medssl.training.state import State


class Records:
    """Write each number to every place where it is looked for.

    Args:
        run: its folder.
        display: shows progress.
        loggers: names of trackers, see :class:`medssl.trackers.trackers.Trackers`.
    """

    def __init__(self, run: RunFolder, display: Display, loggers: Sequence[str]) -> None:
        self.run, self.display = run, display
        self.trackers = Trackers(loggers, run, display.say)

    def step(
        self, stage: str, total: int, state: State, lr: float, speed: float, terms: Mapping
    ) -> None:
        """Record the means of the last iterations."""
        if not self.run.writes:
            return
        where = {"step": state.step, "stage": stage, "iteration": state.iteration}
        self.run.append_metrics(
            {**where, "lr": lr, "iterations_per_second": round(speed, 4), **terms}
        )
        values = {**terms, "lr": lr, "iterations_per_second": speed}
        self.trackers.scalars(values, state.step)
        self.display.numbers(stage, state.iteration, total, speed, terms)

    def validation(
        self,
        stage: str,
        state: State,
        dice: float,
        seconds: float,
        *,
        best: bool,
        terms: Mapping[str, float],
    ) -> None:
        """Record a validation, with what the method says about itself in ``terms``."""
        if not self.run.writes:
            return
        where = {"step": state.step, "stage": stage, "iteration": state.iteration}
        values = {"validation/dice": dice, **terms}
        self.run.append_metrics({**where, **values, "validation/seconds": round(seconds, 3)})
        self.trackers.scalars(values, state.step)
        self.display.validated(stage, state.iteration, dice, best=best)

    def close(self) -> None:
        """Close the trackers."""
        self.trackers.close()
