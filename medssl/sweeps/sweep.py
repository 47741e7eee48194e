"""The label-efficiency curve in one command: numbers of labels x methods x seeds, all else equal.

The patients' shuffle is fixed by ``data.split_seed``, so smaller labeled sets lie inside larger
ones and the test cases are the same throughout; a seed changes initial weights and patches. Labels
alone (``supervised``) are trained at every point. Each combination is a run folder
``OUTPUT/METHOD-LABELED-SEED``; what is finished is not repeated and what was interrupted is
resumed, so the same command continues a sweep, and one with more seeds extends it.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medssl.errors import MedSSLError
from medssl.files import locked, refusals
from medssl.jobs.job import Job, Outcome
from medssl.jobs.launch import Launcher, choose_launcher, launch
from medssl.paths import AnyPath
from medssl.progress import Display
from medssl.sweeps.plan import PlannedRun, check_cases, check_folders, plan_sweep
from medssl.workflows.train_job import TrainCall, train_job


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
    recipe: AnyPath,
    *,
    labeled: Sequence[int | str],
    seeds: int = 3,
    methods: Sequence[str] = (),
    overrides: Sequence[str] = (),
    output: AnyPath | None = None,
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
        labeled: numbers of labeled patients; ``all`` is every label there is. Where no image is
            left unlabeled, a method that learns from such has no run, which is said.
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

    Example:
        >>> curve = medssl.sweep(
        ...     "mine.yaml", labeled=[3, 4], seeds=1, methods=["supervised"], output="sweep"
        ... )
        >>> curve.finished, curve.total
        (2, 2)
    """
    display = display or Display(quiet=True)
    where = choose_launcher(launcher, at_once=jobs, slurm=slurm, wait=wait)
    plan = plan_sweep(
        recipe, labeled=labeled, seeds=seeds, methods=methods, overrides=overrides, output=output
    )
    plan, left_out = check_cases(plan, display)
    check_folders(plan)
    todo = []
    for planned in plan:
        if not planned.finished:
            call = TrainCall(str(recipe), planned.overrides, str(planned.path), device, precision)
            todo.append(train_job(planned.name, call, elsewhere=where.elsewhere))
    return _run(_Sweep(str(recipe), plan, left_out), todo, where, display)


@dataclass(frozen=True)
class _Sweep:
    """What is trained, and what cannot be: a line each."""

    recipe: str
    plan: Sequence[PlannedRun]
    left_out: Sequence[str]


def _run(sweep: _Sweep, todo: Sequence[Job], where: Launcher, display: Display) -> SweepResult:
    """Train what is left to do of a plan, and summarize all."""
    plan = sweep.plan
    folder = plan[0].path.parent
    display.say(f"sweep: {len(plan)} runs in {folder}, {len(plan) - len(todo)} of them finished")
    with _only_one(folder):
        outcome = launch(todo, where, folder=folder, display=display)
        summary = _summarize(sweep, folder, outcome)
    return SweepResult(
        path=folder,
        summary=summary,
        failures=outcome.failures,
        stopped=outcome.stopped,
        finished=sum(planned.finished for planned in plan),
        total=len(plan),
        queued=outcome.queued,
    )


def _summarize(sweep: _Sweep, folder: Path, outcome: Outcome) -> dict[str, Any]:
    from medssl.sweeps.summary import summarize_sweep, write_sweep

    if not any(planned.finished for planned in sweep.plan):
        return {}
    summary = summarize_sweep(sweep.plan, recipe=sweep.recipe, failures=outcome.failures)
    summary["warnings"] += sweep.left_out
    write_sweep(summary, folder)
    return summary


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Keep a second sweep out of the folder while one runs; the lock dies with its process.

    Raises:
        MedSSLError: another sweep runs there, or the folder cannot be written.
    """

    def busy(_: int | None) -> MedSSLError:
        return MedSSLError(
            "another sweep is running in this folder",
            where=folder,
            fix="wait for it or stop it, or choose another --output",
        )

    with refusals(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock", busy=busy):
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
