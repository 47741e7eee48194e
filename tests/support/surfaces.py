"""Distances between the surfaces of two whole masks, measured as a case's metrics measure them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medssl.evaluation.surface import (
    SurfaceDistances,
    point_distances,
    surface_points,
)


def bounding_box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """Return the smallest box that holds every voxel set, or None for an empty mask."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        used = np.flatnonzero(mask.any(axis=others))
        if not used.size:
            return None
        box.append(slice(int(used[0]), int(used[-1]) + 1))
    return tuple(box)


def surface_distances(
    prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float]
) -> SurfaceDistances:
    """Measure the distances between the surfaces of two masks.

    Only the masks' bounding boxes are visited. Axes of length 1 are ignored: in a single slice the
    surface is its contour, not the whole slice.

    Args:
        prediction: boolean mask, at least one voxel set.
        reference: boolean mask of the same shape, at least one voxel set.
        spacing: physical size of a voxel along each axis.

    Raises:
        ValueError: shapes or spacing do not fit, or a mask is empty (it has no surface; what a
            missing structure scores is a policy, see
            ``medssl.evaluation.case_metrics``).
    """
    if prediction.shape != reference.shape or len(spacing) != reference.ndim:
        raise ValueError(
            f"prediction {prediction.shape}, reference {reference.shape} and spacing "
            f"{tuple(spacing)} do not fit together"
        )
    axes = [axis for axis, size in enumerate(reference.shape) if size > 1] or [0]
    kept = tuple(slice(None) if axis in axes else 0 for axis in range(reference.ndim))
    points = []
    for name, mask in (("prediction", prediction), ("reference", reference)):
        mask = mask[kept].astype(bool, copy=False)
        box = bounding_box(mask)
        if box is None:
            raise ValueError(f"the {name} is empty: it has no surface")
        points.append(surface_points(mask[box], [s.start for s in box]))
    return point_distances(points[0], points[1], [spacing[axis] for axis in axes])


def hausdorff(distances: SurfaceDistances) -> float:
    """Return the Hausdorff distance: the largest of all distances."""
    return float(max(distances.to_reference.max(), distances.to_prediction.max()))
