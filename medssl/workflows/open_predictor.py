"""What predicts: a run, several as one, or a bundle; calibrated where it was."""

from __future__ import annotations

from pathlib import Path

from medssl.bundle.load import load_bundle
from medssl.bundle.recognize import is_bundle
from medssl.errors import MedSSLError
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
    # Without maps a run's calibration changes nothing; that of folds decides how they are averaged.
    shown = settings.probabilities or settings.uncertainty or settings.assess
    if is_bundle(source) and not settings.ensemble:
        if settings.members is not None or settings.fold is not None:
            raise MedSSLError(
                "a bundle predicts with all its members: --members and --fold are for the folder "
                "of a cross-validation",
                where=source,
                fix="leave them out, or give them to `medssl export`",
            )
        predictor = load_bundle(source, settings)
        if not shown and not predictor.looks:
            predictor.calibration = None
        return predictor, None
    run = load_ensemble(source, settings)
    used = settings.calibrated and (shown or run.crossval is not None)
    return run.predictor, run.use_calibration() if used else None
