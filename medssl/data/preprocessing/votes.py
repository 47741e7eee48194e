"""Classes brought to another grid by a vote of the voxels around.

Each of the up to eight voxels around a place votes for its class by how near it is, as linear
interpolation weighs it, and by how sure it is of its class. Of the same anatomy, scanned with other
voxels, more is right than with the nearest voxel alone. Of two classes the result is that of their
interpolated probabilities, to a rounding of the margins, in two bytes a voxel however many classes
there are. Needs NumPy and SciPy alone: bundles carry it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

SLAB = 4_000_000
"""Voxels that are voted for at a time."""
NEARER = 1e-3
"""What being the nearest is worth, as a share of the votes: it breaks a tie."""
CERTAIN = 255
"""Margin of a voxel that has no other class."""

Box = tuple[slice, ...]
"""Part of a volume, an axis each."""


@dataclass(frozen=True)
class Line:
    """Where the voxels of an axis lie among those of another grid's axis, along the same line.

    Attributes:
        nearest: the nearest voxel of the other grid.
        low: the one before, or at the same place.
        weight: of the one after that, below 1; what is missing to 1 is the weight of ``low``.
    """

    nearest: np.ndarray
    low: np.ndarray
    weight: np.ndarray

    def part(self, start: int, stop: int) -> Line:
        """Return the line of some of the voxels."""
        chosen = slice(start, stop)
        return Line(self.nearest[chosen], self.low[chosen], self.weight[chosen])


def line_of(coordinates: np.ndarray, size: int) -> Line:
    """Return the line of voxels at increasing coordinates along an axis of ``size`` voxels.

    What lies outside of the axis counts as its end.
    """
    inside = np.clip(coordinates, 0, size - 1)
    # A voxel that coincides with another one is that one, whatever the last digits say.
    close = np.round(inside)
    inside = np.where(np.abs(inside - close) < 1e-6, close, inside)
    low = np.floor(inside).astype(np.int64)
    return Line(nearest_index(coordinates, size), low, (inside - low).astype(np.float32))


def nearest_index(coordinates: np.ndarray, size: int) -> np.ndarray:
    """Round voxel coordinates half up and keep them inside an axis of ``size`` voxels."""
    return np.clip(np.floor(coordinates + 0.5).astype(np.int64), 0, size - 1)


def near(volume: np.ndarray, lines: Sequence[Line]) -> np.ndarray:
    """Take the nearest voxels of ``(X, Y, Z)``, axis by axis."""
    for axis, line in enumerate(lines):
        count = len(line.nearest)
        if count != volume.shape[axis] or not np.array_equal(line.nearest, np.arange(count)):
            volume = np.take(volume, line.nearest, axis=axis)
    return volume


def voted(
    classes: np.ndarray, lines: Sequence[Line], margins: np.ndarray | None = None
) -> np.ndarray:
    """Let the voxels around vote, slab by slab.

    Args:
        classes: ``(X, Y, Z)`` class indices.
        lines: one per axis.
        margins: ``(X, Y, Z)`` uint8, how far the class of a voxel is ahead of the next: from 0, it
            could as well be another, to 255, it is certain. None: all voxels are as certain.
    """
    shape = [len(line.nearest) for line in lines]
    out = np.empty(shape, classes.dtype)
    rows = max(1, SLAB // max(shape[1] * shape[2], 1))
    for start in range(0, shape[0], rows):
        some = lines[0].part(start, start + rows)
        out[start : start + rows] = _slab(classes, [some, *lines[1:]], margins)
    return out


def _slab(classes: np.ndarray, lines: Sequence[Line], margins: np.ndarray | None) -> np.ndarray:
    out = near(classes, lines).copy()
    first = int(lines[0].low[0])
    rows = slice(first, int(lines[0].low[-1]) + 2)
    around = classes[rows]
    boxes: list[Box] = ndimage.find_objects(around.astype(np.int32))
    found = [(value, box) for value, box in enumerate(boxes, start=1) if box is not None]
    if not found:
        return out
    # The background is asked last, and only where something else has votes.
    found.append((0, _around([box for _, box in found], around.shape)))
    nearest, best = out.copy(), np.full(out.shape, -1.0, np.float32)
    for value, box in found:
        weight = (around[box] == value).astype(np.float32)
        if margins is not None:
            weight *= (margins[rows][box] + np.float32(1)) / 256
        where, share = _votes(weight, box, lines, first)
        share += NEARER * (nearest[where] == value)
        better = share > best[where]
        out[where][better] = value
        best[where][better] = share[better]
    return out


def _around(boxes: Sequence[Box], shape: Sequence[int]) -> Box:
    """Return the box that holds all boxes and the voxels that touch them."""
    sides = [list(axis) for axis in zip(*boxes, strict=True)]
    return tuple(
        slice(max(min(s.start for s in side) - 1, 0), min(max(s.stop for s in side) + 1, n))
        for side, n in zip(sides, shape, strict=True)
    )


def _votes(
    weight: np.ndarray, box: Box, lines: Sequence[Line], first: int
) -> tuple[Box, np.ndarray]:
    """Return the voxels that a class has votes for, and its votes there.

    Args:
        weight: of the votes for the class, in a box.
        box: of the weight, in a volume that starts at row ``first``.
        lines: one per axis.
    """
    share, where = weight, []
    for axis, (line, side) in enumerate(zip(lines, box, strict=True)):
        start, stop = (edge + (first if axis == 0 else 0) for edge in (side.start, side.stop))
        # The voxels of which at least one neighbor is in the box.
        low, high = (int(n) for n in np.searchsorted(line.low, (start - 1, stop)))
        share = np.pad(share, [(1, 1) if a == axis else (0, 0) for a in range(3)])
        index = line.low[low:high] - start + 1
        weight = line.weight[low:high].reshape([-1 if a == axis else 1 for a in range(3)])
        share = (
            np.take(share, index, axis) * (1 - weight) + np.take(share, index + 1, axis) * weight
        )
        where.append(slice(low, high))
    return tuple(where), share
