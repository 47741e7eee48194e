"""What a run writes down while it trains: metrics.jsonl, TensorBoard, and the display."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medssl.progress import Display
from medssl.runs.folder import RunFolder
from medssl.training.state import State


class Records:
    """Write each number to every place where it is looked for."""

    def __init__(self, run: RunFolder, display: Display) -> None:
        self.run, self.display = run, display
        self._writer: Any = None

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
        for key, value in {**terms, "lr": lr, "iterations_per_second": speed}.items():
            self._tensorboard(state).add_scalar(key, value, state.step)
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
        for key, value in values.items():
            self._tensorboard(state).add_scalar(key, value, state.step)
        self.display.validated(stage, state.iteration, dice, best=best)

    def _tensorboard(self, state: State) -> Any:
        """Open TensorBoard late, since its import takes a second."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.run.tensorboard), purge_step=state.step)
        return self._writer

    def close(self) -> None:
        """Close TensorBoard's file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
