"""Voxels to calibrate on: near the structures, where the decisions are made, and not too many."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy.ndimage import maximum_filter
from torch import Tensor

from medssl.data.datasets.case import IGNORE_INDEX


def region_near(reference: np.ndarray, margin: int) -> np.ndarray:
    """Return where a structure is at most ``margin`` voxels away along every axis.

    Without such a limit the sea of certain background would decide every mean.

    Args:
        reference: class indices ``(X, Y, Z)``; voxels without annotation are nobody's structure.

    Returns:
        ``(X, Y, Z)`` bool, still with the voxels without annotation in it.
    """
    structure = (reference > 0) & (reference != IGNORE_INDEX)
    return maximum_filter(structure.view(np.uint8), size=2 * margin + 1).view(bool)


def sample_blocks(
    blocks: Iterable[tuple[tuple[slice, ...], Tensor]],
    reference: np.ndarray,
    region: np.ndarray,
    *,
    limit: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw voxels of a region, or predicted as a structure, from blocks of probabilities.

    Memory stays bounded: every voxel is kept with the chance that leaves about twice the limit, and
    the rest is drawn at the end.

    Args:
        blocks: where a block lies and its probabilities ``(K, *block)``.
        reference: class indices ``(X, Y, Z)``; voxels without annotation are never drawn.
        region: ``(X, Y, Z)`` bool.
        limit: most voxels to return.
        rng: draws them.

    Returns:
        Probabilities ``(N, K)`` float32 and classes ``(N,)`` uint8.
    """
    chance = min(1.0, 2 * limit / max(int(np.count_nonzero(region)), 1))
    probs, labels = [], []
    for where, block in blocks:
        truth = reference[where]
        wanted = (region[where] | (block.argmax(dim=0).numpy() > 0)) & (truth != IGNORE_INDEX)
        if chance < 1:
            wanted &= rng.random(truth.shape, dtype=np.float32) < chance
        probs.append(block.numpy()[:, wanted].T)
        labels.append(truth[wanted])
    found, classes = np.concatenate(probs), np.concatenate(labels)
    if len(classes) > limit:
        kept = np.sort(rng.choice(len(classes), limit, replace=False))
        found, classes = found[kept], classes[kept]
    return found, classes
