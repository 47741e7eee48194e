"""Small datasets and recipes for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
import torch
import yaml

from medssl.training.engine import Engine

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


def blob_case(seed: int, shape: tuple[int, int, int] = (24, 24, 12)) -> tuple[np.ndarray, ...]:
    """Return an int16 image and a uint8 label: a bright ball and a dimmer one, on noise."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    label = np.zeros(shape, np.uint8)
    for value, share in ((1, 0.3), (2, 0.68)):
        center = np.array(shape) * share + rng.uniform(-1, 1, 3)
        scale = np.array([4.0, 4.0, 2.5]) * rng.uniform(0.8, 1.2)
        label[(((grid - center) / scale) ** 2).sum(-1) <= 1] = value
    image = 100 + 150 * (label == 1) + 80 * (label == 2) + rng.normal(0, 12, shape)
    return image.astype(np.int16), label


def write_dataset(
    root: Path, *, cases: int = 8, unlabeled: int = 0, shape: tuple[int, int, int] = (24, 24, 12)
) -> Path:
    """Write a Decathlon folder of ``cases`` labeled scans, and some in imagesUn."""
    for folder in ("imagesTr", "labelsTr", *(["imagesUn"] if unlabeled else [])):
        (root / folder).mkdir(parents=True, exist_ok=True)
    training = []
    for i in range(cases + unlabeled):
        image, label = blob_case(i, shape)
        name = f"case_{i:02d}.nii.gz"
        folder = "imagesTr" if i < cases else "imagesUn"
        nib.save(nib.Nifti1Image(image, AFFINE), root / folder / name)
        if i < cases:
            nib.save(nib.Nifti1Image(label, AFFINE), root / "labelsTr" / name)
            training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    header = {
        "name": "blobs",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "bright", "2": "dim"},
        "numTraining": cases,
        "training": training,
        "test": [],
    }
    (root / "dataset.json").write_text(json.dumps(header))
    return root


def small_recipe(root: Path, cache: Path, **changes: Any) -> dict[str, Any]:
    """Return a recipe that trains in about a second; ``changes`` replace whole sections."""
    recipe = {
        "name": "small",
        "seed": 3,
        "data": {
            "root": str(root),
            "labeled": 3,
            "test": 2,
            "cache": str(cache),
        },
        "spec": {"intensity": {"rule": "zscore"}, "flip_axes": [0]},
        "network": {"name": "unet", "channels": [4, 8], "strides": [2]},
        "method": {"name": "bcp"},
        "training": {
            "iterations": 8,
            "patch": [16, 16, 8],
            "labeled_batch": 2,
            "unlabeled_batch": 2,
            "log_every": 2,
            "validate_every": 4,
            "checkpoint_every": 3,
            "precision": "fp32",
        },
        "inference": {"overlap": 0.25},
    }
    for key, value in changes.items():
        old = recipe.get(key)
        recipe[key] = (
            {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
        )
    return recipe


def write_recipe(path: Path, recipe: dict[str, Any]) -> Path:
    """Write a recipe as YAML."""
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def crash_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Make the engine die in its ``steps``-th optimizer step, after the weights changed."""
    step, done = Engine._step, []

    def dying(self: Engine, *arguments: Any) -> None:
        step(self, *arguments)
        done.append(1)
        if len(done) == steps:
            raise RuntimeError("power cut")

    monkeypatch.setattr(Engine, "_step", dying)


def write_itk(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    """Write an array with a RAS affine as NRRD or MetaImage."""
    lps = np.diag([-1, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    sitk.WriteImage(image, str(path))
    return path


def same_bits(one: Any, other: Any, where: str = "") -> None:
    """Compare two checkpoints bit for bit, apart from the clock."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            if key != "seconds":
                same_bits(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list):
        assert len(one) == len(other)
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            same_bits(a, b, f"{where}/{i}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where
