"""What predicts: a run, several as one, or a bundle; calibrated where it was."""

from __future__ import annotations

from pathlib import Path

from medssl.atlases.folder import open_atlases
from medssl.bundle.load import load_bundle
from medssl.errors import MedSSLError, did_you_mean
from medssl.inference.identity import weights_sha256
from medssl.inference.opinion import Opinion
from medssl.inference.predictor import Predictor
from medssl.inference.settings import PredictSettings
from medssl.models.loaded_run import load_ensemble
from medssl.settings.model_names import find_model, installed_models, is_bundle

SHARE = 0.5
"""Of atlases in the mean of probabilities, beside a network."""


def open_predictor(source: Path, settings: PredictSettings) -> tuple[Predictor, str | None]:
    """Load a predictor.

    Args:
        source: a run folder, a bundle that medssl exported, the folder of a cross-validation, or
            the name of an installed model.
        settings: with what else it predicts.

    Returns:
        The predictor, and what its calibration is for if it was left out for that.

    Raises:
        MedSSLError: no run or bundle, runs that do not belong together, or a damaged calibration.
    """
    found, models = find_model(source), installed_models()
    if models and len(found.parts) == 1 and not found.exists():
        raise MedSSLError(
            "there is no such folder, and no installed model of this name",
            where=found,
            fix=did_you_mean(found.name, models),
        )
    predictor, other = _open(found, settings)
    if settings.with_atlas is not None:
        other = ask_atlases(predictor, settings.with_atlas, force=settings.force) or other
    return predictor, other


def ask_atlases(predictor: Predictor, folder: Path, *, force: bool) -> str | None:
    """Let atlases give a second opinion, half of the mean of probabilities.

    Args:
        predictor: of a network, whose label map and data spec count.
        folder: that `medssl atlas` wrote.
        force: take atlases that do not predict each other, too.

    Returns:
        What the calibration is for, if there was one: it is left out, since it was learned of the
        network alone.

    Raises:
        MedSSLError: no such folder, other structures, anatomy that does not align, or a network
            that is given a part of each scan.
    """
    if predictor.regions is not None:
        raise MedSSLError(
            "the network is given what a coarse one finds of each scan, and atlases take whole "
            "scans",
            where="--with-atlas",
            fix="predict without it",
        )
    atlases = open_atlases(folder, predictor.spec, predictor.label_map, force=force)
    predictor.opinion = Opinion(atlases, SHARE, weights_sha256(atlases))
    predictor.source = f"{predictor.source}, {folder}"
    calibrated, predictor.calibration = predictor.calibration is not None, None
    return "the network alone, not for it with atlases" if calibrated else None


def _open(source: Path, settings: PredictSettings) -> tuple[Predictor, str | None]:
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
