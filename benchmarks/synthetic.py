"""Datasets of any size: ellipsoids in noise, in Decathlon layout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np


def write_ellipsoids(
    root: Path,
    *,
    cases: int,
    shape: Sequence[int],
    classes: int = 2,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
) -> Path:
    """Write labeled volumes, each with one ellipsoid per class besides background.

    Args:
        root: folder of the dataset.
        cases: how many.
        shape: voxels.
        classes: with background.
        spacing: mm.
    """
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    affine, names = np.diag([*spacing, 1.0]), [f"case_{i:04d}.nii.gz" for i in range(cases)]
    for name in names:
        label = np.zeros(shape, np.uint8)
        for value in range(1, classes):
            center = rng.uniform(-0.4, 0.4, 3)[:, None, None, None]
            label[((grid - center) ** 2).sum(0) < 0.35**2 / value] = value
        image = (label * 40.0 + rng.normal(100, 20, shape)).astype(np.int16)
        nib.save(nib.Nifti1Image(image, affine), root / "imagesTr" / name)
        nib.save(nib.Nifti1Image(label, affine), root / "labelsTr" / name)
    header = {
        "name": "ellipsoids",
        "modality": {"0": "MRI"},
        "labels": {str(i): f"class {i}" if i else "background" for i in range(classes)},
        "numTraining": cases,
        "training": [{"image": f"imagesTr/{n}", "label": f"labelsTr/{n}"} for n in names],
        "test": [],
    }
    (root / "dataset.json").write_text(json.dumps(header))
    return root
