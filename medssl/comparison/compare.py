"""Compare runs case by case and say in plain words whether one experiment is better than another.

Runs that differ only by their seed are one experiment (:mod:`medssl.comparison.experiments`).
Every experiment is paired with the baseline on the same cases; intervals are Student's t over
patients, with the spread between the runs of each experiment added
(:func:`medssl.evaluation.statistics.paired_interval`). The verdict reads one number, fixed before
any is seen: the mean Dice over structures. Runs of a single experiment are compared too, to show
how far luck alone moves the results, and never give evidence of a difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medssl.comparison.cautions import verdicts_of
from medssl.comparison.comparable import patients_of, shared_cases, shared_metrics, warnings_about
from medssl.comparison.experiments import EvaluatedRun, Experiment, group_experiments, read_run
from medssl.comparison.paired import INTERVAL, TIE, case_rows, compare_pair, describe_experiment
from medssl.errors import MedSSLError
from medssl.evaluation.coverage import coverage_sentence
from medssl.paths import AnyPath


def compare(
    runs: Sequence[AnyPath],
    *,
    split: str = "test",
    baseline: AnyPath | None = None,
    common: bool = False,
    output: AnyPath | None = None,
) -> dict[str, Any]:
    """Pair every experiment among ``runs`` with a baseline, case by case.

    Args:
        runs: run folders, evaluated on ``split``; repeats with other seeds form one experiment.
        split: name of a folder under ``evaluation/``.
        baseline: a run folder or the name of an experiment; by default the one supervised
            experiment, else that of the first run.
        common: compare on the cases that all runs have instead of refusing others.
        output: folder for ``compare.csv``, ``compare.json`` and ``compare.png``.

    Returns:
        What ``compare.json`` holds: ``experiments`` (accuracy and cost), ``comparisons``
        (differences per structure, win/tie/loss, verdict), ``warnings``, and under ``rows`` what
        goes to ``compare.csv`` instead.

    Raises:
        MedSSLError: fewer than two runs, no evaluation, or runs that cannot be compared.

    Example:
        >>> found = medssl.compare(["runs/mine", "runs/baseline"])
        >>> found["baseline"], found["n_cases"]
        ('supervised', 2)
    """
    read = [read_run(path, split) for path in _paths(runs, baseline)]
    cases, warnings = shared_cases(read, split, common=common)
    groups = patients_of(read, cases, warnings)
    metrics = shared_metrics(read, warnings)
    experiments = group_experiments(read)
    warnings += warnings_about(experiments, split)
    repeats = len(experiments) == 1
    if repeats:
        # One experiment: its runs stand for several, to show what chance does.
        singles = [
            Experiment(name, (run,)) for name, run in _run_names(experiments[0].runs).items()
        ]
        reference, others = singles[0], singles[1:]
    else:
        reference = _baseline(experiments, baseline)
        experiments = [_distinct_seeds(experiment, warnings) for experiment in experiments]
        reference = next(a for a in experiments if a.name == reference.name)
        others = [a for a in experiments if a is not reference]
    if len(others) > 1 and not repeats:
        warnings.append(
            f"{len(others)} experiments are compared with one baseline: intervals are not "
            "corrected for the number of comparisons"
        )
    result = {
        "split": split,
        "unit": read[0].unit,
        "metrics": metrics,
        "structures": list(read[0].structures),
        "n_cases": len(cases),
        "n_patients": len(set(groups)),
        "interval": INTERVAL,
        "coverage": coverage_sentence(len(set(groups))),
        "tie": f"a case is a tie where mean Dice over runs differs by less than {TIE:g}",
        "same_experiment": repeats,
        "baseline": reference.name,
        "experiments": [describe_experiment(e, cases, groups, metrics) for e in experiments],
        "comparisons": [compare_pair(a, reference, cases, groups, metrics) for a in others],
        "warnings": warnings,
        "rows": [row for a in others for row in case_rows(a, reference, cases, groups, metrics)],
    }
    result["verdicts"] = verdicts_of(result)
    if output is not None:
        from medssl.comparison.output import write_comparison

        write_comparison(result, Path(output))
    return result


def _paths(runs: Sequence[AnyPath], baseline: AnyPath | None) -> list[Path]:
    """Return the run folders, the baseline's among them."""
    paths = [Path(r) for r in runs]
    if baseline is not None and (Path(baseline) / "recipe.yaml").is_file():
        paths = [Path(baseline), *(p for p in paths if p.resolve() != Path(baseline).resolve())]
    if len({p.resolve() for p in paths}) < max(len(paths), 2):
        twice = [p for i, p in enumerate(paths) if p.resolve() in {q.resolve() for q in paths[:i]}]
        raise MedSSLError(
            "the same run is named twice" if twice else "one run alone cannot be compared",
            where=twice[0] if twice else (paths[0] if paths else None),
            fix="name two or more run folders: medssl compare runs/A runs/B",
        )
    return paths


def _baseline(experiments: Sequence[Experiment], asked: AnyPath | None) -> Experiment:
    """Return the experiment to compare with."""
    if asked is None:
        supervised = [a for a in experiments if a.method == "supervised"]
        return supervised[0] if len(supervised) == 1 else experiments[0]
    path = Path(asked).resolve()
    for experiment in experiments:
        if experiment.name == str(asked) or any(r.path.resolve() == path for r in experiment.runs):
            return experiment
    raise MedSSLError(
        f"the baseline {str(asked)!r} is neither a run nor one of the experiments",
        where="--baseline",
        fix=f"name a run folder or one of: {', '.join(a.name for a in experiments)}",
    )


def _distinct_seeds(experiment: Experiment, warnings: list[str]) -> Experiment:
    """Keep one run per seed: a copy of a run is no second draw."""
    kept: dict[int, EvaluatedRun] = {}
    for run in experiment.runs:
        if run.seed in kept:
            warnings.append(
                f"{run.path.name} is left out: it repeats seed {run.seed} of "
                f"{kept[run.seed].path.name}"
            )
        kept.setdefault(run.seed, run)
    return Experiment(experiment.name, tuple(kept.values()))


def _run_names(runs: Sequence[EvaluatedRun]) -> dict[str, EvaluatedRun]:
    names = [r.path.name for r in runs]
    unique = [n if names.count(n) == 1 else str(r.path) for n, r in zip(names, runs, strict=True)]
    return dict(zip(unique, runs, strict=True))
