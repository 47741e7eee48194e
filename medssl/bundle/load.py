"""Read back a bundle that medssl wrote, without executing anything in it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from medssl.bundle.metadata import read_own
from medssl.bundle.model_tree import rebuild
from medssl.device import resolve_device, resolve_precision
from medssl.errors import MedSSLError
from medssl.inference.calibration import Calibration
from medssl.inference.members import temper, temperatures_of
from medssl.inference.mirror import mirrored
from medssl.inference.predictor import Predictor
from medssl.inference.settings import PredictSettings
from medssl.inference.task import Task
from medssl.inference.training_fingerprint import FINGERPRINT, read_fingerprint
from medssl.networks.ensemble import Ensemble
from medssl.plugins import check_plugins
from medssl.runs.checkpoint import load_tensors, load_weights

FORMAT = 1


def load_bundle(
    path: Path, settings: PredictSettings, *, network: nn.Module | None = None
) -> Predictor:
    """Load the predictor of a bundle that medssl wrote.

    The network is built from registered names in ``metadata.json`` and weights are read with
    ``weights_only``: neither the configuration's expressions nor ``scripts/`` nor ``model.ts`` of
    a bundle are ever executed.

    Args:
        network: predicts in the place of the bundle's own: the same one, run by another library.

    Raises:
        MedSSLError: the bundle is not of medssl's making, or damaged.
    """
    where = path / "configs" / "metadata.json"
    entry = _own_entry(where, path)
    check_plugins(entry.get("plugins", []), where=where)
    try:
        spec, inference, labels = read_own(entry)
        task = Task(
            spec,
            labels,
            tuple(int(n) for n in entry["patch"]),
            int(entry["channels"]),
            read_fingerprint(entry.get(FINGERPRINT)),
        )
        model = rebuild(entry["model"]) if network is None else network
        own = entry.get("calibration")
        calibration = None if own is None else Calibration.from_dict(own)
    except MedSSLError:
        raise
    except Exception as error:  # anything may stand where a number or a name belongs
        raise MedSSLError(
            f"the bundle's description is damaged ({type(error).__name__})",
            where=where,
            fix="copy or export the bundle again",
        ) from error
    inference = settings.chosen(inference)
    if network is None:
        file = path / "models" / "model.pt"
        load_weights(model, load_tensors(file), file)
    device = resolve_device(settings.device)
    precision = resolve_precision(settings.precision, device)
    predictor = Predictor(model.to(device), task, inference, device=device, precision=precision)
    predictor.source = str(path)
    if inference.tta and isinstance(model, Ensemble) and entry.get("members", 1) > 1:
        # As an ensemble of runs: each is averaged over its own mirror images.
        dims = len(task.patch)
        predictor.model = Ensemble(
            [mirrored(member, spec, labels, spatial_dims=dims) for member in model.members]
        )
    if calibration is not None and settings.calibrated:
        used = replace(
            calibration.of,
            tta=inference.tta,
            largest_component=predictor.largest_component,
            decide=inference.decide,
        )
        # Chosen otherwise here, the predictions are not those that were calibrated.
        predictor.calibration = calibration if calibration.of.difference(used) is None else None
    if predictor.calibration is None and temperatures_of(predictor.model):
        predictor.model = temper(predictor.model)
    return predictor


def _own_entry(file: Path, bundle: Path) -> dict[str, Any]:
    """Return what medssl wrote into the metadata for itself.

    Raises:
        MedSSLError: the file cannot be read, or another program wrote the bundle.
    """
    try:
        metadata = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise MedSSLError(
            f"the bundle's metadata cannot be read: {error}", where=file, fix="copy it again"
        ) from None
    entry = metadata.get("medssl") if isinstance(metadata, dict) else None
    if not isinstance(entry, dict) or entry.get("format") != FORMAT:
        raise MedSSLError(
            "this bundle was not written by medssl, and medssl does not execute what it did not "
            "write",
            where=bundle,
            fix="if you trust its authors, run it with MONAI: python -m monai.bundle run "
            "--config_file BUNDLE/configs/inference.json --bundle_root BUNDLE",
        )
    return entry
