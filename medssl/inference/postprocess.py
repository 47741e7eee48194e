"""From class probabilities to a label map: argmax, and the largest piece of each structure."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from medssl.data.preprocessing.votes import CERTAIN
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


def class_margins(probabilities: Tensor) -> np.ndarray:
    """Return how far the most probable class of each voxel is ahead of the next.

    Args:
        probabilities: ``(K, *S)`` of at least two classes.

    Returns:
        ``(*S)`` uint8: 0 of a tie, 255 of certainty.
    """
    margins = np.empty(tuple(probabilities.shape[1:]), dtype=np.uint8)
    for index in range(margins.shape[0]):
        first, *others = probabilities[:, index]
        second = torch.zeros_like(first)
        for other in others:
            second = torch.maximum(second, torch.minimum(first, other))
            first = torch.maximum(first, other)
        ahead = ((first - second) * CERTAIN).round().clamp(0, CERTAIN)
        margins[index] = ahead.to(torch.uint8).cpu().numpy()
    return margins


def keep_largest_components(
    classes: np.ndarray,
    pieces: Mapping[int, int] | None = None,
    margins: np.ndarray | None = None,
) -> np.ndarray:
    """Keep the largest connected piece of each structure; the other pieces become background.

    For structures known to be in one piece, or in a known number of pieces. Voxels touching at a
    face, edge or corner are connected (26 neighbors in 3D).

    Args:
        classes: class indices ``(*S)``, 0 is background.
        pieces: how many pieces to keep of a class; 1 of those that are not in it.
        margins: of the classes; what becomes background is certain of it, in place.

    Returns:
        A new array of the same shape and dtype.
    """
    result = classes.copy()
    keep_largest(result, int(classes.max(initial=0)) + 1, pieces=pieces)
    if margins is not None:
        margins[result != classes] = CERTAIN
    return result
