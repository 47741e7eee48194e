"""The label-efficiency curve in one command: numbers of labels x methods x seeds, all else equal.

The patients' shuffle is fixed by ``data.split_seed``, so smaller labeled sets lie inside larger
ones and the test cases are the same throughout; a seed changes initial weights and patches. Labels
alone (``supervised``) are trained at every point. Each combination is a run folder
``OUTPUT/METHOD-LABELED-SEED``; what is finished is not repeated and what was interrupted is
resumed, so the same command continues a sweep, and one with more seeds extends it.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medssl.errors import MedSSLError
from medssl.report.sweep_jobs import Outcome, run_here, run_in_processes
from medssl.report.sweep_plan import Job, check_cases, check_folders, plan_sweep
from medssl.training.progress import Display

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepResult:
    """What a sweep leaves.

    Attributes:
        path: the folder.
        summary: what ``summary.json`` holds; empty before the first run is finished.
        failures: run -> reason.
        stopped: the signal that ended it early, or None.
        finished: number of finished runs.
        total: number of all runs.
    """

    path: Path
    summary: dict[str, Any]
    failures: dict[str, str] = field(default_factory=dict)
    stopped: int | None = None
    finished: int = 0
    total: int = 0


def sweep(
    recipe: str | Path,
    *,
    labeled: Sequence[int | str],
    seeds: int = 3,
    methods: Sequence[str] = (),
    overrides: Sequence[str] = (),
    output: Path | None = None,
    jobs: int = 1,
    device: str = "auto",
    precision: str | None = None,
    display: Display | None = None,
) -> SweepResult:
    """Train every combination that is not finished, and summarize all.

    Args:
        recipe: a recipe file, or the name of a shipped one.
        labeled: numbers of labeled patients; ``all`` is every label there is, for the baseline.
        seeds: seeds 0, 1, ... of each point.
        methods: by default the recipe's. The baseline is always added. Settings under ``method``
            and ``training.stages`` belong to the recipe's own method; others run on their defaults.
        overrides: ``section.key=value`` assignments for all.
        output: folder of the runs and the summary; by default ``runs/NAME-sweep``.
        jobs: how many runs to train at a time, in processes of their own if more than one.
        device, precision: as for `medssl.api.train`.

    Raises:
        MedSSLError: a combination that cannot work, before any training. A run that fails later
            does not stop the others: see ``failures``.
    """
    display = display or Display(quiet=True)
    planned = plan_sweep(
        recipe, labeled=labeled, seeds=seeds, methods=methods, overrides=overrides, output=output
    )
    folder = planned[0].path.parent
    check_folders(planned)
    check_cases(planned, display)
    if jobs < 1:
        raise MedSSLError(f"{jobs} runs at a time", where="--jobs", fix="give 1 or more")
    todo = [job for job in planned if not job.finished]
    display.say(
        f"sweep: {len(planned)} runs in {folder}, {len(planned) - len(todo)} of them finished"
    )
    with _only_one(folder):
        if jobs == 1:
            outcome = run_here(todo, recipe, device=device, precision=precision, display=display)
        else:
            outcome = run_in_processes(
                todo, recipe, at_once=jobs, device=device, precision=precision, display=display
            )
        summary = _summarize(planned, folder, recipe, outcome)
    return SweepResult(
        path=folder,
        summary=summary,
        failures=outcome.failures,
        stopped=outcome.stopped,
        finished=sum(job.finished for job in planned),
        total=len(planned),
    )


def _summarize(
    planned: Sequence[Job], folder: Path, recipe: str | Path, outcome: Outcome
) -> dict[str, Any]:
    from medssl.report.sweep_summary import summarize_sweep, write_sweep

    if not any(job.finished for job in planned):
        return {}
    summary = summarize_sweep(planned, recipe=str(recipe), failures=outcome.failures)
    write_sweep(summary, folder)
    return summary


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Keep a second sweep out of the folder while one runs; the lock dies with its process.

    Raises:
        MedSSLError: another sweep runs there, or the folder cannot be written.
    """
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise MedSSLError(
            f"cannot write: {error.strerror or error}", where=folder, fix="choose another --output"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MedSSLError(
                "another sweep is running in this folder",
                where=folder,
                fix="wait for it or stop it, or choose another --output",
            ) from None
        except OSError:
            logger.info("the file system of %s knows no locks", folder)
        yield


def stopped_message(result: SweepResult) -> str:
    """Say how to go on after a signal."""
    name = signal.Signals(result.stopped or signal.SIGINT).name
    return (
        f"stopped by {name}: {result.finished} of {result.total} runs are finished, the state of "
        "the others is saved. Go on with the same command"
    )
