"""What several warped atlases say of a scan: votes, weighted by how alike the images are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter

from medssl.atlases.settings import AtlasSettings


@dataclass(frozen=True)
class WarpedAtlas:
    """An atlas on the grid of the scan that it votes on.

    Attributes:
        image: ``(C, X, Y, Z)`` float32.
        shares: ``(K, X, Y, Z)`` float32 in [0, 1], how much of each class a voxel is; their sum is
            1 where the atlas is annotated.
        annotated: ``(X, Y, Z)`` float32 in [0, 1]; None: everywhere.
    """

    image: np.ndarray
    shares: np.ndarray
    annotated: np.ndarray | None = None


def local_error(image: np.ndarray, other: np.ndarray, window: int) -> np.ndarray:
    """Return the mean squared difference ``(X, Y, Z)`` of two images within a window.

    Args:
        image, other: ``(C, X, Y, Z)``; the mean is over channels, too.
        window: voxels along each axis; at the border the outermost voxels are repeated.
    """
    squared = np.square(image - other, dtype=np.float32).mean(axis=0)
    return uniform_filter(squared, size=window, mode="nearest").clip(min=0)


def weight_of(error: np.ndarray, settings: AtlasSettings) -> np.ndarray:
    """Return the weight of a vote: ``1 / (error + epsilon) ** power``."""
    return (error + settings.epsilon) ** -settings.power


def fuse(image: np.ndarray, atlases: Iterable[WarpedAtlas], settings: AtlasSettings) -> np.ndarray:
    """Return the probabilities ``(K, X, Y, Z)`` float32 that warped atlases give a scan.

    The mean of their shares, weighted voxel by voxel by :func:`weight_of` the difference between
    their image and the scan's. Background where no atlas is annotated.

    Args:
        image: of the scan, ``(C, X, Y, Z)``.
        atlases: one or more; one at a time is held in memory.
        settings: window, epsilon and power.
    """
    total: np.ndarray | None = None
    weights = np.zeros(image.shape[1:], np.float64)
    for atlas in atlases:
        error = local_error(image, atlas.image, settings.window)
        weight = weight_of(error.astype(np.float64), settings)
        if atlas.annotated is not None:
            weight = weight * atlas.annotated
        if total is None:
            total = np.zeros(atlas.shares.shape, np.float64)
        total += weight * atlas.shares
        weights += weight
    if total is None:
        raise ValueError("no atlas")
    known = weights > 0
    probabilities = np.divide(total, weights, out=np.zeros_like(total), where=known)
    probabilities[0][~known] = 1
    return probabilities.astype(np.float32)
