"""The label-efficiency curve in one command: numbers of labels x methods x seeds, all else equal.

The patients' shuffle is fixed by ``data.split_seed``, so smaller labeled sets lie inside larger
ones and the test cases are the same throughout; a seed changes initial weights and patches. Labels
alone (``supervised``) are trained at every point. Each combination is a run folder
``OUTPUT/METHOD-LABELED-SEED``; what is finished is not repeated and what was interrupted is
resumed, so the same command continues a sweep, and one with more seeds extends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medssl.jobs.job import Job, Outcome
from medssl.jobs.launch import Launcher, choose_launcher, launch
from medssl.paths import AnyPath
from medssl.progress import Display
from medssl.sweeps.plan import Axes, PlannedPoint, check_cases, plan_sweep
from medssl.workflows.planned_runs import RunsResult, jobs_of, only_one


def sweep(
    recipe: AnyPath,
    *,
    labeled: Sequence[int | str],
    seeds: int = 3,
    methods: Sequence[str] = (),
    folds: int | str | None = None,
    overrides: Sequence[str] = (),
    output: AnyPath | None = None,
    jobs: int | None = None,
    launcher: str = "local",
    slurm: Sequence[str] = (),
    wait: bool = True,
    device: str = "auto",
    precision: str | None = None,
    display: Display | None = None,
) -> RunsResult:
    """Train every combination that is not finished, and summarize all.

    Args:
        recipe: a recipe file, or the name of a shipped one.
        labeled: numbers of labeled patients; ``all`` is every label there is. Where no image is
            left unlabeled, a method that learns from such has no run, which is said.
        seeds: seeds 0, 1, ... of each point.
        methods: by default the recipe's. The baseline is always added. Settings under ``method``
            and ``training.stages`` belong to the recipe's own method; others run on their defaults.
        folds: deal the labeled patients into so many folds (``all``: one patient each) and draw the
            curve from every one of them, each predicted by runs that never saw it; of the others so
            many as the point says are labeled. By default the recipe's test patients are measured.
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
        recipe,
        Axes(labeled, seeds, methods, folds),
        overrides=overrides,
        output=output,
        display=display,
    )
    plan, left_out = check_cases(plan, display)
    runs = {name: run for planned in plan for name, run in planned.runs.items()}
    for run in runs.values():
        run.check_folder()
    todo = jobs_of(
        list(runs.values()), recipe, where, names=list(runs), device=device, precision=precision
    )
    return _run(_Sweep(str(recipe), plan, left_out), todo, where, display)


@dataclass(frozen=True)
class _Sweep:
    """What is trained, and what cannot be: a line each."""

    recipe: str
    plan: Sequence[PlannedPoint]
    left_out: Sequence[str]


def _run(sweep: _Sweep, todo: Sequence[Job], where: Launcher, display: Display) -> RunsResult:
    """Train what is left to do of a plan, and summarize all."""
    plan = sweep.plan
    folder = plan[0].path.parent
    runs = [run for planned in plan for run in planned.runs.values()]
    display.say(f"sweep: {len(runs)} runs in {folder}, {len(runs) - len(todo)} of them finished")
    with only_one(folder, "sweep"):
        outcome = launch(todo, where, folder=folder, display=display)
        summary = _summarize(sweep, folder, outcome)
    return RunsResult(
        path=folder,
        summary=summary,
        failures=outcome.failures,
        stopped=outcome.stopped,
        finished=sum(run.finished for run in runs),
        total=len(runs),
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
