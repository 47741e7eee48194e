"""Where in a scan a draft is least sure: the slices to look at first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from nibabel.orientations import io_orientation

PLANES = ("sagittal", "coronal", "axial")
"""Perpendicular to the axes of the body R, A and S."""
_APART = 0.04
"""Slices nearer to one another than this share of the scan show the same: one of them is named."""
_NOTHING = 0.5
"""Less doubt than half a voxel is none."""


@dataclass(frozen=True)
class SliceInDoubt:
    """One slice.

    Attributes:
        plane: sagittal, coronal or axial, as the axis of the file that is nearest.
        slice: its number along that axis of the file, counted from 1 as ITK-SNAP does.
        ras_mm: where it lies along R, A or S, as 3D Slicer's sliders say.
        doubt_voxels: sum of the normalized entropy over the slice: so many voxels are mere guesses.
    """

    plane: str
    slice: int
    ras_mm: float
    doubt_voxels: float


def slices_in_doubt(
    entropy: np.ndarray, affine: np.ndarray, *, per_plane: int = 3
) -> list[SliceInDoubt]:
    """Return the slices of each plane with the most doubt, none close to a worse one.

    Args:
        entropy: ``(X, Y, Z)`` normalized entropy, 0 sure to 1 a mere guess.
        affine: ``(4, 4)`` voxel to RAS in mm.
        per_plane: at most so many.
    """
    found = []
    turn = io_orientation(affine)
    middle = (np.array(entropy.shape) - 1) / 2
    for body, plane in enumerate(PLANES):
        axis = next((a for a in range(3) if turn[a, 0] == body), None)
        if axis is None:
            continue
        others = tuple(a for a in range(3) if a != axis)
        doubt = entropy.sum(axis=others, dtype=np.float64)
        gap = max(1, round(_APART * len(doubt)))
        for _ in range(per_plane):
            index = int(doubt.argmax())
            if doubt[index] < _NOTHING:
                break
            center = middle.copy()
            center[axis] = index
            place = float(affine[body] @ [*center, 1.0])
            found.append(
                SliceInDoubt(plane, index + 1, round(place, 2), round(float(doubt[index]), 2))
            )
            doubt[max(index - gap, 0) : index + gap + 1] = 0
    return found
