"""Calibrate a run on cases it did not learn from; everything found goes to calibration.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medssl._version import __version__
from medssl.data.datasets.case import Case
from medssl.errors import MedSSLError
from medssl.files import write_json
from medssl.inference.calibration import FORMAT, Calibration
from medssl.inference.settings import PredictSettings
from medssl.inference.unusual import learn_reference
from medssl.models.loaded_run import LoadedRun, load_ensemble
from medssl.paths import AnyPath, as_paths
from medssl.progress import Display
from medssl.runs.folder import RunFolder
from medssl.runs.members import is_crossval
from medssl.uncertainty.cases import choose_cases
from medssl.uncertainty.judged import (
    REGION,
    check_samples,
    judge_cases,
    quality_figures,
    sample_cases,
    volume_figures,
)
from medssl.uncertainty.summary import draw_calibration
from medssl.uncertainty.temperature import cross_fitted, fit_temperature
from medssl.uncertainty.voxel_figures import ECE, voxel_figures
from medssl.workflows.calibrate_folds import learn_folds

_CROSS_VALIDATED = f"{ECE}; after: each case with the temperature fitted on other patients' cases"
_FIXED = f"{ECE}; after: with the temperature fitted on the calibration cases"


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

    Each fold of a cross-validation is calibrated by itself, on the patients it left out; see
    :func:`medssl.workflows.calibrate_folds.learn_folds`.

    Args:
        run: run folder, or that of a cross-validation: `cases`, `split`, `check` and `ensemble` are
            not for these.
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
    if is_crossval(Path(run)):
        chosen_cases = bool(cases or check or split != "validation")
        _refuse_options(Path(run), cases=chosen_cases, ensemble=bool(settings.ensemble))
        return _written(learn_folds(Path(run), settings, display), RunFolder(Path(run)).calibration)
    loaded = load_ensemble(Path(run), settings)
    chosen, held_out = choose_cases(loaded, split=split, named=cases, check=check)
    found = _learn(loaded, chosen, "named cases" if cases else split, display)
    found["held_out"] = _check(loaded, held_out, found, display) if held_out else None
    if held_out:
        found["held_out"]["cases_from"] = check
    return _written(found, loaded.folder.calibration)


def _written(found: dict[str, Any], path: Path) -> dict[str, Any]:
    """Write and draw a calibration; return it as it stands in the file."""
    write_json(path, found)
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    draw_calibration(content, path.with_suffix(".png"))
    return content


def _refuse_options(crossval: Path, *, cases: bool, ensemble: bool) -> None:
    """Refuse what chooses other cases, or more runs, for a cross-validation.

    Raises:
        MedSSLError: one of them is chosen.
    """
    if cases:
        raise MedSSLError(
            "each fold of a cross-validation is calibrated on the patients it left out",
            where=crossval,
            fix="leave out --cases, --split and --check, or name the folder of a run",
        )
    if ensemble:
        raise MedSSLError(
            "the folds of a cross-validation are calibrated one by one, without other runs",
            where=crossval,
            fix="leave out --ensemble",
        )


def _learn(
    loaded: LoadedRun, cases: Sequence[Case], source: str, display: Display
) -> dict[str, Any]:
    """Calibrate the predictor on cases, ``source`` says which; return all that was learned."""
    loaded.predictor.calibration = None
    samples = sample_cases(loaded, cases, display)
    check_samples(samples, cases, loaded.folder.splits)
    logs, labels = [s.log_probs for s in samples], [s.labels for s in samples]
    patients = [c.patient for c in cases]
    temperature = fit_temperature(np.concatenate(logs), np.concatenate(labels))
    others = cross_fitted(logs, labels, patients)
    figures = voxel_figures(samples, others, patients, loaded.label_map, _CROSS_VALIDATED)
    loaded.predictor.calibration = Calibration(temperature, loaded.calibrated())
    judged = judge_cases(loaded, cases, display)
    features = [j.assessment.features for j in judged]
    names = loaded.label_map.names[1:]
    return {
        "format": FORMAT,
        "medssl": __version__,
        "predictor": loaded.calibrated().as_dict(),
        "cases_from": source,
        "region": REGION,
        "temperature": temperature,
        **figures,
        "quality": quality_figures(judged, names),
        "volume": volume_figures(judged, names),
        "reference": learn_reference(features).as_dict() if len(features) >= 3 else None,
    }


def _check(
    loaded: LoadedRun, cases: Sequence[Case], found: dict[str, Any], display: Display
) -> dict[str, Any]:
    """Measure a finished calibration on cases that nothing was fitted on."""
    calibration = loaded.predictor.calibration
    assert calibration is not None
    loaded.predictor.calibration = None
    samples = sample_cases(loaded, cases, display)
    check_samples(samples, cases, loaded.folder.splits)
    loaded.predictor.calibration = calibration
    patients = [c.patient for c in cases]
    fixed = [calibration.temperature] * len(cases)
    figures = voxel_figures(samples, fixed, patients, loaded.label_map, _FIXED)
    judged = judge_cases(loaded, cases, display)
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
    return figures | {"quality": quality_figures(judged, names), "volume": coverage}
