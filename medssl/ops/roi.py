"""A region of interest from a coarse mask: sizes in millimeters, and a way out when all fails.

For large scans with a small structure: segment coarsely, then train and predict inside the box
alone. RAIL's published code counts voxels, shortens the box to a multiple of 16 after adding its
margin (which cuts teeth), and breaks when no component is large enough; none of that is repeated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from medssl.ops.boxes import Box
from medssl.ops.components import largest_component


def remove_small_components(
    mask: np.ndarray, spacing_mm: Sequence[float], min_volume_mm3: float
) -> np.ndarray:
    """Drop the components of a boolean mask that are smaller than a volume (an area in 2D).

    Components join at corners.

    Args:
        mask: boolean, 2D or 3D.
        spacing_mm: voxel size per axis.
        min_volume_mm3: components of at least so much stay.
    """
    labeled, _ = ndimage.label(mask, ndimage.generate_binary_structure(mask.ndim, mask.ndim))
    keep = np.bincount(labeled.ravel()) * math.prod(spacing_mm) >= min_volume_mm3
    keep[0] = False
    return keep[labeled]


def close_gaps(mask: np.ndarray, spacing_mm: Sequence[float], radius_mm: float) -> np.ndarray:
    """Close a boolean mask with a ball, so that neighboring pieces (teeth) count as one."""
    if radius_mm <= 0 or not mask.any():
        return mask
    pad = [math.ceil(radius_mm / s) + 1 for s in spacing_mm]
    grown = np.pad(mask, [(p, p) for p in pad])
    grown = ndimage.distance_transform_edt(~grown, sampling=spacing_mm) <= radius_mm
    closed = ndimage.distance_transform_edt(grown, sampling=spacing_mm) > radius_mm
    inner = tuple(slice(p, p + n) for p, n in zip(pad, mask.shape, strict=True))
    return closed[inner] | mask


def roi_box(
    mask: np.ndarray,
    *,
    spacing_mm: Sequence[float],
    margin_mm: float | Sequence[float] = 5.0,
    min_volume_mm3: float = 0.0,
    closing_mm: float = 0.0,
    largest: bool = False,
    target_shape: Sequence[int] | None = None,
) -> Box:
    """Return the box around what a coarse mask shows.

    Components below ``min_volume_mm3`` are dropped; if none is left, the largest one counts; if the
    mask is empty, the box is the whole volume. What a margin adds beyond the volume is cut off.

    Args:
        mask: boolean, 2D or 3D, the coarse segmentation.
        spacing_mm: voxel size of the mask per axis.
        margin_mm: added on both sides of every axis, or one number per axis.
        min_volume_mm3: smallest component that counts.
        closing_mm: radius within which pieces are joined before they are measured.
        largest: let the largest component count alone.
        target_shape: shape of the grid the box is for, which covers the same extent as the mask;
            None: the mask's own.

    Returns:
        ``(start, stop)`` per axis, half-open, within the target grid; never smaller than what the
        mask shows.
    """
    shape = tuple(mask.shape if target_shape is None else target_shape)
    joined = close_gaps(mask.astype(bool), spacing_mm, closing_mm)
    kept = joined
    if not largest and min_volume_mm3 > 0:
        kept = remove_small_components(joined, spacing_mm, min_volume_mm3)
    if largest or not kept.any():
        kept = largest_component(joined)
    if not kept.any():
        return tuple((0, n) for n in shape)
    margins = [margin_mm] * mask.ndim if isinstance(margin_mm, (int, float)) else list(margin_mm)
    box = []
    for axis, (n, target, spacing, margin) in enumerate(
        zip(mask.shape, shape, spacing_mm, margins, strict=True)
    ):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        found = np.flatnonzero(kept.any(axis=others))
        scale = target / n  # target voxels per voxel of the mask
        start = math.floor((found[0] - margin / spacing) * scale + 1e-6)
        stop = math.ceil((found[-1] + 1 + margin / spacing) * scale - 1e-6)
        box.append((max(start, 0), min(stop, target)))
    return tuple(box)


def grow_box(box: Box, least: Sequence[int], shape: Sequence[int]) -> Box:
    """Grow a box to at least so many voxels per axis, about its center but inside the volume.

    Args:
        box: ``(start, stop)`` per axis.
        least: wanted voxels; an axis of the volume that is shorter is taken whole.
        shape: of the volume.
    """
    grown = []
    for (start, stop), wanted, n in zip(box, least, shape, strict=True):
        size = min(max(stop - start, wanted), n)
        first = start - (size - (stop - start)) // 2
        first = min(max(first, 0), n - size)
        grown.append((first, first + size))
    return tuple(grown)
