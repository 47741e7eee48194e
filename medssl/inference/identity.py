"""What decides a prediction: the weights and the settings that change its voxels."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from medssl.inference.members import temperatures_of

if TYPE_CHECKING:
    from medssl.inference.predictor import Predictor

SAME_VOXELS = {"window_batch", "memory_gb"}
"""Inference settings that decide time and memory alone."""


def weights_sha256(model: nn.Module) -> str:
    """Return a hash of all weights and buffers of a model, whatever file they came from.

    Names do not count: a model inside another one, which mirrors its images, has the same weights.
    """
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def options_of(predictor: Predictor) -> dict[str, Any]:
    """Return, as plain data, what but the weights changes the voxels of a label map."""
    regions = predictor.regions
    temperatures, opinion = temperatures_of(predictor.model), predictor.opinion
    inference = predictor.inference.model_dump(mode="json", exclude=SAME_VOXELS)
    if inference.pop("decide") == "regions":
        inference["decide"] = predictor.label_map.region_classes
    return {
        **inference,
        "largest_component": predictor.largest_component,
        "patch": list(predictor.patch),
        "precision": predictor.precision,
        "labels": list(predictor.label_map.values),
        "spec_sha256": _sha256(predictor.spec.model_dump(mode="json")),
        "regions_sha256": None if regions is None else regions.fingerprint,
        **({"temperatures": temperatures} if temperatures else {}),
        **({"opinion": [opinion.sha256, opinion.weight]} if opinion is not None else {}),
    }


def fingerprint(predictor: Predictor) -> str:
    """Return one hash of weights and options."""
    return _sha256([weights_sha256(predictor.model), options_of(predictor)])


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
