"""The MR phantom drawn anew on other grids: one anatomy, scanned with several voxel sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from medssl.data.images.write import write_nifti
from medssl.data.phantoms.mr import LABELS, make_mr
from medssl.data.phantoms.parts import Scan

EXTENT_MM = 56.0


class Scanner(np.random.Generator):
    """A generator whose noise and texture, drawn voxel by voxel, come from a second one.

    What decides the anatomy is then drawn alike, however many voxels there are.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(np.random.PCG64(seed))
        self.voxels = np.random.default_rng([seed, 1])

    def standard_normal(self, *args: Any, **kwargs: Any) -> Any:
        return self.voxels.standard_normal(*args, **kwargs)


def draw(seed: int, spacing_mm: tuple[float, float, float]) -> Scan:
    """Draw the anatomy of a seed with voxels of some size, in a cube of about 56 mm."""
    x, y, z = (round(EXTENT_MM / edge) for edge in spacing_mm)
    return make_mr(Scanner(seed), (x, y, z), spacing_mm)


def write_dataset(folder: Path, seeds: range, spacing_mm: tuple[float, float, float]) -> Path:
    """Write a Decathlon folder of these anatomies, all labeled."""
    items = []
    for seed in seeds:
        scan, name = draw(seed, spacing_mm), f"case_{seed:03d}.nii.gz"
        for sub, array in (("imagesTr", scan.image), ("labelsTr", scan.label)):
            (folder / sub).mkdir(parents=True, exist_ok=True)
            write_nifti(folder / sub / name, array, scan.affine, "mm", code=1)
        items.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    content = {
        "name": "anatomies",
        "modality": {"0": "MRI"},
        "labels": {str(value): name for value, name in LABELS.items()},
        "training": items,
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder
