"""Rounds of labeling written by hand, without a model."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from helpers import AFFINE, blob_case

from medssl.data.datasets.contents import channel_hashes, scan_hash, voxel_hash
from medssl.data.datasets.decathlon import read_dataset
from medssl.data.images.volume import read_volume
from medssl.data.images.write import write_label
from medssl.rounds.record import Round, RoundScan, write_round


def draft_of(number: int) -> np.ndarray:
    """Return a draft of case ``number``: its label, one voxel off, without its last slice."""
    _, label = blob_case(number)
    moved = np.roll(label, 1, axis=0)
    moved[..., -1] = 0
    return moved


def make_round(
    folder: Path,
    dataset: Path,
    numbers: Sequence[int],
    *,
    images: Path | None = None,
    rule: str = "combined",
) -> Round:
    """Write a round over cases of :func:`helpers.write_dataset`.

    Args:
        folder: of the round.
        dataset: that it is for.
        numbers: of the cases.
        images: folder of the images; by default the dataset's imagesUn.
        rule: that chose them.
    """
    known = read_dataset(dataset)
    scans = []
    for number in numbers:
        name = f"case_{number:02d}"
        place = folder / name
        place.mkdir(parents=True)
        shutil.copyfile((images or dataset / "imagesUn") / f"{name}.nii.gz", place / "image.nii.gz")
        write_label(draft_of(number), place / "draft.nii.gz", affine=AFFINE)
        shutil.copyfile(place / "draft.nii.gz", place / "label.nii.gz")
        scans.append(
            RoundScan(
                id=name,
                patient=name,
                images=("image.nii.gz",),
                draft="draft.nii.gz",
                voxels=scan_hash(channel_hashes(read_volume(place / "image.nii.gz"))),
                draft_voxels=voxel_hash(draft_of(number)),
                of_dataset=images is None,
                expected_dice=0.7,
            )
        )
    empty = Round.of(known, "runs/model", "00ff", rule, 0)
    found = Round(**{**empty.__dict__, "scans": tuple(scans)}).sealed()
    write_round(found, folder)
    return found


def give_back(
    folder: Path, number: int, label: np.ndarray | None = None, name: str = "label.nii.gz"
) -> Path:
    """Save the label of a scan, by default the true one, as a labeling program would."""
    values = blob_case(number)[1] if label is None else label
    return write_label(values, folder / f"case_{number:02d}" / name, affine=AFFINE)
