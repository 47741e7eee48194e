"""Cross-validation in one command: folds trained, every patient predicted out of fold, a verdict.

What is finished is not repeated and what was interrupted is resumed, between folds and within one,
so the same command goes on where it was stopped; with more repeats it extends.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from medssl.data.datasets.shard import parse_shard
from medssl.errors import MedSSLError
from medssl.files import write_json
from medssl.jobs.job import Job, Outcome
from medssl.jobs.launch import Launcher, choose_launcher, launch
from medssl.progress import Display
from medssl.recipe.load import load_recipe
from medssl.runs.folder import RunFolder
from medssl.runs.lineage import CROSSVAL
from medssl.runs.resume import check_same_regions
from medssl.workflows.planned_runs import BASELINE, RunsResult, jobs_of, only_one

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medssl.cross_validation.plan import CrossvalPlan
    from medssl.paths import AnyPath

FORMAT = 1
RUNNING, FINISHED = "running", "finished"


def crossval(
    recipe: AnyPath,
    *,
    folds: int | str | None = None,
    baseline: str = BASELINE,
    repeats: int = 1,
    transductive: bool = False,
    overrides: Sequence[str] = (),
    output: AnyPath | None = None,
    jobs: int | None = None,
    launcher: str = "local",
    slurm: Sequence[str] = (),
    wait: bool = True,
    shard: str | None = None,
    device: str = "auto",
    precision: str | None = None,
    pictures: bool = True,
    display: Display | None = None,
) -> RunsResult:
    """Cross-validate a recipe over its labeled patients, and judge it beside labels alone.

    The patients are dealt into folds; of each, the others train the method and its labeled-only
    twin (same budget, network, augmentation and seed), and it is predicted by the models that saw
    neither its labels nor its images. The last checkpoint counts: no fold has validation patients.
    Test patients of the recipe stay locked.

    Args:
        recipe: a recipe file, or the name of a shipped one.
        folds: a number; ``all`` leaves out one patient at a time. By default 5, 4 for six to nine
            patients, one patient at a time for three to five.
        baseline: ``supervised``, or ``none`` for no verdict and half the time.
        repeats: deal and train so often, each time with other folds and the next seed.
        transductive: let the images of a fold's patients, not their labels, serve as unlabeled.
        overrides: ``section.key=value`` assignments for all.
        output: folder of the folds; by default ``runs/NAME-crossval``.
        jobs, launcher, slurm, wait: as for `sweep`.
        shard: ``I/N``, to train every N-th run from the I-th on; the last one to finish summarizes.
        device, precision: as for `train`.
        pictures: draw cases in the report.

    Returns:
        What became of the runs; ``summary`` is what ``crossval.json`` holds once all are finished.

    Raises:
        MedSSLError: fewer than three labeled patients, or a fold that cannot work, before any
            training. A run that fails later does not stop the others: see ``failures``.

    Example:
        >>> found = medssl.crossval("mine.yaml", folds=2, output="runs/folds")
        >>> found.summary["verdict"]["code"] in ("gain", "none", "harm")
        True
    """
    load_recipe(recipe, overrides)  # the recipe first: readers of images take a second to load
    from medssl.cross_validation.deal import CrossvalSettings
    from medssl.cross_validation.plan import plan_crossval

    display = display or Display(quiet=True)
    where = choose_launcher(launcher, at_once=jobs, slurm=slurm, wait=wait)
    part = parse_shard(shard)
    settings = CrossvalSettings(folds, baseline, repeats, transductive)
    plan = plan_crossval(recipe, settings, overrides=overrides, output=output, display=display)
    _check(plan, display)
    names = [run.name for run in plan.runs]
    todo = jobs_of(plan.runs, recipe, where, names=names, device=device, precision=precision)
    if part is not None:
        mine = part.of(names)
        todo = [job for job in todo if job.name in mine]
        return train_folds(plan, todo, where, display, pictures=pictures)
    with only_one(plan.folder, "cross-validation"):
        return train_folds(plan, todo, where, display, pictures=pictures)


def _check(plan: CrossvalPlan, display: Display) -> None:
    """Refuse what cannot work: another experiment in the folder, cases that a fold lacks.

    Raises:
        MedSSLError: names the run or fold.
    """
    from medssl.training.cases import plan_cases
    from medssl.workflows.training_order import check_start, refuse_seen_patients, starts_with

    _check_record(plan)
    for run in plan.runs:
        run.check_folder()
    fitting: set[tuple[str | None, str | None]] = {(None, None)}
    for run in plan.runs:
        if not run.finished:
            cases = plan_cases(run.loaded, Display(quiet=True))
            for other in plan.runs:  # whose figures stand beside those of this one
                check_same_regions(RunFolder(other.path), cases.dataset)
            refuse_seen_patients(run.loaded, cases)
            start = starts_with(run.loaded.recipe)
            if start not in fitting:
                check_start(run.loaded, cases)
                fitting.add(start)
    for warning in dict.fromkeys(w for run in plan.runs for w in run.loaded.warnings):
        display.say(f"warning: {warning}")
    for note in plan.notes:
        display.say(f"note: {note}")


def _check_record(plan: CrossvalPlan) -> None:
    """Refuse a folder whose ``crossval.json`` speaks of other folds."""
    path = plan.folder / CROSSVAL
    if not path.is_file():
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        folds = before["folds"]
        same = before["transductive"] == plan.settings.transductive
    except (OSError, ValueError, KeyError, TypeError):
        return  # it is written anew, and the runs are checked one by one
    now = plan.described()["folds"]
    shared = min(len(folds), len(now))
    if not same or folds[:shared] != now[:shared]:
        raise MedSSLError(
            "the folder holds a cross-validation of other folds: patients, labels, --folds, "
            "--transductive or data.split_seed have changed",
            where=path,
            fix="choose another --output, or go back to what it was made with",
        )


def train_folds(
    plan: CrossvalPlan,
    todo: Sequence[Job],
    where: Launcher,
    display: Display,
    *,
    pictures: bool,
) -> RunsResult:
    """Train what is left to do of a plan, and judge it when all is there."""
    patients = len({c.patient for c in plan.cases.values()})
    left = sum(not run.finished for run in plan.runs)
    display.say(
        f"cross-validation: {patients} patients in {len(plan.divisions[0])} folds, "
        f"{len(plan.runs)} runs in {plan.folder}, {len(plan.runs) - left} of them finished"
    )
    record = {"format": FORMAT, **plan.described()}
    if left or not (plan.folder / CROSSVAL).is_file():
        write_json(plan.folder / CROSSVAL, {"status": RUNNING, **record})
    outcome = launch(todo, where, folder=plan.folder, display=display)
    return RunsResult(
        path=plan.folder,
        summary=_judge(plan, record, outcome, display, pictures=pictures),
        failures=outcome.failures,
        stopped=outcome.stopped,
        finished=sum(run.finished for run in plan.runs),
        total=len(plan.runs),
        queued=outcome.queued,
    )


def _judge(
    plan: CrossvalPlan,
    record: dict[str, Any],
    outcome: Outcome,
    display: Display,
    *,
    pictures: bool,
) -> dict[str, Any]:
    """Gather what the folds measured, if all did."""
    from medssl.cross_validation.summary import summarize_crossval

    if outcome.stopped is not None or not all(run.finished for run in plan.runs):
        return {}
    from medssl.comparison.plot import draw_comparison
    from medssl.reports.crossval_page import GAINS, crossval_report

    summary = {"status": FINISHED, **record, **summarize_crossval(plan)}
    if summary["comparisons"]:
        draw_comparison(summary, plan.folder / GAINS)
    del summary["rows"]
    write_json(plan.folder / CROSSVAL, summary)
    crossval_report(plan.folder, pictures=pictures, display=display)
    return summary
