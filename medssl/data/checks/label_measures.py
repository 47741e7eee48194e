"""What is measured of one label map, structure by structure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

FULL_PLANE = 0.9
"""A plane with a larger share of one structure's label is no anatomy (``FULL_PLANE`` of 1)."""


@dataclass(frozen=True)
class StructureMeasures:
    """One structure in one case.

    Attributes:
        voxels: how many there are.
        center: mean position in the volume, 0 to 1 along each stored axis.
        isolated: voxels none of whose six neighbors carries the same label.
        full_planes: ``(axis, index)`` of planes that it fills almost whole.
    """

    voxels: int
    center: tuple[float, float, float]
    isolated: int
    full_planes: tuple[tuple[int, int], ...]


def measure_structures(label: np.ndarray, values: tuple[int, ...]) -> dict[int, StructureMeasures]:
    """Measure each structure present in a label map ``(X, Y, Z)`` of whole numbers.

    Args:
        label: the label values.
        values: the declared ones; 0 and anything undeclared is left out.
    """
    top = max(values)
    whole = np.where((label >= 0) & (label <= top), label, 0).astype(np.int32)
    found = {}
    for value, box in enumerate(ndimage.find_objects(whole, top), start=1):
        if box is None or value not in values:
            continue
        mask = whole[box] == value
        profiles = [mask.sum(axis=tuple(b for b in range(3) if b != a)) for a in range(3)]
        voxels = int(profiles[0].sum())
        center, full = [], []
        for axis, profile in enumerate(profiles):
            start, n = box[axis].start, label.shape[axis]
            index = np.arange(start, start + len(profile))
            center.append(float((profile * (index + 0.5)).sum() / voxels / n))
            if n > 2:
                limit = FULL_PLANE * (label.size // n)
                full += [(axis, int(k)) for k in index[profile > limit]]
        found[value] = StructureMeasures(
            voxels, (center[0], center[1], center[2]), _isolated(mask), tuple(full)
        )
    return found


def _isolated(mask: np.ndarray) -> int:
    """Count voxels without a neighbor along any axis."""
    padded = np.pad(mask, 1)
    middle = (slice(1, -1),) * 3
    joined = np.zeros(mask.shape, bool)
    for axis in range(3):
        for step in (0, 2):
            window = list(middle)
            window[axis] = slice(step, step + mask.shape[axis])
            joined |= padded[tuple(window)]
    return int((mask & ~joined).sum())
