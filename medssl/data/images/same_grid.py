"""Compare the grids of two images that should lie on each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medssl.data.images.stored import Volume

GRID_WARNING_VOXELS = 0.05
GRID_ERROR_VOXELS = 0.5
"""How far, in voxels, the grids of image and label may lie apart anywhere in the volume.

In voxels and not in mm, so that it means the same for micrometers. Headers rounded to single
precision stay below the first; above the second, a label voxel lies on another image voxel.
"""


def grid_distance(first: np.ndarray, second: np.ndarray, shape: Sequence[int]) -> float:
    """Return how far two affines take a corner of the volume apart, in voxels of the first."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij")).reshape(3, -1)
    corners = np.vstack([corners, np.ones(corners.shape[1])])
    if not np.isfinite(second).all() or not np.isfinite(first).all():
        return float("inf")
    try:
        apart = np.linalg.solve(first, second @ corners) - corners
    except np.linalg.LinAlgError:
        return float("inf")
    return float(np.abs(apart[:3]).max())


def describe_difference(image: Volume, other: Volume) -> str:
    """Describe what differs between two headers in the user's words."""
    if not np.allclose(image.spacing, other.spacing, rtol=1e-3):
        return f"spacing {_numbers(other.spacing)} against {_numbers(image.spacing)}"
    directions = [v.affine[:3, :3] / np.maximum(v.spacing, 1e-12) for v in (image, other)]
    if not np.allclose(*directions, atol=1e-3):
        return "the header's axes point another way"
    return f"origin {_numbers(other.affine[:3, 3])} against {_numbers(image.affine[:3, 3])}"


def _numbers(values: Sequence[float] | np.ndarray) -> str:
    return "(" + ", ".join(f"{v:.4g}" for v in values) + ")"
