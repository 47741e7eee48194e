"""The one progress: a bar with numbers on a terminal, a few lines elsewhere, nothing when quiet."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

logger = logging.getLogger(__name__)

QUIET_SECONDS = 60.0
"""Without a terminal, report at most this often between validations."""


Done = Callable[[str], None]
"""Told the name of each item, a case's id for instance, when it is finished."""
PartDone = Callable[[str, int, int], None]
"""Told the name of the item at work, how many of its parts are done, and of how many."""


class _Left(ProgressColumn):
    """The time that is left of the bar and of ``later`` steps after it, at the bar's speed."""

    max_refresh = 0.5

    def __init__(self, later: int) -> None:
        super().__init__()
        self.later = later

    def render(self, task: Task) -> Text:
        """Return hours, minutes and seconds; dashes until there is a speed."""
        if not task.speed or task.remaining is None:
            return Text("-:--:--", style="progress.remaining")
        left = timedelta(seconds=round((task.remaining + self.later) / task.speed))
        return Text(str(left), style="progress.remaining")


class Display:
    """Show progress on ``console``; everything shown is also in log.txt and metrics.jsonl."""

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self.console = console or Console(stderr=True)
        self.live = self.console.is_terminal and not quiet
        self.quiet = quiet
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._last_line = 0.0
        self._later = 0
        self._dice: float | None = None
        self._text = Text()

    def say(self, message: str) -> None:
        """Print one line, unless quiet; log it always."""
        logger.info(message)
        if not self.quiet:
            # As text, whatever brackets and colons it holds.
            self.console.print(Text(message), soft_wrap=True)

    @contextmanager
    def stage(self, name: str, total: int, done: int, *, later: int = 0) -> Iterator[None]:
        """Show the bar of a training stage.

        Args:
            name: of the stage.
            total: its iterations.
            done: how many of them are.
            later: iterations of the stages that follow; the time that is left counts them.
        """
        self._dice, self._later = None, later
        if not self.live:
            self._last_line = time.monotonic()
            yield
            return
        columns = (
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            _Left(later),
        )
        self._progress = Progress(*columns, console=self.console)
        self._task = self._progress.add_task(name, total=total, completed=done, speed="")
        self._text = Text(style="dim")
        with Live(Group(self._progress, self._text), console=self.console, refresh_per_second=4):
            yield
        self._progress = self._task = None

    def advance(self, iteration: int) -> None:
        """Move the bar to ``iteration`` iterations done."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=iteration)

    def numbers(
        self, stage: str, iteration: int, total: int, speed: float, terms: Mapping[str, float]
    ) -> None:
        """Show the newest loss terms and speed."""
        text = describe_terms(terms)
        if self._dice is not None:
            text += f"  validation Dice {self._dice:.3f}"
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, speed=f"{speed:.2f} it/s")
            self._text.plain = text
        elif time.monotonic() - self._last_line > QUIET_SECONDS:
            self._last_line = time.monotonic()
            left = (total - iteration + self._later) / max(speed, 1e-9)
            self.say(
                f"{stage} {iteration}/{total}  {speed:.2f} it/s  {left / 60:.1f} min left  {text}"
            )

    def validated(self, stage: str, iteration: int, dice: float, *, best: bool) -> None:
        """Report a validation."""
        self._dice = dice
        self.say(
            f"{stage} {iteration}: validation Dice {dice:.4f}{' (best so far)' if best else ''}"
        )

    @contextmanager
    def counting(self, description: str, total: int) -> Iterator[Done]:
        """Show a bar over ``total`` items; call the yielded function once per finished item."""
        with self.counting_parts(description, total) as (done, _):
            yield done

    @contextmanager
    def counting_parts(self, description: str, total: int) -> Iterator[tuple[Done, PartDone]]:
        """Show a bar over items and, under it, one over the parts of the present item.

        Yields:
            A function to call once per finished item with its name, and one to call with the name
            of the present item, its parts done and their total.
        """
        if not self.live or total == 0:
            yield (lambda _name: None), (lambda _name, _done, _total: None)
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[item]}", markup=False),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(description, total=total, item="")
            parts = progress.add_task("", visible=False, item="")

            def finished(name: str) -> None:
                progress.update(task, advance=1, item=name)
                progress.update(parts, visible=False)

            def part(name: str, done: int, count: int) -> None:
                if progress.tasks[parts].total != count or done < progress.tasks[parts].completed:
                    progress.reset(parts)
                progress.update(
                    parts, description=f"  {name}", completed=done, total=count, visible=count > 1
                )

            yield finished, part


def describe_terms(terms: Mapping[str, float]) -> str:
    """Write terms such as ``loss/labeled`` in groups: ``loss: total 1.2, labeled 0.9``."""
    groups: dict[str, list[str]] = {}
    for key, value in terms.items():
        group, _, name = key.rpartition("/")
        groups.setdefault(group, []).append(f"{name} {value:.3f}")
    ordered = sorted(groups, key=lambda g: g != "loss")
    return "  ".join(f"{g}: {', '.join(groups[g])}" if g else ", ".join(groups[g]) for g in ordered)


_display: ContextVar[Display | None] = ContextVar("display", default=None)


@contextmanager
def shown_on(display: Display | None) -> Iterator[None]:
    """Let :func:`looking_at` inside show its progress on ``display``."""
    token = _display.set(display)
    try:
        yield
    finally:
        _display.reset(token)


def looking_at(paths: Sequence[Path], description: str) -> Iterator[Path]:
    """Go through files whose headers are read, with a progress bar where one is shown."""
    display = _display.get()
    if display is None:
        yield from paths
        return
    with display.counting(description, len(paths)) as done:
        for path in paths:
            yield path
            done(path.name)
