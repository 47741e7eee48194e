"""From class probabilities to a label map: argmax, and the largest piece of each structure."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from medssl.ops.components import keep_largest


def argmax_classes(probabilities: Tensor) -> np.ndarray:
    """Return the most probable class of each voxel; on a tie, the lowest class.

    Works slab by slab along the first axis: the integer result of a whole volume would take eight
    bytes per voxel.

    Args:
        probabilities: ``(K, *S)`` with at most 256 classes.

    Returns:
        Class indices ``(*S)``, uint8.
    """
    classes = np.empty(tuple(probabilities.shape[1:]), dtype=np.uint8)
    for index in range(classes.shape[0]):
        classes[index] = probabilities[:, index].argmax(dim=0).cpu().numpy()
    return classes


def keep_largest_components(
    classes: np.ndarray, pieces: Mapping[int, int] | None = None
) -> np.ndarray:
    """Keep the largest connected piece of each structure; the other pieces become background.

    For structures known to be in one piece, or in a known number of pieces. Voxels touching at a
    face, edge or corner are connected (26 neighbors in 3D).

    Args:
        classes: class indices ``(*S)``, 0 is background.
        pieces: how many pieces to keep of a class; 1 of those that are not in it.

    Returns:
        A new array of the same shape and dtype.
    """
    result = classes.copy()
    keep_largest(result, int(classes.max(initial=0)) + 1, pieces=pieces)
    return result
