"""What a sweep found: a point per method and number of labels, in JSON, CSV, table and plot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from medssl.comparison.cautions import cautions_of
from medssl.comparison.comparable import patients_of, shared_cases, shared_metrics, warnings_about
from medssl.comparison.experiments import Experiment
from medssl.comparison.output import number
from medssl.comparison.paired import (
    INTERVAL,
    MEAN,
    compare_pair,
    cost_of,
    describe_experiment,
)
from medssl.cross_validation.pool import OUT_OF_FOLD, SPLIT, total_cost
from medssl.evaluation.coverage import coverage_sentence
from medssl.evaluation.failures import failure_cell
from medssl.evaluation.statistics import nanmean, paired_interval, patient_means
from medssl.files import write_csv, write_json
from medssl.runs.folder import STATUS_FAILED, STATUS_FINISHED, RunFolder

if TYPE_CHECKING:
    from medssl.sweeps.plan import PlannedPoint

NOT_STARTED = "not started"
SPLIT_WORDS = {SPLIT: "test", OUT_OF_FOLD: "out-of-fold"}
"""What the curve calls the patients that it is drawn from."""
_BASELINE = "supervised"


def summarize_sweep(
    plan: Sequence[PlannedPoint],
    *,
    recipe: str,
    failures: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Summarize the finished runs of a plan.

    Every point is paired with the baseline of the same number of labels, case by case; intervals
    are Student's t over patients, with the spread between runs added.

    Raises:
        MedSSLError: the finished runs were measured on different cases.
    """
    finished = [(planned, planned.read()) for planned in plan if planned.finished]
    split = OUT_OF_FOLD if plan[0].folds else SPLIT
    everyone = [run for _, run in finished]
    cases, warnings = shared_cases(everyone, split, common=False)
    known = plan[0].cases  # of folds, with copies of a scan as one patient
    groups = [known[c].patient for c in cases] if known else patients_of(everyone, cases, warnings)
    metrics = shared_metrics(everyone, warnings)
    experiments: dict[tuple[str, int | str], Experiment] = {}
    for key in dict.fromkeys((planned.method, planned.labeled) for planned in plan):
        own = tuple(run for planned, run in finished if (planned.method, planned.labeled) == key)
        if own:
            experiments[key] = Experiment(f"{key[0]} ({key[1]} labels)", own)
    warnings += warnings_about(list(experiments.values()), split)
    order = list(dict.fromkeys(planned.labeled for planned in plan))
    points = [
        _point(experiments, key, cases, groups, metrics)
        for key in sorted(experiments, key=lambda k: order.index(k[1]))
    ]
    compared = [p for p in points if "gain" in p]
    if len(compared) > 1:
        warnings.append(
            f"{len(compared)} points are compared with their baselines: intervals are not "
            "corrected for the number of comparisons"
        )
    return {
        "recipe": recipe,
        "split": split,
        "metrics": metrics,
        "n_cases": len(cases),
        "n_patients": len(set(groups)),
        "interval": INTERVAL,
        "coverage": coverage_sentence(len(set(groups))),
        "n_runs": {"finished": len(finished), "planned": len(plan)},
        "points": points,
        "runs": [
            _run_row(planned, failures or {}, metrics, dict(zip(cases, groups, strict=True)))
            for planned in plan
        ],
        "failures": dict(failures or {}),
        "warnings": warnings,
    }


def _point(
    experiments: Mapping[tuple[str, int | str], Experiment],
    key: tuple[str, int | str],
    cases: Sequence[str],
    groups: Sequence[str],
    metrics: Sequence[str],
) -> dict[str, Any]:
    """Describe one method at one number of labels."""
    experiment, (method, labeled) = experiments[key], key
    described = describe_experiment(experiment, cases, groups, metrics)
    values = experiment.values("dice", cases, list(experiment.runs[0].structures))
    values = nanmean(patient_means(values, groups), 2)  # (runs, patients)
    mean = paired_interval(values, bounds=(0.0, 1.0))
    point = {
        "method": method,
        "labeled": labeled,
        "labeled_cases": described["labeled_cases"],
        "seeds": described["seeds"],
        "dice": mean.mean,
        "low": mean.low,
        "high": mean.high,
        "failures": described["failures"],
        "dice_per_run": nanmean(values, 1).tolist(),
        "metrics": described["metrics"],
        "cost": described["cost"],
    }
    baseline = experiments.get((_BASELINE, labeled))
    if method != _BASELINE and baseline is not None:
        pair = compare_pair(experiment, baseline, cases, groups, metrics)
        point["gain"] = pair["structures"][MEAN]["metrics"]["dice"]
        point["structures"] = pair["structures"]
        point["verdict"] = pair["verdict"] | {"cautions": cautions_of(pair)}
    return point


def _run_row(
    planned: PlannedPoint,
    failures: Mapping[str, str],
    metrics: Sequence[str],
    patients: Mapping[str, str],
) -> dict[str, Any]:
    """Return the row of ``sweep.csv`` of a run, finished or not."""
    manifests = [RunFolder(run.path).read_manifest() for run in planned.runs.values()]
    unfinished = [m.get("status", NOT_STARTED) for m in manifests]
    status = next((s for s in unfinished if s != STATUS_FINISHED), STATUS_FINISHED)
    status = STATUS_FAILED if failures.keys() & planned.runs.keys() else status
    row = {
        "run": planned.name,
        "method": planned.method,
        "labeled": planned.labeled,
        "seed": planned.seed,
    }
    row |= {"status": status}
    means = dict.fromkeys(metrics, math.nan)
    if planned.finished:
        run = planned.read()
        experiment = Experiment(planned.name, (run,))
        groups = [patients[case] for case in run.cases]
        means = describe_experiment(experiment, run.cases, groups, metrics)["metrics"]
    return row | means | cost_of([total_cost(manifests) if planned.folds else manifests[0]])


def write_sweep(summary: Mapping[str, Any], folder: Path) -> None:
    """Write ``summary.json``, ``sweep.csv`` and ``sweep.png``.

    Raises:
        MedSSLError: the folder cannot be written.
    """
    from medssl.sweeps.plot import draw_sweep

    write_json(folder / "summary.json", summary)
    write_csv(folder / "sweep.csv", summary["runs"])
    draw_sweep(summary, folder / "sweep.png")


def format_sweep(summary: Mapping[str, Any]) -> RenderableType:
    """Lay the sweep out for the terminal: a line per point, the verdicts, failures last."""
    counts = summary["n_runs"]
    table = Table(
        title=f"{summary['recipe']}: mean {SPLIT_WORDS[summary['split']]} Dice of "
        f"{summary['n_cases']} cases, "
        f"{counts['finished']} of {counts['planned']} runs",
        box=box.SIMPLE_HEAD,
        title_justify="left",
    )
    table.padding, table.pad_edge, table.show_edge = (0, 1, 0, 0), False, False
    table.add_column("labels", justify="right")
    table.add_column("method")
    below = f"Dice\n<{summary['points'][0]['failures']['threshold']:g}"
    for heading in ("runs", "Dice", below, "gain over labels alone", "s per\niter."):
        table.add_column(heading, justify="right", no_wrap=True)
    before = None
    for point in summary["points"]:
        if before not in (None, point["labeled"]):
            table.add_section()
        before = point["labeled"]
        gain = point.get("gain")
        table.add_row(
            str(point["labeled"]),
            point["method"],
            str(len(point["seeds"])),
            _with_interval(point["dice"], point["low"], point["high"], ".3f"),
            failure_cell(point["failures"]),
            _with_interval(gain["difference"], gain["low"], gain["high"], "+.4f") if gain else "",
            number(point["cost"]["seconds_per_iteration"], 3),
        )
    notes = f"[ ]: {summary['interval']}.\n{summary['coverage']}"
    parts: list[RenderableType] = [table, Text(notes, "dim")]
    for point in summary["points"]:
        verdict = point.get("verdict")
        if verdict:
            style = {"gain": "bold green", "harm": "bold red"}.get(verdict["code"], "bold")
            parts.append(Text(verdict["sentence"], style))
            parts += [Text(f"  caution: {c}") for c in verdict["cautions"]]
    parts += [Text(f"warning: {w}", "yellow") for w in summary["warnings"]]
    return Group(*parts)


def _with_interval(value: float, low: float, high: float, digits: str) -> str:
    text = f"{value:{digits}}"
    return text if math.isnan(low) else f"{text} [{low:{digits}} {high:{digits}}]"
