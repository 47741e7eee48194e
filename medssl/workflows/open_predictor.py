"""What predicts: a run, several as one, or a bundle; calibrated where it was."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medssl.bundle.load import is_bundle, load_bundle
from medssl.inference.predictor import Predictor
from medssl.models.loaded_run import load_ensemble


def open_predictor(
    source: Path,
    *,
    calibrated: bool,
    ensemble: Sequence[Path] = (),
    checkpoint: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    largest_component: bool | None = None,
    tta: bool | None = None,
) -> tuple[Predictor, str | None]:
    """Load a predictor.

    Args:
        source: a run folder, or a bundle that medssl exported.
        calibrated: use the calibration of the run or bundle, where it has one.
        ensemble: more runs, whose probabilities are averaged with it.
        checkpoint, device, precision, largest_component, tta: see
            :func:`medssl.models.loaded_run.load_run`.

    Returns:
        The predictor, and what its calibration is for if it was left out for that.

    Raises:
        MedSSLError: no run or bundle, runs that do not belong together, or a damaged calibration.
    """
    difference = None
    choices = {
        "device": device,
        "precision": precision,
        "largest_component": largest_component,
        "tta": tta,
    }
    if is_bundle(source) and not ensemble:
        predictor = load_bundle(source, **choices)
    else:
        run = load_ensemble([source, *ensemble], checkpoint=checkpoint, **choices)
        predictor = run.predictor
        if calibrated:
            difference = run.use_calibration()
    if not calibrated:
        predictor.calibration = None
    return predictor, difference
