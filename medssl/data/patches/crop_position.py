"""Where a training patch is cropped: around a voxel of a structure, or anywhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medssl.data.datasets.case import IGNORE_INDEX, CachedCase

Plane = tuple[int, int]
"""Axis across the slices, and index of the slice."""


def draw_start(
    shape: Sequence[int],
    size: Sequence[int],
    center: Sequence[int] | None,
    plane: Plane | None,
    rng: np.random.Generator,
) -> tuple[int, ...]:
    """Draw the first voxel of a crop; negative where the volume is padded.

    Args:
        shape: ``(X, Y, Z)`` of the volume.
        size: voxels of the crop per axis.
        center: voxel in the middle of the crop, as far as the volume reaches; None: any place is
            equally likely.
        plane: the slice the crop is, for 2D patches.
        rng: draws one number per axis, whether or not it is needed.
    """
    start = []
    for axis, (n, s) in enumerate(zip(shape, size, strict=True)):
        uniform = int(rng.integers(max(n - s, 0) + 1))
        if plane is not None and axis == plane[0]:
            start.append(plane[1])
        elif n < s:
            start.append(-((s - n) // 2))
        elif center is None:
            start.append(uniform)
        else:
            start.append(min(max(center[axis] - s // 2, 0), n - s))
    return tuple(start)


def draw_center(
    case: CachedCase,
    size: Sequence[int],
    plane: Plane | None,
    rng: np.random.Generator,
    *,
    background: bool = False,
) -> tuple[int, ...] | None:
    """Draw a voxel of a random structure, or of the annotated background if there is any.

    All structures of the volume (of the slice) are equally likely, whatever their size.

    Args:
        case: of which a voxel is drawn.
        size: voxels of the patch per axis.
        plane: the slice to draw from, for 2D patches.
        rng: draws the structure, then the voxel.
        background: prefer the annotated background to the structures.

    Returns:
        None if there is no such voxel, or no need to center a crop.
    """
    extra = [n - s for n, s in zip(case.shape, size, strict=True)]
    if plane is not None:
        extra[plane[0]] = 0
    if case.label is None or max(extra) <= 0:  # nothing to center
        return None
    shape = list(case.shape)
    if plane is None:
        choices = dict(case.class_indices)
    else:
        axis, index = plane
        values = np.take(case.label, [index], axis=axis)
        shape[axis] = 1
        present = np.flatnonzero(np.bincount(values.ravel(), minlength=1))
        choices = {int(c): values for c in present if c < IGNORE_INDEX}
    if background and 0 in choices:
        choices = {0: choices[0]}
    elif not background:
        choices.pop(0, None)
    if not choices:
        return None
    chosen = sorted(choices)[int(rng.integers(len(choices)))]
    voxels = choices[chosen]
    if plane is not None:
        voxels = np.flatnonzero(voxels == chosen)
    flat = int(voxels[int(rng.integers(len(voxels)))])
    return tuple(int(v) for v in np.unravel_index(flat, shape))
