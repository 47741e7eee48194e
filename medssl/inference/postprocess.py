"""From class probabilities to a label map: argmax or regions, the largest pieces of structures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from medssl.data.preprocessing.votes import CERTAIN
from medssl.ops.components import keep_largest

Regions = Sequence[tuple[Sequence[int], int]]
"""Of each region the classes that belong to it, and the one that it writes."""


def decided_classes(probabilities: Tensor, regions: Regions = ()) -> np.ndarray:
    """Return the class of each voxel: the most probable one, or what regions write.

    A region is where its probability, the sum of its classes', is above one half. One region after
    the other writes its class there, later over earlier; all else is background. So a voxel may be
    in a region though background is likelier than each single class of it.

    Args:
        probabilities: ``(K, *S)`` with at most 256 classes.
        regions: in the order they are written; none: the most probable class.

    Returns:
        Class indices ``(*S)``, uint8.

    Source: nnU-Net's ``regions_class_order``.
    """
    if not regions:
        return argmax_classes(probabilities)
    classes = np.zeros(tuple(probabilities.shape[1:]), dtype=np.uint8)
    for members, written in regions:
        for index in range(classes.shape[0]):
            inside = summed(probabilities[:, index], members) > 0.5
            classes[index][inside.cpu().numpy()] = written
    return classes


def summed(probabilities: Tensor, members: Sequence[int]) -> Tensor:
    """Return the probability ``(*S)`` of a union of classes, of ``(K, *S)``; no copy of one."""
    first, *others = (probabilities[index] for index in members)
    total = first
    for other in others:
        total = total + other
    return total


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


def class_margins(probabilities: Tensor, regions: Regions = ()) -> np.ndarray:
    """Return how far the most probable class of each voxel is ahead of the next.

    With regions, how far inside and outside are apart for the least sure of them.

    Args:
        probabilities: ``(K, *S)`` of at least two classes.
        regions: as for `decided_classes`.

    Returns:
        ``(*S)`` uint8: 0 of a tie, 255 of certainty.
    """
    margins = np.empty(tuple(probabilities.shape[1:]), dtype=np.uint8)
    for index in range(margins.shape[0]):
        slab = probabilities[:, index]
        ahead = _ahead_of_regions(slab, regions) if regions else _ahead(slab)
        ahead = (ahead * CERTAIN).round().clamp(0, CERTAIN)
        margins[index] = ahead.to(torch.uint8).cpu().numpy()
    return margins


def _ahead(probabilities: Tensor) -> Tensor:
    first, *others = probabilities
    second = torch.zeros_like(first)
    for other in others:
        second = torch.maximum(second, torch.minimum(first, other))
        first = torch.maximum(first, other)
    return first - second


def _ahead_of_regions(probabilities: Tensor, regions: Regions) -> Tensor:
    apart = [(2 * summed(probabilities, members) - 1).abs() for members, _ in regions]
    least = apart[0]
    for other in apart[1:]:
        least = torch.minimum(least, other)
    return least


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
