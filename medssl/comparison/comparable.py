"""Whether runs can be compared at all, on which cases and patients, and what to warn of."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from medssl.comparison.experiments import EvaluatedRun, Experiment
from medssl.data.datasets.decathlon_header import read_json
from medssl.data.datasets.patient_table import is_table
from medssl.data.datasets.split_file import load_splits
from medssl.errors import MedSSLError
from medssl.evaluation.summary_table import lineage_lines
from medssl.runs.changes import CHANGES, FILES, notes_of
from medssl.runs.folder import STATUS_FINISHED
from medssl.runs.given_weights import STARTED_FROM, TAUGHT_BY


def shared_cases(
    runs: Sequence[EvaluatedRun], split: str, *, common: bool
) -> tuple[list[str], list[str]]:
    """Return the cases to compare on and warnings; refuse what cannot be compared.

    Raises:
        MedSSLError: another unit, dataset, structures, cases or references.
    """
    first = runs[0]
    keep, dropped = first.cases, 0
    for run in runs[1:]:
        for what, one, other in (
            ("spatial unit", first.unit, run.unit),
            ("dataset", *(r.manifest.get("dataset_name") for r in (first, run))),
            ("structures", first.structures, run.structures),
        ):
            if one != other and None not in (one, other):
                raise MedSSLError(
                    f"the runs cannot be compared, they differ in {what}: {one} and {other}",
                    where=f"{first.path} and {run.path}",
                    fix="compare runs of one dataset with the same labels",
                )
        own = set(run.cases)
        missing = set(keep) ^ own
        if missing and not common:
            raise MedSSLError(
                f"the runs were measured on different {split} cases: {len(first.cases)} and "
                f"{len(own)} cases, {len(set(first.cases) & own)} in common "
                f"(only one has {min(missing)})",
                where=f"{first.path} and {run.path}",
                fix="add --common to compare on the cases in common, or train with the same "
                "data.test and data.split_seed",
            )
        dropped += len(missing)
        keep = [c for c in keep if c in own]
    if not keep:
        raise MedSSLError(
            "the runs have no case in common", where=first.path, fix="train with the same data.test"
        )
    _same_references(runs, keep)
    note = f"compared on the {len(keep)} {split} cases that all runs have in common"
    return keep, [note] if dropped else []


def _same_references(runs: Sequence[EvaluatedRun], cases: Sequence[str]) -> None:
    """Refuse runs whose references of one case have different volumes."""
    column = f"volume_reference_{runs[0].unit}3"
    for run in runs[1:]:
        for case in cases:
            for name in run.structures:
                one, other = (r.rows[case, name][column] for r in (runs[0], run))
                if not np.isclose(one, other, rtol=1e-4, atol=1e-3):
                    raise MedSSLError(
                        f"case {case} was measured against different references: {name} has "
                        f"{one:g} and {other:g} {runs[0].unit}3",
                        where=f"{runs[0].path} and {run.path}",
                        fix="evaluate both runs again on the same labels (`medssl evaluate RUN`)",
                    )


def shared_metrics(runs: Sequence[EvaluatedRun], warnings: list[str]) -> list[str]:
    """Return the metrics that all runs have, measured alike."""
    metrics = [m for m in runs[0].metrics if all(m in r.metrics for r in runs)]
    tolerances = {r.summary["nsd_tolerance"] for r in runs if r.summary.get("nsd_tolerance")}
    if len(tolerances) > 1:
        metrics.remove("nsd")
        listed = ", ".join(f"{t:g}" for t in sorted(tolerances))
        warnings.append(f"NSD is left out: it was measured with different tolerances ({listed})")
    elif len({r.summary.get("nsd_definition") for r in runs}) > 1 and "nsd" in metrics:
        metrics.remove("nsd")
        warnings.append(
            "NSD is left out: some runs were measured by an earlier version, which counted surface "
            "voxels and not their area (`medssl evaluate RUN` measures again)"
        )
    return metrics


def patients_of(
    runs: Sequence[EvaluatedRun], cases: Sequence[str], warnings: list[str]
) -> list[str]:
    """Return the patient of each case.

    Opens the dataset only where the evaluations counted fewer patients than cases. Where it is
    gone, a pattern in the recipe's ``data.patients`` decides; else each case counts as a patient,
    with a warning.
    """
    from medssl.data.opened import open_dataset

    summary = next((r.summary for r in runs if "n_patients" in r.summary), {})
    if summary and summary["n_patients"] == summary.get("n_cases"):
        return list(cases)
    for run in runs:
        if run.recipe.data.root == "phantom":  # would be made anew if it were gone
            continue
        try:
            dataset = open_dataset(run.recipe.data, run.recipe.spec)
            splits = load_splits(run.path / "splits.json", dataset)
        except (MedSSLError, OSError):
            continue
        owner = {c.id: c.patient for c in (*splits.test, *splits.validation)}
        if owner.keys() >= set(cases):
            return [owner[c] for c in cases]
    pattern = runs[0].recipe.data.patients
    if pattern is not None and is_table(pattern):
        pattern = None
    matches = [re.search(pattern, c) if pattern else None for c in cases]
    groups = [m[1] if m and m[1] else c for m, c in zip(matches, cases, strict=True)]
    if summary and summary["n_patients"] != len(set(groups)):
        warnings.append(
            "the dataset is not at hand to say which cases belong to one patient: every case "
            "counts as a patient, which makes the intervals too narrow"
        )
    return groups


def warnings_about(experiments: Sequence[Experiment], split: str) -> list[str]:
    """Describe what makes runs unfit to stand for their experiments, or costs incomparable."""
    found = []
    runs = [run for experiment in experiments for run in experiment.runs]
    for run in runs:
        if run.manifest.get("status") != STATUS_FINISHED:
            status, done = (
                run.manifest.get("status", "unknown"),
                run.manifest.get("iterations_done"),
            )
            found.append(f"{run.path.name} is not finished: status {status}, {done} iterations")
        changes = notes_of(run.manifest.get(CHANGES, ()))
        found += [f"{run.path.name} was changed while it was trained: {c}" for c in changes]
    found += _other_labels(runs)
    if split.startswith("validation") and any(r.summary.get("checkpoint") == "best" for r in runs):
        found.append("the validation cases also chose the checkpoints: expect less on new cases")
    for run in runs:
        found += [f"{run.path.name}: {line}" for line in lineage_lines(run.summary)]
    for experiment in experiments:
        reused = [
            s.reuse for r in experiment.runs for s in r.recipe.training.stages.values() if s.reuse
        ]
        if reused:
            found.append(
                f"{experiment.name} starts from {len(set(reused))} trained stages of other runs: "
                "their cost, and the luck in what several runs share, are left out"
            )
        if any(run.manifest.get(STARTED_FROM) for run in experiment.runs):
            found.append(
                f"{experiment.name} starts from trained weights (network.init): what these cost is "
                "left out"
            )
        if any(run.manifest.get(TAUGHT_BY) for run in experiment.runs):
            found.append(
                f"{experiment.name} learns from a trained model (method.teacher): what that cost "
                "is left out"
            )
    for key, what in (
        ("precision", "numerical precision"),
        ("git", "versions of medssl (git)"),
        ("medssl", "versions of medssl"),
    ):
        values = sorted({str(r.manifest[key])[:10] for r in runs if r.manifest.get(key)})
        if len(values) > 1:
            found.append(f"the runs were made with different {what}: {', '.join(values)}")
    for key in ("device_name", "threads"):
        values = sorted({str(r.manifest[key]) for r in runs if key in r.manifest})
        if len(values) > 1:
            found.append(f"times are not comparable: {key} differs ({', '.join(values)})")
    return found


def _other_labels(runs: Sequence[EvaluatedRun]) -> list[str]:
    """Say which labels of the first run another was trained with in another version."""
    first, found = _labels_of(runs[0]), []
    for run in runs[1:]:
        other = _labels_of(run)
        edited = sorted(case for case in first.keys() & other.keys() if first[case] != other[case])
        if edited:
            found.append(
                f"{runs[0].path.name} and {run.path.name} were trained with different labels of "
                f"{len(edited)} of their cases: {', '.join(edited[:3])}"
            )
    return found


def _labels_of(run: EvaluatedRun) -> dict[str, str]:
    """Return the hash of each label that a run was trained with; empty if it does not say."""
    files = run.manifest.get(FILES, {}).get("labeled", ())
    try:
        ids, _ = read_json(run.path / "splits.json")
    except MedSSLError:
        return {}
    return {name: f["label"] for name, f in zip(ids.get("labeled", ()), files, strict=False)}
