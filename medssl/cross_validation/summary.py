"""What the folds measured, put together: out-of-fold scores, and the verdict over patients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medssl.comparison.cautions import cautions_of
from medssl.comparison.comparable import shared_metrics, warnings_about
from medssl.comparison.experiments import EvaluatedRun, Experiment
from medssl.comparison.paired import (
    TIE,
    PairedInterval,
    case_rows,
    compare_pair,
    describe_experiment,
)
from medssl.cross_validation.deal import Folds
from medssl.cross_validation.judged import describe_apart, judged_cases
from medssl.cross_validation.plan import CrossvalPlan
from medssl.cross_validation.pool import OUT_OF_FOLD, SPLIT, pool_folds
from medssl.data.datasets.origins import chosen_patients
from medssl.evaluation.coverage import coverage_sentence, crossval_sentence
from medssl.evaluation.statistics import (
    LEVEL,
    Interval,
    nanmean,
    paired_interval,
    patient_means,
    resampled_interval,
)
from medssl.runs.folder import RunFolder

ONCE = (
    f"{LEVEL:.0%} Student's t over patients, each out of fold, n - 1 degrees of freedom; cut off "
    "where a difference ends"
)
RESAMPLED = (
    f"{LEVEL:.0%} corrected resampled t over repeated folds (Nadeau and Bengio); cut off where a "
    "difference ends"
)
"""How the intervals are made where patients were dealt once, and several times."""


def summarize_crossval(plan: CrossvalPlan) -> dict[str, Any]:
    """Gather the finished folds of a plan, and write ``evaluation/out_of_fold`` of every division.

    Returns:
        What ``crossval.json`` holds of the results, in the form of a comparison
        (:mod:`medssl.comparison.compare`), with ``rows`` beside; ``verdict`` is None without a
        baseline.

    Raises:
        MedSSLError: a fold was not measured.
    """
    experiments = [
        Experiment(method, tuple(_division(plan, method, r) for r in range(len(plan.divisions))))
        for method in plan.methods
    ]
    ours, others = experiments[0], experiments[1:]
    runs = [run for experiment in experiments for run in experiment.runs]
    judged = judged_cases(plan.cases)
    cases, groups = judged.cases, judged.groups
    warnings: list[str] = []
    metrics = shared_metrics(runs, warnings)
    warnings += warnings_about(experiments, OUT_OF_FOLD)
    interval = _interval_of(plan, groups)
    pairs = [
        compare_pair(
            ours, other, cases, groups, metrics, interval=interval, trained=_how_trained(plan)
        )
        for other in others
    ]
    verdicts = [p["verdict"] | {"cautions": [*_cautions(p, plan), *judged.cautions]} for p in pairs]
    return {
        "split": OUT_OF_FOLD,
        "unit": runs[0].unit,
        "metrics": metrics,
        "structures": list(runs[0].structures),
        "n_cases": len(cases),
        "n_patients": len(set(groups)),
        "interval": ONCE if len(plan.divisions) == 1 else RESAMPLED,
        "coverage": f"{coverage_sentence(len(set(groups)))} {crossval_sentence()}",
        "tie": f"a case is a tie where mean Dice over repeats differs by less than {TIE:g}",
        "same_experiment": False,
        "baseline": others[0].name if others else None,
        "experiments": [describe_experiment(e, cases, groups, metrics) for e in experiments],
        "comparisons": pairs,
        "verdicts": verdicts,
        "verdict": verdicts[0] if verdicts else None,
        "warnings": warnings,
        "patients": _patients(plan, experiments),
        "apart": describe_apart(judged, plan.cases, experiments),
        "out_of_fold": dict(ours.runs[0].summary),
        "rows": [row for other in others for row in case_rows(ours, other, cases, groups, metrics)],
    }


def _division(plan: CrossvalPlan, method: str, repeat: int) -> EvaluatedRun:
    """Read the runs of one division, each patient by the fold it was held out of, as one run."""
    folder = plan.division_folder(method, repeat)
    return pool_folds(plan.of(method, repeat), plan.cases, folder)


def _how_trained(plan: CrossvalPlan) -> str:
    folds = len(plan.divisions[0])
    patients = len({c.patient for c in plan.cases.values()})
    how = "each left out once" if folds == patients else f"out of fold in {folds} folds"
    times = len(plan.divisions)
    return how if times == 1 else f"{how}, dealt {times} times"


# ---------------------------------------------------------------------- intervals


@dataclass(frozen=True)
class Resampled:
    """Makes intervals over repeated divisions into folds, whose training sets overlap.

    Attributes:
        members: for every repeat and fold, where its patients stand among those judged.
        patients: how many there are.
        folds: into how many the patients were dealt.
    """

    members: tuple[tuple[tuple[int, ...], ...], ...]
    patients: int
    folds: int

    def __call__(
        self, ours: np.ndarray, baseline: np.ndarray, *, bounds: tuple[float, float]
    ) -> Interval:
        """Return the corrected resampled t interval; both arrays are ``(repeats, patients)``."""
        gains = ours - baseline
        found = [
            float(nanmean(row[list(fold)], 0))
            for row, folds in zip(gains, self.members, strict=True)
            for fold in folds
        ]
        known = [value for value in found if math.isfinite(value)]
        patients = int(np.isfinite(gains).all(0).sum())
        if not known:
            return Interval(math.nan, math.nan, math.nan, 0, none="no patient has a value")
        share = 1 / (self.folds - 1)
        interval = resampled_interval(known, test_share=share, patients=patients, bounds=bounds)
        # Folds may differ in size by a patient: the mean is that over patients, as everywhere.
        shift = float(nanmean(nanmean(gains, 0), 0)) - interval.mean
        low, high = bounds
        return Interval(
            interval.mean + shift,
            max(interval.low + shift, low),
            min(interval.high + shift, high),
            patients,
            interval.level,
            interval.none,
        )


def _interval_of(plan: CrossvalPlan, groups: Sequence[str]) -> PairedInterval:
    """Return what makes the intervals: t over patients, or over repeated folds."""
    if len(plan.divisions) == 1:
        return paired_interval
    place = {patient: i for i, patient in enumerate(dict.fromkeys(groups))}
    members = tuple(_places(folds, place) for folds in plan.divisions)
    return Resampled(members, len(place), len(plan.divisions[0]))


def _places(folds: Folds, place: Mapping[str, int]) -> tuple[tuple[int, ...], ...]:
    found = (tuple(place[patient] for patient in fold if patient in place) for fold in folds)
    return tuple(fold for fold in found if fold)  # one of chosen patients alone has none


# ---------------------------------------------------------------------- words and tables


def _cautions(pair: Mapping[str, Any], plan: CrossvalPlan) -> list[str]:
    """Return what a reader must know beside the verdict."""
    # Of single runs; here every fold is a run of its own, and what that leaves open is said below.
    trained = dict(pair) | {"n_runs": [3, 3]}
    found = cautions_of(trained)
    patients = len({c.patient for c in plan.cases.values()})
    folds, times = len(plan.divisions[0]), len(plan.divisions)
    if times == 1:
        shared = "" if folds == patients else ", and patients of one fold share a training"
        found.append(
            f"every fold is trained once{shared}: the interval covers the luck of training only as "
            "far as folds differ; --repeats 3 shows more of it"
        )
    found.append(
        "folds train on fewer labels than there are: a model of all of them is expected to be a "
        "little better, in both methods"
    )
    return found


def _patients(plan: CrossvalPlan, experiments: Sequence[Experiment]) -> list[dict[str, Any]]:
    """Return what happened to each patient, the one that gains least (or is worst) first."""
    cases = sorted(plan.cases)
    groups = [plan.cases[case].patient for case in cases]
    chosen = chosen_patients(plan.cases.values())
    structures = list(experiments[0].runs[0].structures)
    means = [
        nanmean(patient_means(e.values("dice", cases, structures), groups), 2).mean(0)
        for e in experiments
    ]
    runs = {p: run for run in plan.of(plan.methods[0], 0) for p in plan.divisions[0][run.fold]}
    out = []
    for index, patient in enumerate(dict.fromkeys(groups)):
        own = [case for case, group in zip(cases, groups, strict=True) if group == patient]
        where = RunFolder(Path(runs[patient].name)).predictions(SPLIT)
        entry: dict[str, Any] = {
            "patient": patient,
            "fold": runs[patient].fold,
            "chosen": patient in chosen,
            "dice": float(means[0][index]),
            "predictions": {case: (where / f"{case}.nii.gz").as_posix() for case in own},
        }
        if len(means) > 1:
            entry |= {"baseline": float(means[1][index])}
            entry["gain"] = entry["dice"] - entry["baseline"]
        out.append(entry)
    key = "gain" if len(means) > 1 else "dice"
    return sorted(out, key=lambda e: (math.isnan(e[key]), e[key], e["patient"]))
