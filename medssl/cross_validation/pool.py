"""The finished runs of all folds, read as one run that was measured on every patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medssl.comparison.experiments import (
    EvaluatedRun,
    define_experiment,
    read_run,
    started_from,
)
from medssl.data.datasets.case import Case
from medssl.errors import MedSSLError
from medssl.evaluation.summary import summarize, write_cases_csv
from medssl.files import write_json
from medssl.runs.folder import STATUS_FINISHED, RunFolder
from medssl.workflows.planned_runs import PlannedRun

OUT_OF_FOLD = "out_of_fold"
"""Folder of what all folds together measured, below ``evaluation``."""
SPLIT = "test"
"""What a fold's run calls the patients that it is judged on."""


def pool_folds(
    runs: Sequence[PlannedRun],
    cases: Mapping[str, Case],
    folder: Path,
    *,
    labeled: Sequence[str] | None = None,
) -> EvaluatedRun:
    """Read the finished runs of a division, and write ``evaluation/out_of_fold`` beside them.

    Args:
        runs: one a fold; together they were measured on each case once.
        cases: all cases, by id, with their patients.
        folder: that holds the runs.
        labeled: what defines the experiment as its labels; by default all cases.

    Returns:
        Each case as measured by the fold it was held out of; costs are those of all folds.

    Raises:
        MedSSLError: a fold was not measured.
    """
    read = [read_run(run.path, SPLIT) for run in runs]
    for run in read[1:]:
        if (here := _measured(run)) != (there := _measured(read[0])):
            raise MedSSLError(
                f"measured are {', '.join(here)} here, and {', '.join(there)} in "
                f"{read[0].path.name}",
                where=run.path,
                fix="measure the folds alike: medssl evaluate each of their folders",
            )
    rows = {key: row for run in read for key, row in run.rows.items()}
    summary = _write_evaluation(read, rows, cases, folder)
    definition = define_experiment(runs[0].loaded, summary, {})
    # Which cases a fold's labels are, differs from fold to fold and is no difference of methods.
    definition["data.labeled"] = tuple(sorted(cases if labeled is None else labeled))
    for key in ("data.unlabeled", "data.validation"):
        definition.pop(key, None)
    manifests = [run.manifest for run in read]
    others = dict.fromkeys(path for run in runs for path in run.costs)
    cost = total_cost([*manifests, *(RunFolder(path).read_manifest() for path in others)])
    if read[0].recipe.network.given is not None:
        definition["network.init"] = started_from(*manifests)
    return EvaluatedRun(
        path=folder,
        recipe=read[0].recipe,
        manifest={**manifests[0], **cost, "status": STATUS_FINISHED},
        summary=summary,
        rows=rows,
        definition=definition,
    )


def _measured(run: EvaluatedRun) -> list[str]:
    """Return the structures that were measured, with their labels: a region may get others."""
    return sorted({f"{row['name']} ({row['label']})" for row in run.rows.values()})


def _write_evaluation(
    read: Sequence[EvaluatedRun],
    rows: Mapping[tuple[str, str], Mapping[str, Any]],
    cases: Mapping[str, Case],
    folder: Path,
) -> dict[str, Any]:
    """Write ``evaluation/out_of_fold`` of a division, as `evaluate` does of a split."""
    listed = [rows[key] for key in sorted(rows, key=lambda k: k[0])]  # structures as they were
    recipe = read[0].recipe
    summary = summarize(
        listed,
        patients={case.id: case.patient for case in cases.values()},
        nsd_tolerance=read[0].summary.get("nsd_tolerance"),
        failure_dice=recipe.evaluation.failure_dice,
    )
    name = f"{recipe.name} ({recipe.method.name})"
    summary |= {"split": OUT_OF_FOLD, "checkpoint": "last", "run": name}
    for key in ("transductive", "unknown_ancestors"):
        named = sorted({name for run in read for name in run.summary.get(key, ())})
        summary |= {key: named} if named else {}
    target = RunFolder(folder).evaluation(OUT_OF_FOLD)
    write_cases_csv(listed, target / "cases.csv")
    write_json(target / "summary.json", summary)
    return summary


def total_cost(manifests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what several runs took together; memory is that of the largest."""
    cost: dict[str, Any] = {}
    for key in ("training_seconds", "wall_seconds", "iterations_done"):
        values = [m.get(key) for m in manifests]
        if None not in values:
            cost[key] = sum(v for v in values if v is not None)
    memory = [m.get("peak_memory_bytes") or {} for m in manifests]
    kinds = set.intersection(*(set(m) for m in memory))
    cost["peak_memory_bytes"] = {kind: max(m[kind] for m in memory) for kind in sorted(kinds)}
    return cost
