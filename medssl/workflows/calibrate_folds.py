"""Calibrate a cross-validation: each fold on the patients that it never saw.

Nothing here is learned from the folds together. Of a labeled patient all folds but one saw the
label, so what they say together of it is too good; the one that did not is the honest one, and it
alone is held against the label.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medssl._version import __version__
from medssl.data.datasets.case import Case
from medssl.data.opened import open_dataset
from medssl.errors import MedSSLError
from medssl.inference.calibration import FORMAT, Calibration
from medssl.inference.members import temper
from medssl.inference.settings import PredictSettings
from medssl.inference.unusual import learn_reference
from medssl.models.loaded_run import LoadedRun, load_ensemble
from medssl.progress import Display
from medssl.runs.lineage import CROSSVAL
from medssl.runs.members import members_of
from medssl.uncertainty.cases import refuse_seen_by
from medssl.uncertainty.dice_fit import MIN_PATIENTS, learn_dice
from medssl.uncertainty.judged import (
    REGION,
    Judged,
    check_samples,
    judge_cases,
    quality_figures,
    sample_cases,
    volume_figures,
)
from medssl.uncertainty.temperature import cross_fitted, fit_temperature
from medssl.uncertainty.voxel_figures import ECE, Sample, voxel_figures

SOURCE = "patients left out, each by the fold that left it out"
_LEFT_OUT = (
    f"{ECE}; each patient by the fold that left it out; after: with the temperature fitted on the "
    "other patients left out of the same fold, or, where there are none, of all other folds"
)
_DICE = (
    "mean Dice over structures, by ridge regression on numbers of the one fold that never saw the "
    "patient; error: mean over patients of the absolute difference, each predicted by the rule of "
    "the others; error_of_mean: the same if everybody is said to reach the others' mean"
)


@dataclass(frozen=True)
class Fold:
    """A fold with the cases it left out; ``patients`` counts copies of a scan as one patient's."""

    loaded: LoadedRun
    cases: tuple[Case, ...]


def learn_folds(path: Path, settings: PredictSettings, display: Display) -> dict[str, Any]:
    """Calibrate each fold on the patients it left out, and learn what Dice to expect.

    Each gets a temperature, which divides its logits before the folds are averaged. With it, each
    predicts its patients; what this one model says of itself, its entropy, volumes and agreement
    with its own prediction of a mirror image, is held against the true Dice.

    Args:
        path: of the cross-validation.
        settings: how it predicts.
        display: shows progress.

    Returns:
        The content of ``calibration.json``.

    Raises:
        MedSSLError: it is not finished, its patients are not what they were, a fold saw a patient
            it left out, or fewer than two patients show a structure.
    """
    folds = _folds(path, settings)
    cases = [case for fold in folds for case in fold.cases]
    patients = [case.patient for case in cases]
    samples = [sample_cases(fold.loaded, fold.cases, display) for fold in folds]
    flat = [sample for own in samples for sample in own]
    check_samples(flat, cases, path / CROSSVAL)
    temperatures = _temperatures(samples)
    others = _others_temperatures(samples, folds)
    figures = voxel_figures(flat, others, patients, folds[0].loaded.label_map, _LEFT_OUT)
    of = replace(
        folds[0].loaded.calibrated(),
        weights=tuple(w for fold in folds for w in fold.loaded.calibrated().weights),
    )
    judged: list[Judged] = []
    for fold, temperature in zip(folds, temperatures, strict=True):
        # As a member of all folds: its logits are divided before its windows are averaged.
        fold.loaded.predictor.model = temper(fold.loaded.predictor.model, [temperature])
        fold.loaded.predictor.calibration = Calibration(1.0, of, looks=2)
        judged += judge_cases(fold.loaded, fold.cases, display)
    names = folds[0].loaded.label_map.names[1:]
    features = [j.assessment.features for j in judged]
    dice = _dice(judged)
    return {
        "format": FORMAT,
        "medssl": __version__,
        "predictor": of.as_dict(),
        "cases_from": SOURCE,
        "region": REGION,
        "temperature": 1.0,
        **figures,
        "quality": quality_figures(judged, names),
        "volume": volume_figures(judged, names),
        "reference": learn_reference(features).as_dict() if len(features) >= 3 else None,
        "folds": {
            "members": [fold.loaded.folder.path.name for fold in folds],
            "temperatures": temperatures,
            "looks": 2 if dice and "mirrored" in dice["slopes"] else 1,
            "dice": dice,
            "no_dice": "" if dice else f"fewer than {MIN_PATIENTS} patients to learn it from",
        },
        "held_out": None,
    }


def _folds(path: Path, settings: PredictSettings) -> list[Fold]:
    """Load each fold, with the cases it left out.

    Raises:
        MedSSLError: see :func:`learn_folds`.
    """
    count = len(members_of(path))
    by_fold = _left_out(path)
    folds = []
    dataset = None
    for number in range(count):
        loaded = load_ensemble(path, replace(settings, fold=number))
        if dataset is None:
            dataset = open_dataset(loaded.recipe.data, loaded.recipe.spec)
        known = {case.id: case for case in dataset.training if case.label is not None}
        gone = [case_id for case_id in by_fold.get(number, {}) if case_id not in known]
        if gone or not by_fold.get(number):
            raise MedSSLError(
                f"case '{gone[0]}' is no labeled case of the dataset any more"
                if gone
                else f"fold {number} left no patient out",
                where=path / CROSSVAL,
                fix="restore the dataset, or run `medssl crossval` again",
            )
        own = [known[case_id] for case_id in by_fold[number]]
        refuse_seen_by(loaded, dataset, own, "left-out")
        merged = (replace(case, patient=by_fold[number][case.id]) for case in own)
        folds.append(Fold(loaded, tuple(merged)))
    return folds


def _left_out(path: Path) -> dict[int, dict[str, str]]:
    """Return which cases each fold left out, with their patients; copies have one patient.

    Raises:
        MedSSLError: the record does not say.
    """
    record = path / CROSSVAL
    out: dict[int, dict[str, str]] = {}
    try:
        for one in json.loads(record.read_text(encoding="utf-8"))["patients"]:
            own = out.setdefault(int(one["fold"]), {})
            own |= {str(case): str(one["patient"]) for case in one["predictions"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MedSSLError(
            f"the record of the cross-validation is damaged ({type(error).__name__}: {error})",
            where=record,
            fix="run the same `medssl crossval` command again: what is finished is kept",
        ) from None
    return {number: dict(sorted(own.items())) for number, own in out.items()}


def _temperatures(samples: Sequence[Sequence[Sample]]) -> list[float]:
    """Fit the temperature of each fold; one without a voxel gets the others' geometric mean."""
    fitted = [_fit(own) for own in samples]
    logs = [math.log(t) for t in fitted if t is not None]
    usual = math.exp(sum(logs) / len(logs))
    return [usual if t is None else t for t in fitted]


def _others_temperatures(samples: Sequence[Sequence[Sample]], folds: Sequence[Fold]) -> list[float]:
    """Return for each case a temperature that no scan of its patient helped to fit."""
    out: list[float] = []
    for number, (own, fold) in enumerate(zip(samples, folds, strict=True)):
        patients = [case.patient for case in fold.cases]
        shown = {p for p, s in zip(patients, own, strict=True) if len(s.labels)}
        if len(shown) > 1:
            logs, labels = [s.log_probs for s in own], [s.labels for s in own]
            out += cross_fitted(logs, labels, patients)
        else:
            rest = [s for other, ss in enumerate(samples) if other != number for s in ss]
            found = _fit(rest)
            out += [1.0 if found is None else found] * len(own)
    return out


def _fit(samples: Sequence[Sample]) -> float | None:
    """Fit one temperature to cases; None if they have no voxel."""
    labels = np.concatenate([s.labels for s in samples])
    if not len(labels):
        return None
    return fit_temperature(np.concatenate([s.log_probs for s in samples]), labels)


def _dice(judged: Sequence[Judged]) -> dict[str, Any] | None:
    """Learn what Dice to expect; None with too few patients."""
    numbers = [j.assessment.members[0] for j in judged]
    true = [j.mean_dice for j in judged]
    found = learn_dice(numbers, true, [j.case.patient for j in judged])
    if found is None:
        return None
    error = found.error
    return {
        **found.rule.as_dict(),
        "definition": _DICE,
        "error_low": error.low,
        "error_high": error.high,
        "level": error.level,
        "no_interval": error.none,
        "error_of_mean": found.error_of_mean.mean,
        "cases": [
            {"case": j.case.id, "patient": j.case.patient, "predicted": said, "dice": dice, **own}
            for j, said, dice, own in zip(judged, found.predicted, true, numbers, strict=True)
        ],
    }
