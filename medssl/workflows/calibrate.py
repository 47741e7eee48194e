"""Calibrate a run on cases it did not learn from; everything found goes to calibration.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medssl._version import __version__
from medssl.data.datasets.case import IGNORE_INDEX, Case
from medssl.data.images.labels import read_label
from medssl.data.preprocessing.pipeline import preprocess_case
from medssl.errors import MedSSLError
from medssl.evaluation.folders import to_classes
from medssl.evaluation.overlap import confusion_matrix, dice_per_class
from medssl.files import write_json
from medssl.inference.assessment import Assessment
from medssl.inference.calibration import FORMAT, Calibration
from medssl.inference.settings import PredictSettings
from medssl.inference.unusual import learn_reference
from medssl.models.loaded_run import LoadedRun, load_ensemble
from medssl.paths import AnyPath, as_paths
from medssl.progress import Display
from medssl.uncertainty.cases import choose_cases
from medssl.uncertainty.quality import rank_correlation, volume_factors
from medssl.uncertainty.sample import region_near, sample_blocks
from medssl.uncertainty.summary import draw_calibration
from medssl.uncertainty.temperature import BINS, cross_fitted, fit_temperature
from medssl.uncertainty.voxel_figures import Sample, voxel_figures

MARGIN = 2
VOXELS_PER_CASE = 20_000
VOXELS = 400_000
_REGION = (
    f"voxels of the preprocessed image that lie at most {MARGIN} voxels (along every axis) from a "
    "structure of the reference, or are predicted as one; voxels without annotation left out"
)
_ECE = (
    f"voxels sorted by the probability of their most probable class into {BINS} equal parts of "
    "[0, 1]; mean over voxels of the gap between mean probability and share of right ones"
)
_CROSS_VALIDATED = f"{_ECE}; after: each case with the temperature fitted on other patients' cases"
_FIXED = f"{_ECE}; after: with the temperature fitted on the calibration cases"
_QUALITY = (
    "Dice to be expected from the calibrated probabilities, mean over structures; correlated with "
    "the Dice measured on the image's own grid, mean over structures"
)


@dataclass(frozen=True)
class Judged:
    """A case predicted with the temperature, beside its reference.

    Attributes:
        assessment: what the prediction says of itself.
        dice: true Dice per structure, NaN where there is none to have.
        volumes: true over predicted: ``(structures, 2)`` predicted and reference volume.
    """

    case: Case
    assessment: Assessment
    dice: np.ndarray
    volumes: np.ndarray


def calibrate(
    run: AnyPath,
    *,
    split: str = "validation",
    cases: Sequence[str] = (),
    check: str | None = None,
    checkpoint: str = "auto",
    ensemble: AnyPath | Sequence[AnyPath] = (),
    largest_component: bool | None = None,
    tta: bool | None = None,
    device: str = "auto",
    precision: str = "auto",
    display: Display | None = None,
) -> dict[str, Any]:
    """Fit a temperature, and learn how far volumes and quality scores can be believed.

    Two passes over the cases: the first samples voxels to fit the temperature on, the second
    predicts with it. ``RUN/calibration.json`` (see :mod:`medssl.uncertainty.temperature`) is then
    used by `predict` and needed by `triage`; ``calibration.png`` shows it.

    Args:
        run: run folder.
        split: ``validation``.
        cases: instead, ids of cases or patients of the dataset whose labels may be opened for
            this; neither labeled nor test cases of the run.
        check: a split to measure the finished calibration on, usually ``test``; nothing is fitted
            on it.
        ensemble, checkpoint, largest_component, tta: as for `predict`: a calibration holds for
            these choices only.

    Returns:
        The content of the file.

    Raises:
        MedSSLError: no such cases, cases that were trained or are tested on, or fewer than two
            patients.

    Example:
        >>> found = medssl.calibrate("runs/mine")
        >>> found["temperature"] > 0
        True
    """
    display = display or Display(quiet=True)
    settings = PredictSettings(
        checkpoint=checkpoint,
        ensemble=tuple(as_paths(ensemble)),
        device=device,
        precision=precision,
        largest_component=largest_component,
        tta=tta,
    )
    loaded = load_ensemble(Path(run), settings)
    chosen, held_out = choose_cases(loaded, split=split, named=cases, check=check)
    found = _learn(loaded, chosen, "named cases" if cases else split, display)
    found["held_out"] = _check(loaded, held_out, found, display) if held_out else None
    if held_out:
        found["held_out"]["cases_from"] = check
    write_json(loaded.folder.calibration, found)
    content = json.loads(loaded.folder.calibration.read_text(encoding="utf-8"))
    draw_calibration(content, loaded.folder.calibration.with_suffix(".png"))
    return content


def _learn(
    loaded: LoadedRun, cases: Sequence[Case], source: str, display: Display
) -> dict[str, Any]:
    """Calibrate the predictor on cases, ``source`` says which; return all that was learned."""
    loaded.predictor.calibration = None
    samples = _sample(loaded, cases, display)
    logs, labels = [s.log_probs for s in samples], [s.labels for s in samples]
    patients = [c.patient for c in cases]
    temperature = fit_temperature(np.concatenate(logs), np.concatenate(labels))
    others = cross_fitted(logs, labels, patients)
    figures = voxel_figures(samples, others, patients, loaded.label_map, _CROSS_VALIDATED)
    loaded.predictor.calibration = Calibration(temperature, loaded.calibrated())
    judged = _judge(loaded, cases, display)
    features = [j.assessment.features for j in judged]
    names = loaded.label_map.names[1:]
    return {
        "format": FORMAT,
        "medssl": __version__,
        "predictor": loaded.calibrated().as_dict(),
        "cases_from": source,
        "region": _REGION,
        "temperature": temperature,
        **figures,
        "quality": _quality(judged, names),
        "volume": _volume(judged, names),
        "reference": learn_reference(features).as_dict() if len(features) >= 3 else None,
    }


def _sample(loaded: LoadedRun, cases: Sequence[Case], display: Display) -> list[Sample]:
    """Predict cases and keep voxels of the region, at most so many per case and in all."""
    limit = min(VOXELS_PER_CASE, max(VOXELS // len(cases), 1000))
    out = []
    with display.counting_parts("sampling voxels", len(cases)) as (done, window):
        for number, case in enumerate(cases):
            prepared, values = preprocess_case(case, loaded.recipe.spec)
            assert values is not None
            assert case.label is not None
            reference = to_classes(values, loaded.label_map, case.label)
            if loaded.regions is not None:
                prepared = loaded.regions.find(case.images).crop(prepared)
            if prepared.box is not None:
                reference = reference[tuple(slice(a, b) for a, b in prepared.box)]
            blocks = loaded.predictor.blocks(prepared.image, progress=partial(window, case.id))
            probs, labels = sample_blocks(
                blocks,
                reference,
                region_near(reference, MARGIN),
                limit=limit,
                rng=np.random.default_rng([0, number]),
            )
            logs = np.log(np.maximum(probs, torch.finfo(torch.float32).tiny))
            out.append(Sample(logs, labels))
            done(case.id)
    if len({c.patient for c, s in zip(cases, out, strict=True) if len(s.labels)}) < 2:
        raise MedSSLError(
            "fewer than two patients of these have a voxel near a structure",
            where=loaded.folder.splits,
            fix="calibrate on cases that show the structures",
        )
    return out


def _judge(loaded: LoadedRun, cases: Sequence[Case], display: Display) -> list[Judged]:
    """Predict cases with the temperature, and compare with their references."""
    out = []
    labels = loaded.label_map
    with display.counting_parts("predicting", len(cases)) as (done, window):
        for case in cases:
            assert case.label is not None
            prediction = loaded.predictor.predict_file(
                case.images,
                assess=True,
                progress=partial(window, case.id),
                force=True,  # of the run's own dataset
            )
            assert prediction.assessment is not None
            values, _ = read_label(case.label)
            confusion = confusion_matrix(
                labels.to_classes(prediction.values),
                to_classes(values, labels, case.label),
                labels.num_classes,
                IGNORE_INDEX,
            )
            volumes = np.stack((confusion.sum(axis=0), confusion.sum(axis=1)), axis=1)
            out.append(
                Judged(case, prediction.assessment, dice_per_class(confusion)[1:], volumes[1:])
            )
            done(case.id)
    return out


def _quality(judged: Sequence[Judged], names: Sequence[str]) -> dict[str, Any]:
    patients = [j.case.patient for j in judged]
    own = [_number(j.assessment.quality) for j in judged]
    true = [float(np.nanmean(j.dice)) if np.isfinite(j.dice).any() else np.nan for j in judged]
    overall = rank_correlation(own, true, patients)
    structures = {}
    for index, name in enumerate(names):
        expected = [_number(j.assessment.structures[index].expected_dice) for j in judged]
        one = rank_correlation(expected, [float(j.dice[index]) for j in judged], patients)
        structures[name] = {"spearman": one.spearman, "low": one.low, "high": one.high, "n": one.n}
    return {
        "definition": _QUALITY,
        "spearman": overall.spearman,
        "low": overall.low,
        "high": overall.high,
        "level": overall.level,
        "no_interval": overall.none,
        "n": overall.n,
        "n_patients": overall.n_patients,
        "structures": structures,
        "cases": [
            {"case": j.case.id, "patient": j.case.patient, "quality": q, "dice": d}
            for j, q, d in zip(judged, own, true, strict=True)
        ],
    }


def _volume(judged: Sequence[Judged], names: Sequence[str]) -> dict[str, Any]:
    out = {}
    for index, name in enumerate(names):
        predicted, reference = np.array([j.volumes[index] for j in judged]).T
        factors = volume_factors(predicted.tolist(), reference.tolist())
        if factors is not None:
            out[name] = {
                "low_factor": factors.low,
                "high_factor": factors.high,
                "level": factors.level,
                "n": factors.n,
            }
    return out


def _check(
    loaded: LoadedRun, cases: Sequence[Case], found: dict[str, Any], display: Display
) -> dict[str, Any]:
    """Measure a finished calibration on cases that nothing was fitted on."""
    calibration = loaded.predictor.calibration
    assert calibration is not None
    loaded.predictor.calibration = None
    samples = _sample(loaded, cases, display)
    loaded.predictor.calibration = calibration
    patients = [c.patient for c in cases]
    fixed = [calibration.temperature] * len(cases)
    figures = voxel_figures(samples, fixed, patients, loaded.label_map, _FIXED)
    judged = _judge(loaded, cases, display)
    names = loaded.label_map.names[1:]
    coverage = {}
    for index, name in enumerate(names):
        pairs = np.array([j.volumes[index] for j in judged], dtype=np.float64)
        pairs = pairs[pairs[:, 0] > 0]
        if name in found["volume"] and len(pairs):
            low, high = (found["volume"][name][f"{end}_factor"] for end in ("low", "high"))
            ratio = pairs[:, 1] / pairs[:, 0]
            inside = (ratio >= low) & (ratio <= high)
            coverage[name] = {"coverage": float(inside.mean()), "n": len(pairs)}
    return figures | {"quality": _quality(judged, names), "volume": coverage}


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
