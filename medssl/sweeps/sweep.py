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
from medssl.jobs.processes import Outcome, run_here, run_in_processes
from medssl.jobs.queue import run_in_queue
from medssl.jobs.slurm import Queue, SlurmQueue, check_slurm
from medssl.jobs.slurm_options import parse_options
from medssl.progress import Display
from medssl.sweeps.plan import Job, check_cases, check_folders, plan_sweep

logger = logging.getLogger(__name__)

LOCAL = "local"
LAUNCHERS = (LOCAL, "submitit")
LOGS = "slurm"
"""Folder beside the runs for what a queue writes."""


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
        queued: number of runs that are still in the queue.
    """

    path: Path
    summary: dict[str, Any]
    failures: dict[str, str] = field(default_factory=dict)
    stopped: int | None = None
    finished: int = 0
    total: int = 0
    queued: int = 0


def sweep(
    recipe: str | Path,
    *,
    labeled: Sequence[int | str],
    seeds: int = 3,
    methods: Sequence[str] = (),
    overrides: Sequence[str] = (),
    output: Path | None = None,
    jobs: int | None = None,
    launcher: str = "local",
    slurm: Sequence[str] = (),
    wait: bool = True,
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
        jobs: how many runs to train at a time, in processes of their own if more than one; by
            default one, and in a queue as many as it lets.
        launcher: ``local``, or ``submitit`` to queue the runs on SLURM.
        slurm: ``KEY=VALUE`` options of the queue, see `parse_options`.
        wait: False returns once the runs are in the queue; a later call summarizes them.
        device, precision: as for `medssl.train`.

    Raises:
        MedSSLError: a combination that cannot work, before any training. A run that fails later
            does not stop the others: see ``failures``.
    """
    display = display or Display(quiet=True)
    options = _check_launcher(launcher, slurm, jobs)
    planned = plan_sweep(
        recipe, labeled=labeled, seeds=seeds, methods=methods, overrides=overrides, output=output
    )
    folder = planned[0].path.parent
    check_folders(planned)
    check_cases(planned, display)
    todo = [job for job in planned if not job.finished]
    display.say(
        f"sweep: {len(planned)} runs in {folder}, {len(planned) - len(todo)} of them finished"
    )
    with _only_one(folder):
        common = {"device": device, "precision": precision, "display": display}
        if launcher != LOCAL:
            queue = _open_queue(folder, options, jobs) if todo else None
            outcome = run_in_queue(
                todo, recipe, queue=queue, folder=folder / LOGS, wait=wait, **common
            )
        elif jobs in (None, 1):
            outcome = run_here(todo, recipe, **common)
        else:
            outcome = run_in_processes(todo, recipe, at_once=jobs, **common)
        summary = _summarize(planned, folder, recipe, outcome)
    return SweepResult(
        path=folder,
        summary=summary,
        failures=outcome.failures,
        stopped=outcome.stopped,
        finished=sum(job.finished for job in planned),
        total=len(planned),
        queued=outcome.queued,
    )


def _check_launcher(launcher: str, slurm: Sequence[str], jobs: int | None) -> dict[str, Any]:
    """Return the options of the queue, empty without one."""
    if jobs is not None and jobs < 1:
        raise MedSSLError(f"{jobs} runs at a time", where="--jobs", fix="give 1 or more")
    if launcher not in LAUNCHERS:
        raise MedSSLError(
            f"there is no launcher {launcher!r}",
            where="--launcher",
            fix=f"choose one of {', '.join(LAUNCHERS)}",
        )
    if launcher != LOCAL:
        check_slurm()
        return parse_options(slurm)
    if slurm:
        raise MedSSLError(
            "--slurm has no meaning for runs on this machine",
            where="--slurm",
            fix="add --launcher submitit, or leave --slurm out",
        )
    return {}


def _open_queue(folder: Path, options: dict[str, Any], jobs: int | None) -> Queue:
    return SlurmQueue(folder / LOGS, options, name=f"medssl-{folder.name}", at_once=jobs)


def _summarize(
    planned: Sequence[Job], folder: Path, recipe: str | Path, outcome: Outcome
) -> dict[str, Any]:
    from medssl.sweeps.summary import summarize_sweep, write_sweep

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
    if result.queued:
        return f"stopped by {name}: {queued_message(result)}"
    return (
        f"stopped by {name}: {result.finished} of {result.total} runs are finished, the state of "
        "the others is saved. Go on with the same command"
    )


def queued_message(result: SweepResult) -> str:
    """Say how to come back to runs in a queue."""
    return (
        f"{result.queued} runs go on in the queue, {result.finished} of {result.total} are "
        "finished. The same command waits for them and summarizes"
    )
