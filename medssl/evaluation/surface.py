"""Distances between the surfaces of two masks, and every metric that follows from them.

The surface of a mask is the mask minus its erosion by the 6-neighborhood (4 in 2D); voxels on the
border of the array count as surface. The distances are computed once per pair of masks and all
metrics read from them. Definitions differ between toolkits, so each function states its own:

=================  ==============================================================================
`hd95`             max of the two directed 95th percentiles (MONAI, DeepMind surface-distance)
`assd`             mean of the pooled distances of both directions (MONAI symmetric=True)
`nsd`              share of the surface of both masks, by area, within a tolerance of the other
                   surface (surface Dice of Nikolov et al. 2018; :mod:`.surface_elements`)
`hd95_medpy`       95th percentile of the pooled distances (medpy ``hd95``)
`asd_medpy`        mean distance prediction to reference, that direction alone (medpy ``asd``)
=================  ==============================================================================

The semi-supervised literature (SSL4MIS, BCP and followers) reports the last two without a voxel
spacing, that is in voxels, even on anisotropic grids. Pass a spacing of ones to reproduce it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

# A KD-tree answers a query in 0.5 us near the surface and about 5 us far from it (stray voxels of a
# noisy prediction); a distance transform costs about 0.2 us per voxel of the box, however many
# points ask. Measured on one core; the crossing is flat, the exact figure matters little.
_BOX_VOXELS_PER_QUERY = 20


@dataclass(frozen=True)
class SurfaceDistances:
    """The distance of every surface voxel of one mask to the nearest one of the other.

    Attributes:
        to_reference: ``(P,)`` distances of the prediction's surface voxels, unit of the spacing.
        to_prediction: ``(R,)`` distances of the reference's surface voxels.
    """

    to_reference: np.ndarray
    to_prediction: np.ndarray

    def scaled(self, factor: float) -> SurfaceDistances:
        """Return the same distances in another unit."""
        return SurfaceDistances(self.to_reference * factor, self.to_prediction * factor)


def surface_mask(mask: np.ndarray) -> np.ndarray:
    """Mark the surface voxels of a mask.

    Args:
        mask: boolean, 1D to 3D or more.

    Returns:
        Boolean array of the same shape.
    """
    interior = mask.copy()
    for axis in range(mask.ndim):
        view, moved = np.moveaxis(interior, axis, 0), np.moveaxis(mask, axis, 0)
        view[1:] &= moved[:-1]
        view[:-1] &= moved[1:]
        view[0] = False
        view[-1] = False
    return mask & ~interior


def surface_points(mask: np.ndarray, offset: Sequence[int] | None = None) -> np.ndarray:
    """Return the ``(N, ndim)`` int64 voxel coordinates of a mask's surface.

    Args:
        mask: boolean; may be the crop of a larger array to the mask's bounding box.
        offset: where the crop starts in that array; added to the coordinates.
    """
    points = np.argwhere(surface_mask(mask))
    return points if offset is None else points + np.asarray(offset)


def point_distances(
    prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float]
) -> SurfaceDistances:
    """Measure nearest distances between two sets of grid points, both ways.

    Args:
        prediction: ``(P, ndim)`` voxel coordinates.
        reference: ``(R, ndim)`` voxel coordinates.
        spacing: physical size of a voxel along each axis.
    """
    scale = np.asarray(spacing, dtype=np.float64)
    low = np.minimum(prediction.min(0), reference.min(0))
    box = np.maximum(prediction.max(0), reference.max(0)) - low + 1
    prediction, reference = prediction - low, reference - low
    return SurfaceDistances(
        _directed(prediction, reference, scale, box),
        _directed(reference, prediction, scale, box),
    )


def hd95(distances: SurfaceDistances) -> float:
    """Return the larger of the two directed 95th percentiles (linear interpolation)."""
    directed = (distances.to_reference, distances.to_prediction)
    return float(max(np.percentile(d, 95) for d in directed))


def assd(distances: SurfaceDistances) -> float:
    """Return the average symmetric surface distance: the mean of the pooled distances."""
    total = distances.to_reference.sum() + distances.to_prediction.sum()
    return float(total / (distances.to_reference.size + distances.to_prediction.size))


def hd95_medpy(distances: SurfaceDistances) -> float:
    """Return the 95th percentile of the pooled distances, as medpy's ``hd95``."""
    pooled = np.concatenate((distances.to_reference, distances.to_prediction))
    return float(np.percentile(pooled, 95))


def asd_medpy(distances: SurfaceDistances) -> float:
    """Return the mean distance from prediction to reference only, as medpy's ``asd``."""
    return float(distances.to_reference.mean())


def _directed(
    source: np.ndarray, target: np.ndarray, scale: np.ndarray, box: np.ndarray
) -> np.ndarray:
    """Distance of every source point to the nearest target point; all points lie in the box."""
    if len(source) * _BOX_VOXELS_PER_QUERY > int(np.prod(box)):
        free = np.ones(tuple(box), dtype=bool)
        free[tuple(target.T)] = False
        return distance_transform_edt(free, sampling=scale)[tuple(source.T)]
    tree = cKDTree(target * scale, balanced_tree=False, compact_nodes=False)
    return tree.query(source * scale)[0]
