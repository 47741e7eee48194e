"""Small Decathlon folders for tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

SHAPE = (6, 5, 4)
LABELS = {"0": "background", "1": "a", "2": "b"}


def image_array(seed: int = 0, shape: Sequence[int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 10, shape).astype(np.float32)


def label_array(shape: Sequence[int] = SHAPE) -> np.ndarray:
    label = np.zeros(shape, np.uint8)
    label[1:3, 1:3, 1:3] = 1
    label[4, 4, 3] = 2
    return label


def write(path: Path, data: np.ndarray, affine: np.ndarray | None = None) -> Path:
    """Write a volume; any affine may be given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([1.0, 1.0, 2.0, 1.0]) if affine is None else affine
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def write_json(root: Path, content: Any) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    path = root / "dataset.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def header(**changes: Any) -> dict[str, Any]:
    """Return the keys of a faultless dataset.json without cases; None removes one."""
    content = {"name": "T", "modality": {"0": "MRI"}, "labels": LABELS, "numTraining": 0}
    content |= {"training": [], "test": []} | changes
    return {k: v for k, v in content.items() if v is not None}


def make_dataset(root: Path, ids: Sequence[str], *, real: bool = False, **changes: Any) -> Path:
    """Write a folder of labeled cases; files are empty unless ``real``."""
    for number, case_id in enumerate(ids):
        image, label = (root / d / f"{case_id}.nii.gz" for d in ("imagesTr", "labelsTr"))
        if real:
            write(image, image_array(number))
            write(label, label_array())
        else:
            touch(image)
            touch(label)
    training = [{"image": f"./imagesTr/{i}.nii.gz", "label": f"./labelsTr/{i}.nii.gz"} for i in ids]
    write_json(root, header(**{"training": training, "numTraining": len(ids)} | changes))
    return root


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
