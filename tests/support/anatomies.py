"""Small scans of one anatomy, bent from patient to patient: two bodies beside each other."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE = (24, 22, 20)


def draw(
    shape: tuple[int, ...] = SHAPE,
    affine: np.ndarray | None = None,
    bend: float = 0.0,
    shift: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return image and label of two bodies in world space, the right one larger.

    Args:
        shape: of the grid.
        affine: of the grid, to RAS in mm.
        bend: largest displacement by a smooth field, mm.
        shift: of the label alone along the first axis, mm: what no image tells.
    """
    affine = np.eye(4) if affine is None else affine
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    x, y, z = np.moveaxis(index @ affine[:3, :3].T + affine[:3, 3], -1, 0)
    x, y = x + bend * np.sin(y / 4), y + 0.7 * bend * np.cos(z / 5)

    def bodies(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        right = ((x - 15) / 5) ** 2 + ((y - 11) / 6) ** 2 + ((z - 10) / 5) ** 2
        return right, ((x - 6) / 3) ** 2 + ((y - 11) / 4) ** 2 + ((z - 9) / 4) ** 2

    right, left = bodies(x)
    image = 2 / (1 + np.exp(4 * (right - 1))) + 1.2 / (1 + np.exp(4 * (left - 1)))
    right, left = bodies(x - shift)
    label = np.where(right < 1, 1, np.where(left < 1, 2, 0)).astype(np.uint8)
    return image.astype(np.float32), label


def write_anatomies(root: Path, cases: int, *, aligned: bool = True) -> Path:
    """Write a Decathlon folder of patients; not ``aligned``: labels lie anywhere."""
    training = []
    for i in range(cases):
        image, label = draw(bend=0.5 * i, shift=0.0 if aligned else 7.0 * (-1) ** i)
        name = f"case_{i:02d}.nii.gz"
        for folder, values in (("imagesTr", image), ("labelsTr", label)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(values, np.eye(4)), root / folder / name)
        training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    header = {
        "name": "anatomies",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "right", "2": "left"},
        "training": training,
        "test": [],
    }
    (root / "dataset.json").write_text(json.dumps(header))
    return root
