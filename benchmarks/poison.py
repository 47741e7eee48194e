"""Datasets of which 30 % of the unlabeled scans are unlike the labeled ones, for `evidence.py`.

A small phantom: 4 labeled scans, 24 to test, 20 unlabeled ones. The first six of these are replaced
by one kind of fault: ``modality``, the same anatomy with the contrast turned around; ``noise``,
a damaged export; ``organ``, another part of the body; ``mirrored``, an abdomen whose right is its
left, where left and right kidney have labels of their own.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import center_of_mass
from scipy.ndimage import label as pieces_of

from medssl.data.images.write import write_nifti
from medssl.data.phantoms.dataset import write_phantom
from medssl.files import all_or_nothing

LABELED, TEST, UNLABELED, WRONG = 4, 24, 20, 6
MIRRORED = "mirrored"
ABDOMEN = {1: "liver", 2: "spleen", 3: "right kidney", 4: "pancreas", 5: "left kidney"}
SHAPE = (32, 32, 16)

Array = NDArray[Any]
Change = Callable[[Array, Array, int], Array]
"""``change(image, affine, number)`` returns what takes the place of a scan."""


def other_modality(image: Array, affine: Array, number: int) -> Array:
    """Turn the contrast of the body around; air stays dark."""
    top = np.percentile(image, 99)
    inside = image > 0.12 * top
    return np.where(inside, np.clip(1.12 * top - image, 0, None), image)


def noise(image: Array, affine: Array, number: int) -> Array:
    """Return noise of the scan's mean and deviation."""
    rng = np.random.default_rng(number)
    return np.clip(rng.normal(image.mean(), image.std(), image.shape), 0, None)


def other_organ(image: Array, affine: Array, number: int) -> Array:
    """Return an abdomen in intensities of the scan."""
    from medssl.data.phantoms.ct import make_ct

    rng = np.random.default_rng([7, number])
    drawn = make_ct(rng, (image.shape[0], image.shape[1], image.shape[2])).image
    return (np.clip(drawn, -200, 300) + 200) / 500 * np.percentile(image, 99)


def mirrored(image: Array, affine: Array, number: int) -> Array:
    """Exchange right and left."""
    axis = next(k for k, code in enumerate(nib.orientations.aff2axcodes(affine)) if code in "LR")
    return np.flip(image, axis)


KINDS: dict[str, Change] = {
    "modality": other_modality,
    "noise": noise,
    "organ": other_organ,
    MIRRORED: mirrored,
}


def wrong_cases(kind: str) -> list[str]:
    """Return the names of the scans that are replaced."""
    first = LABELED + TEST + 1
    return [f"{_phantom(kind)}_{number:03d}" for number in range(first, first + WRONG)]


def poisoned_dataset(kind: str, folder: Path) -> Path:
    """Return the dataset of a kind of fault, written on first use.

    Args:
        kind: among :data:`KINDS`.
        folder: where datasets lie.
    """
    root = folder / f"poison-{kind}"
    if not root.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with all_or_nothing(root, "the dataset") as building:
            _write(kind, building)
    return root


def _phantom(kind: str) -> str:
    return "ct" if kind == MIRRORED else "mr"


def _write(kind: str, root: Path) -> None:
    phantom = _phantom(kind)
    write_phantom(
        root / "all",
        kind=phantom,
        labeled=LABELED + TEST,
        unlabeled=UNLABELED,
        test=0,
        shape=SHAPE,
    )
    for path in (root / "all").iterdir():
        path.rename(root / path.name)
    (root / "all").rmdir()
    (root / "phantom.json").unlink()  # it speaks of the files as they were
    for number, case in enumerate(wrong_cases(kind)):
        path = root / "imagesUn" / f"{case}.nii.gz"
        image, affine = _read(path)
        changed = np.rint(KINDS[kind](image.astype(np.float64), affine, number))
        write_nifti(path, changed.astype(np.int16), affine, "mm")
    if phantom == "ct":
        for path in sorted((root / "labelsTr").iterdir()):
            name_sides(path)
        header = json.loads((root / "dataset.json").read_text(encoding="utf-8"))
        header["labels"] = {"0": "background", **{str(k): v for k, v in ABDOMEN.items()}}
        (root / "dataset.json").write_text(json.dumps(header), encoding="utf-8")


def name_sides(path: Path) -> None:
    """Give the kidney at the patient's left a label of its own: 5."""
    found, affine = _read(path)
    pieces, count = pieces_of(found == 3)
    for piece in range(1, count + 1):
        place = np.array(center_of_mass(pieces == piece))
        body = np.array(center_of_mass(found > 0))
        if (affine[:3, :3] @ (place - body))[0] < 0:  # RAS: x grows to the right
            found = np.where(pieces == piece, 5, found)
    write_nifti(path, found.astype(np.uint8), affine, "mm")


def _read(path: Path) -> tuple[Array, Array]:
    image = nib.load(path)
    return np.asarray(image.dataobj), np.asarray(image.affine)
