"""``metadata.json`` of a bundle, and the rules of MONAI's schema that it is checked against."""

from __future__ import annotations

from typing import Any

import monai
import numpy as np
import torch

from medssl._version import __version__
from medssl.bundle.contents import Contents
from medssl.data.datasets.case import LabelMap
from medssl.inference.training_fingerprint import FINGERPRINT
from medssl.settings.recipe import InferenceSettings
from medssl.settings.spec import DataSpec

SCHEMA = "https://project-monai.github.io/schema/meta_schema_20240725.json"
REQUIRED = (
    "schema",
    "version",
    "monai_version",
    "pytorch_version",
    "numpy_version",
    "required_packages_version",
    "task",
    "description",
    "authors",
    "copyright",
    "network_data_format",
)
TENSOR_FIELDS = (
    "type",
    "format",
    "num_channels",
    "spatial_shape",
    "dtype",
    "value_range",
)
"""Fields every input and output must have (MONAI's schema of 2024-07-25)."""

FIRST_VERSION = "0.1.0"
"""Of a bundle, not of medssl: its receiver counts on."""


def make_metadata(contents: Contents, *, authors: str, copyright_notice: str) -> dict[str, Any]:
    """Return the content of ``metadata.json``; the key ``medssl`` is for medssl itself."""
    names = ", ".join(one.name for one in contents.labels.structures)
    modality = contents.spec.modality
    packages = {"nibabel": "5.2", "scipy": "1.10", "pytorch-ignite": "0.5.2", "fire": "0.7"}
    return {
        "schema": SCHEMA,
        "version": FIRST_VERSION,
        "changelog": {FIRST_VERSION: "exported by medssl"},
        "monai_version": monai.__version__,
        "pytorch_version": str(torch.__version__).partition("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": packages,
        "supported_apps": {},
        "name": contents.name,
        "task": f"Segmentation of {names} in {modality}",
        "description": (
            f"Trained by medssl with the method {contents.method} on "
            f"{contents.cases.get('labeled', 0)} labeled and "
            f"{contents.cases.get('unlabeled', 0)} unlabeled images"
        ),
        "authors": authors,
        "copyright": copyright_notice,
        "data_type": "nifti",
        "intended_use": "Research only. Not a medical device.",
        "references": [contents.paper],
        "network_data_format": {
            "inputs": {"image": _image_format(contents)},
            "outputs": {"pred": _prediction_format(contents)},
        },
        "medssl": {
            "version": __version__,
            "format": 1,
            "method": contents.method,
            "model": contents.model,
            "spec": contents.spec.model_dump(mode="json"),
            "inference": contents.inference.model_dump(mode="json"),
            "patch": list(contents.patch),
            "channels": contents.channels,
            "labels": {k: v for k, v in contents.labels.as_dict().items() if k != "ignore_value"},
            "plugins": contents.plugins(),
            "members": contents.members,
            **({} if contents.calibration is None else {"calibration": contents.calibration}),
            **(
                {}
                if contents.fingerprint is None
                else {FINGERPRINT: contents.fingerprint.as_dict()}
            ),
        },
    }


def read_own(entry: dict[str, Any]) -> tuple[DataSpec, InferenceSettings, LabelMap]:
    """Read back data spec, inference settings and labels of the key ``medssl``.

    Raises:
        KeyError, ValueError, TypeError: the entry is damaged.
    """
    return (
        DataSpec.model_validate(entry["spec"]),
        InferenceSettings.model_validate(entry["inference"]),
        LabelMap.from_dict(entry["labels"]),
    )


def problems_of(metadata: Any) -> list[str]:
    """Return what in ``metadata.json`` breaks the rules of MONAI's schema, in plain words."""
    if not isinstance(metadata, dict):
        return ["it is not a mapping"]
    out = [f"key {key!r} is missing" for key in REQUIRED if key not in metadata]
    for key in ("schema", "version", "task", "description", "authors", "copyright"):
        if key in metadata and not isinstance(metadata[key], str):
            out.append(f"{key!r} is not a text")
    if not isinstance(metadata.get("required_packages_version", {}), dict):
        out.append("'required_packages_version' is not a mapping")
    if not isinstance(metadata.get("supported_apps", {}), dict):
        out.append("'supported_apps' is not a mapping")
    formats = metadata.get("network_data_format")
    if not isinstance(formats, dict):
        return out
    for side in ("inputs", "outputs"):
        tensors = formats.get(side)
        if not isinstance(tensors, dict) or not tensors:
            out.append(f"'network_data_format' has no {side}")
            continue
        for name, tensor in tensors.items():
            missing = [f for f in TENSOR_FIELDS if f not in tensor]
            out += [f"{side} {name!r} has no {field!r}" for field in missing]
    return out


def _image_format(contents: Contents) -> dict[str, Any]:
    hounsfield = contents.spec.modality == "CT"
    return {
        "type": "image",
        "format": "hounsfield" if hounsfield else "magnitude",
        "modality": contents.spec.modality,
        "num_channels": contents.channels,
        "spatial_shape": list(contents.patch),
        "dtype": "float32",
        "value_range": [0, 1] if contents.spec.intensity.rule != "zscore" else [-10, 10],
        "is_patch_data": True,
        "channel_def": {str(i): "image" for i in range(contents.channels)},
    }


def _prediction_format(contents: Contents) -> dict[str, Any]:
    return {
        "type": "image",
        "format": "segmentation",
        "num_channels": contents.labels.num_classes,
        "spatial_shape": list(contents.patch),
        "dtype": "float32",
        "value_range": [0, 1],
        "is_patch_data": True,
        "channel_def": {str(i): name for i, name in enumerate(contents.labels.names)},
    }
