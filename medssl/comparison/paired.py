"""The numbers of a comparison: accuracy and cost of an arm, paired differences of two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medssl.comparison.experiments import Arm, describe_difference, differences
from medssl.evaluation.statistics import PairedResult, paired_bootstrap

TIE = 0.005
"""Cases whose Dice differs by less are ties: such a change is not visible to a reader."""
MEAN = "mean"
"""Name of the row over all structures of a case."""
LEVEL = 0.95
SHARES = ("dice", "iou", "nsd")
"""Metrics of which more is better and 1 is perfect; the others are distances."""


def describe_arm(arm: Arm, cases: Sequence[str], metrics: Sequence[str]) -> dict[str, Any]:
    """Return accuracy and cost of an arm: means over structures as `medssl evaluate` forms them."""
    structures = list(arm.runs[0].structures)
    per_run = {}
    for metric in metrics:
        values = arm.values(metric, cases, structures)
        per_run[metric] = nanmean(nanmean(values, 1), 1)
    dice = per_run["dice"]
    labeled = arm.experiment["data.labeled"]
    return {
        "name": arm.name,
        "method": arm.method,
        "runs": [str(r.path) for r in arm.runs],
        "seeds": [r.seed for r in arm.runs],
        "labeled_cases": len(labeled) if isinstance(labeled, tuple) else labeled,
        "metrics": {m: float(v.mean()) for m, v in per_run.items()},
        "dice_per_run": dice.tolist(),
        "dice_std_over_runs": float(dice.std(ddof=1)) if len(dice) > 1 else float("nan"),
        "cost": cost_of([r.manifest for r in arm.runs]),
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
    arm: Arm,
    baseline: Arm,
    cases: Sequence[str],
    groups: Sequence[str],
    metrics: Sequence[str],
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the paired differences ``arm - baseline`` per structure and over all of them."""
    structures = list(arm.runs[0].structures)
    entries: dict[str, dict[str, Any]] = {s: {"metrics": {}} for s in (*structures, MEAN)}
    for metric in metrics:
        a, b = paired_values(arm, baseline, metric, cases, structures)
        for index, name in enumerate(entries):
            result = _bootstrap(a[..., index], b[..., index], groups, seed)
            entries[name]["metrics"][metric] = _describe(result, metric)
            if metric == "dice":
                entries[name] |= count_outcomes(a[..., index].mean(0) - b[..., index].mean(0))
    found = differences(arm.experiment, baseline.experiment)
    return {
        "arm": arm.name,
        "baseline": baseline.name,
        "n_patients": len(set(groups)),
        "n_runs": [len(arm.runs), len(baseline.runs)],
        "differs_in": list(found),
        "differences": [describe_difference(k, v) for k, v in found.items()],
        "structures": entries,
    }


def paired_values(
    arm: Arm, baseline: Arm, metric: str, cases: Sequence[str], structures: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(runs, cases, structures + 1)`` of both arms; the last column is the mean.

    Where the reference lacks a structure, a run that rightly predicts none has no value. If another
    run invents it there, the right ones count as perfect (1, or a distance of 0); else the
    structure has no value in that case.
    """
    values = [x.values(metric, cases, structures) for x in (arm, baseline)]
    both = np.concatenate(values)
    perfect = 1.0 if metric in SHARES else 0.0
    both = np.where(np.isnan(both) & ~np.isnan(both).all(0), perfect, both)
    both = np.concatenate((both, nanmean(both, 2)[..., None]), axis=2)
    return both[: len(arm.runs)], both[len(arm.runs) :]


def _bootstrap(
    a: np.ndarray, b: np.ndarray, groups: Sequence[str], seed: int
) -> PairedResult | None:
    if np.isnan(a).any(0).all():
        return None  # the structure is in no case and was never predicted
    return paired_bootstrap(a, b, groups, seed=seed, level=LEVEL)


def _describe(result: PairedResult | None, metric: str) -> dict[str, Any]:
    """Return a difference with its interval; ``p_better`` always means that the arm is better."""
    if result is None:
        nan = float("nan")
        return {"difference": nan, "low": nan, "high": nan, "p_better": nan, "n_cases": 0}
    smaller_is_better = metric not in SHARES
    return {
        "difference": result.mean_difference,
        "low": result.low,
        "high": result.high,
        "p_better": 1 - result.p_better if smaller_is_better else result.p_better,
        "n_cases": result.n_cases,
    }


def count_outcomes(change: np.ndarray) -> dict[str, int]:
    """Count cases won, tied and lost by their change of Dice; NaN counts nowhere."""
    return {
        "win": int((change >= TIE).sum()),
        "tie": int((np.abs(change) < TIE).sum()),
        "loss": int((change <= -TIE).sum()),
    }


def case_rows(
    arm: Arm, baseline: Arm, cases: Sequence[str], groups: Sequence[str], metrics: Sequence[str]
) -> list[dict[str, Any]]:
    """Return a row per case and structure: both arms' means over runs and their difference."""
    structures = list(arm.runs[0].structures)
    values = {m: paired_values(arm, baseline, m, cases, structures) for m in metrics}
    rows = []
    for i, (case, patient) in enumerate(zip(cases, groups, strict=True)):
        for j, name in enumerate((*structures, MEAN)):
            row: dict[str, Any] = {"case": case, "patient": patient, "name": name}
            row |= {"arm": arm.name, "baseline": baseline.name}
            for metric, (a, b) in values.items():
                one, other = float(a[:, i, j].mean()), float(b[:, i, j].mean())
                row |= {metric: one, f"{metric}_baseline": other}
                row[f"{metric}_difference"] = one - other
            counted = count_outcomes(np.array(row["dice_difference"]))
            row["outcome"] = next((k for k, n in counted.items() if n), "")
            rows.append(row)
    return rows


def nanmean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean ignoring NaN; NaN, without a warning, where nothing is left."""
    present = np.isfinite(values)
    total, count = np.where(present, values, 0.0).sum(axis), present.sum(axis)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)
