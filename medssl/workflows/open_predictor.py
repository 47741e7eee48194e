"""What predicts: a run, several as one, or a bundle; calibrated where it was."""

from __future__ import annotations

from pathlib import Path

from medssl.bundle.load import load_bundle
from medssl.bundle.recognize import is_bundle
from medssl.inference.predictor import Predictor
from medssl.inference.settings import PredictSettings
from medssl.models.loaded_run import load_ensemble


def open_predictor(source: Path, settings: PredictSettings) -> tuple[Predictor, str | None]:
    """Load a predictor.

    Args:
        source: a run folder, a bundle that medssl exported, or the folder of a cross-validation.
        settings: with what else it predicts.

    Returns:
        The predictor, and what its calibration is for if it was left out for that.

    Raises:
        MedSSLError: no run or bundle, runs that do not belong together, or a damaged calibration.
    """
    difference = None
    if is_bundle(source) and not settings.ensemble:
        predictor = load_bundle(source, settings)
    else:
        run = load_ensemble(source, settings)
        predictor = run.predictor
        if settings.calibrated:
            difference = run.use_calibration()
    if not settings.calibrated:
        predictor.calibration = None
    return predictor, difference
