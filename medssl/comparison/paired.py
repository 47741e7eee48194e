"""The numbers of a comparison: accuracy and cost of an experiment, paired differences of two."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np

from medssl.comparison.experiments import Experiment, describe_difference, differences
from medssl.comparison.verdict import DICE_GAINS, PairedScores, Verdict, verdict_over_patients
from medssl.evaluation.failures import count_failures
from medssl.evaluation.sign_flip import sign_flip_p
from medssl.evaluation.statistics import LEVEL, Interval, nanmean, paired_interval, patient_means
from medssl.evaluation.summary import SHARES

TIE = 0.005
"""Cases whose Dice differs by less are ties: such a change is not visible to a reader."""
MEAN = "mean"
"""Name of the row over all structures of a case."""
INTERVAL = (
    f"{LEVEL:.0%} Student's t over patients, the spread between the runs of an experiment added; "
    "cut off where a difference ends"
)
"""How the intervals of a comparison are made."""


class PairedInterval(Protocol):
    """Makes the interval of a mean gain of a method over its baseline."""

    def __call__(
        self, ours: np.ndarray, baseline: np.ndarray, *, bounds: tuple[float, float]
    ) -> Interval:
        """Return it; both arrays are ``(runs, patients)``."""
        ...


def describe_experiment(
    experiment: Experiment, cases: Sequence[str], groups: Sequence[str], metrics: Sequence[str]
) -> dict[str, Any]:
    """Return accuracy and cost of an experiment: means over structures as `medssl evaluate`'s."""
    structures = list(experiment.runs[0].structures)
    per_run = {}
    for metric in metrics:
        values = patient_means(experiment.values(metric, cases, structures), groups)
        per_run[metric] = nanmean(nanmean(values, 1), 1)
    dice = per_run["dice"]
    own = nanmean(patient_means(experiment.values("dice", cases, structures), groups).mean(0), 1)
    threshold = experiment.runs[0].recipe.evaluation.failure_dice
    labeled = experiment.definition["data.labeled"]
    return {
        "name": experiment.name,
        "method": experiment.method,
        "runs": [str(r.path) for r in experiment.runs],
        "seeds": [r.seed for r in experiment.runs],
        "labeled_cases": len(labeled) if isinstance(labeled, tuple) else labeled,
        "metrics": {m: float(v.mean()) for m, v in per_run.items()},
        "failures": count_failures(own, threshold).as_dict(),
        "dice_per_run": dice.tolist(),
        "dice_std_over_runs": float(dice.std(ddof=1)) if len(dice) > 1 else float("nan"),
        "cost": cost_of([r.manifest for r in experiment.runs]),
    }


def cost_of(manifests: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return mean cost of some runs; NaN where the manifests do not say.

    ``peak_memory_bytes`` is of the graphics card where one was used, else of the process.
    """

    def mean(values: Sequence[Any]) -> float:
        known = [float(v) for v in values if v is not None]
        return float(np.mean(known)) if known else float("nan")

    memory = [m.get("peak_memory_bytes") or {} for m in manifests]
    rates = [
        m["training_seconds"] / m["iterations_done"]
        for m in manifests
        if m.get("training_seconds") and m.get("iterations_done")
    ]
    return {
        "training_seconds": mean([m.get("training_seconds") for m in manifests]),
        "seconds_per_iteration": mean(rates),
        "iterations": mean([m.get("iterations_done") for m in manifests]),
        "peak_memory_bytes": mean([m.get("device", m.get("host")) for m in memory]),
        "parameters": mean([m.get("parameters") for m in manifests]),
    }


def compare_pair(
    experiment: Experiment,
    baseline: Experiment,
    cases: Sequence[str],
    groups: Sequence[str],
    metrics: Sequence[str],
    *,
    interval: PairedInterval = paired_interval,
    trained: str = "",
) -> dict[str, Any]:
    """Return the paired differences to a baseline per structure and over all, and the verdict.

    A patient's value is the mean over its cases, and over all structures the mean of those.

    Args:
        experiment, baseline: measured on the same cases.
        cases: ids.
        groups: the patient of each case.
        metrics: to be compared.
        interval: makes the intervals, as :func:`medssl.evaluation.statistics.paired_interval` does.
        trained: see :class:`medssl.comparison.verdict.PairedScores`.
    """
    structures = list(experiment.runs[0].structures)
    entries: dict[str, dict[str, Any]] = {s: {"metrics": {}} for s in (*structures, MEAN)}
    scores: dict[str, list[np.ndarray]] = {}
    for metric in metrics:
        both = paired_values(experiment, baseline, metric, cases, structures)
        scores[metric] = [patient_means(x[..., :-1], groups) for x in both]
        a, b = (np.concatenate((x, nanmean(x, 2)[..., None]), 2) for x in scores[metric])
        for index, name in enumerate(entries):
            seen = np.isfinite(np.concatenate(both)[..., index]).all(0)
            entry = _describe(a[..., index], b[..., index], metric, interval)
            entries[name]["metrics"][metric] = entry | {"n_cases": int(seen.sum())}
            if metric == "dice":
                entries[name] |= count_outcomes((both[0].mean(0) - both[1].mean(0))[..., index])
    found = differences(experiment.runs[0], baseline.runs[0])
    return {
        "experiment": experiment.name,
        "baseline": baseline.name,
        "n_patients": len(set(groups)),
        "n_runs": [len(experiment.runs), len(baseline.runs)],
        "differs_in": list(found),
        "differences": [describe_difference(k, v) for k, v in found.items()],
        "structures": entries,
        "verdict": _verdict(experiment, baseline, groups, scores["dice"], (interval, trained)),
    }


def _verdict(
    experiment: Experiment,
    baseline: Experiment,
    groups: Sequence[str],
    dice: Sequence[np.ndarray],
    how: tuple[PairedInterval, str],
) -> dict[str, Any]:
    """Judge an experiment by the Dice of its patients, ``(runs, patients, structures)`` of both.

    Args:
        how: what makes the intervals, and how both were trained.
    """
    interval, trained = how
    seconds = [
        cost_of([r.manifest for r in x.runs])["training_seconds"] for x in (experiment, baseline)
    ]
    verdict = verdict_over_patients(
        PairedScores(
            names=(experiment.name, baseline.name),
            patients=list(dict.fromkeys(groups)),
            structures=list(experiment.runs[0].structures),
            ours=dice[0],
            baseline=dice[1],
            cost=seconds[0] / seconds[1] if seconds[1] > 0 else float("nan"),
            trained=trained,
        ),
        interval_of=partial(interval, bounds=DICE_GAINS),
    )
    return verdict_entry(verdict, experiment.name, baseline.name)


def verdict_entry(verdict: Verdict, experiment: str, baseline: str) -> dict[str, Any]:
    """Return what ``compare.json`` says of a verdict."""
    return {
        "experiment": experiment,
        "baseline": baseline,
        "code": verdict.code,
        "sentence": verdict.sentence,
        "p": _or_none(verdict.p),
        "patients": {
            "n": verdict.gain.n,
            "gain": verdict.gaining,
            "lose": verdict.losing,
            "worst": verdict.worst[0],
            "worst_gain": verdict.worst[1],
        },
        "training_time_ratio": _or_none(verdict.cost),
    }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def paired_values(
    experiment: Experiment,
    baseline: Experiment,
    metric: str,
    cases: Sequence[str],
    structures: Sequence[str],
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(runs, cases, structures + 1)`` of both experiments; the last column is the mean.

    Where the reference lacks a structure, a run that rightly predicts none has no value. If another
    run invents it there, the right ones count as perfect (1, or a distance of 0); else the
    structure has no value in that case.
    """
    values = [x.values(metric, cases, structures) for x in (experiment, baseline)]
    both = np.concatenate(values)
    perfect = 1.0 if metric in SHARES else 0.0
    both = np.where(np.isnan(both) & ~np.isnan(both).all(0), perfect, both)
    both = np.concatenate((both, nanmean(both, 2)[..., None]), axis=2)
    return both[: len(experiment.runs)], both[len(experiment.runs) :]


def _describe(
    ours: np.ndarray, baseline: np.ndarray, metric: str, interval: PairedInterval
) -> dict[str, Any]:
    """Return a difference with its interval, why it has none, and the two-sided sign-flip p."""
    most = 1.0 if metric in SHARES else float("inf")
    found = interval(ours, baseline, bounds=(-most, most))
    return {
        "difference": found.mean,
        "low": found.low,
        "high": found.high,
        "no_interval": found.none,
        "p": _or_none(sign_flip_p(ours.mean(0) - baseline.mean(0))),
        "n_patients": found.n,
    }


def count_outcomes(change: np.ndarray) -> dict[str, int]:
    """Count cases won, tied and lost by their change of Dice; NaN counts nowhere."""
    return {
        "win": int((change >= TIE).sum()),
        "tie": int((np.abs(change) < TIE).sum()),
        "loss": int((change <= -TIE).sum()),
    }


def case_rows(
    experiment: Experiment,
    baseline: Experiment,
    cases: Sequence[str],
    groups: Sequence[str],
    metrics: Sequence[str],
) -> list[dict[str, Any]]:
    """Return a row per case and structure: both experiments' means over runs, the difference."""
    structures = list(experiment.runs[0].structures)
    values = {m: paired_values(experiment, baseline, m, cases, structures) for m in metrics}
    rows = []
    for i, (case, patient) in enumerate(zip(cases, groups, strict=True)):
        for j, name in enumerate((*structures, MEAN)):
            row: dict[str, Any] = {"case": case, "patient": patient, "name": name}
            row |= {"experiment": experiment.name, "baseline": baseline.name}
            for metric, (a, b) in values.items():
                one, other = float(a[:, i, j].mean()), float(b[:, i, j].mean())
                row |= {metric: one, f"{metric}_baseline": other}
                row[f"{metric}_difference"] = one - other
            counted = count_outcomes(np.array(row["dice_difference"]))
            row["outcome"] = next((k for k, n in counted.items() if n), "")
            rows.append(row)
    return rows
