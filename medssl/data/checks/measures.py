"""What is measured of one volume, small enough to keep for every case of a dataset."""

from __future__ import annotations

import numpy as np
from nibabel import orientations

THUMBNAIL = 32
"""Edge of the thumbnails in which near-duplicates are searched, in voxels."""

LEVELS = (0.5, 5, 25, 50, 75, 95, 99.5)
"""Percentiles of the intensities that are kept."""

SAMPLE = 2_000_000
"""Percentiles of larger volumes are those of about so many regularly spaced voxels."""


def axis_codes(affine: np.ndarray) -> str:
    """Return where the stored axes point, such as ``RAS``; ``???`` for an unusable affine."""
    try:
        return "".join(c or "?" for c in orientations.aff2axcodes(affine))
    except (np.linalg.LinAlgError, ValueError):
        return "???"


def thumbnail(data: np.ndarray) -> np.ndarray:
    """Average a volume ``(X, Y, Z)`` into 32 boxes per axis and z-score it.

    Returns:
        ``(32768,)`` float32 of mean 0 and norm 1, so that the product of two is their correlation;
        zeros for a constant volume.
    """
    out = np.asarray(data, np.float32)
    for axis in sorted(range(3), key=lambda a: -out.shape[a]):
        moved = np.moveaxis(out, axis, -1)
        out = np.moveaxis(moved @ _boxes(out.shape[axis]), -1, axis)
    flat = np.ascontiguousarray(out).ravel()
    mean = flat.mean(dtype=np.float64)
    flat = flat - mean
    norm = float(np.linalg.norm(flat))
    rounding = 1e-6 * max(1.0, abs(mean) * flat.size**0.5)  # of float32, on an offset
    return np.zeros(flat.size, np.float32) if norm < rounding else (flat / norm).astype(np.float32)


def _boxes(n: int) -> np.ndarray:
    """Return ``(n, 32)``: the share of each voxel of an axis in each of 32 equal boxes."""
    edges = np.linspace(0, n, THUMBNAIL + 1)
    low = np.maximum(np.arange(n)[:, None], edges[None, :-1])
    high = np.minimum(np.arange(n)[:, None] + 1, edges[None, 1:])
    return (np.maximum(high - low, 0) * THUMBNAIL / n).astype(np.float32)


def intensity_levels(data: np.ndarray) -> tuple[float, ...]:
    """Return the percentiles :data:`LEVELS` and the maximum of a volume."""
    step = max(1, round((data.size / SAMPLE) ** (1 / 3)))
    sample = data[::step, ::step, ::step]
    return (*(float(v) for v in np.percentile(sample, LEVELS)), float(data.max()))


def roughness(data: np.ndarray, low: float, high: float) -> tuple[float, ...]:
    """Return the mean absolute difference of neighbors along each axis, as share of the range.

    Measured in the middle of the volume, up to 128 voxels an axis.
    """
    middle = data[tuple(slice(max(0, n // 2 - 64), n // 2 + 64) for n in data.shape)]
    scaled = np.clip((middle.astype(np.float32) - low) / max(high - low, 1e-12), 0, 1)
    return tuple(
        float(np.abs(np.diff(scaled, axis=a)).mean()) if scaled.shape[a] > 1 else 0.0
        for a in range(3)
    )


def repeated_slices(data: np.ndarray) -> tuple[int, list[int]]:
    """Find slices that are exactly their neighbor.

    Constant slices do not count (padding), nor do volumes of fewer than three slices on that axis.

    Returns:
        The axis with most of them, and the indices ``k`` of slices equal to slice ``k - 1``.
    """
    best: tuple[int, list[int]] = (0, [])
    for axis in range(3):
        moved = np.moveaxis(data, axis, 0)
        found = []
        for k in range(1, len(moved) if len(moved) > 2 else 0):
            # A row tells most slices apart; only those that agree there are compared in full.
            row = moved.shape[1] // 2
            if (
                np.array_equal(moved[k, row], moved[k - 1, row])
                and np.array_equal(moved[k], moved[k - 1])
                and moved[k].min() != moved[k].max()
            ):
                found.append(k)
        if len(found) > len(best[1]):
            best = (axis, found)
    return best


STAMPED = 16
"""Columns of voxels, or voxels within a patch, from which on they are no accident."""


BACKGROUND = 0.05
"""A value of a larger share of all voxels is background."""

DARK = 0.25
"""So is what lies this far up from the least value to the 99th percentile, where rounding alone
makes neighbors equal."""

COLUMN = 8
"""Fewest slices in which one value at one place is no accident."""


def stamp(data: np.ndarray) -> tuple[int, float]:
    """Find what is no image: burnt-in text, or a patch that was filled with one value.

    Text stands at the same place in all slices: columns of voxels along an axis have one value. A
    patch holds voxels that equal their neighbors on all six sides, and one value has most of these.
    Dark values and frequent ones are background, and the largest of a patch may be what a detector
    was saturated by.

    Args:
        data: ``(X, Y, Z)``.

    Returns:
        How many columns or voxels, and their value; ``(0, 0.0)`` if there is nothing.
    """
    if min(data.shape) < 3:
        return 0, 0.0
    step = max(1, data.size // SAMPLE)
    some = data.ravel()[::step]
    values, counts = np.unique(some, return_counts=True)
    empty = values[counts > BACKGROUND * counts.sum()]
    least = float(data.min())
    dark = least + DARK * (float(np.percentile(some, 99)) - least)
    for axis in (a for a in range(3) if data.shape[a] >= COLUMN):
        low = data.min(axis)
        found = low[(low == data.max(axis)) & (low > dark) & ~np.isin(low, empty)]
        if len(found) >= STAMPED:
            return len(found), float(np.median(found))
    inner = data[1:-1, 1:-1, 1:-1]
    flat = (inner > dark) & ~np.isin(inner, [*empty, data.max()])
    for axis in range(3):
        for side in (0, 2):
            place = [slice(1, -1)] * 3
            place[axis] = slice(side, data.shape[axis] - 2 + side)
            flat &= data[tuple(place)] == inner
    values, counts = np.unique(inner[flat], return_counts=True)
    if len(counts) and counts.max() >= STAMPED and 2 * counts.max() > counts.sum():
        return int(counts.max()), float(values[counts.argmax()])
    return 0, 0.0
