"""Tasks that need no labels: masked blocks to fill in, and fused volumes to take apart.

Pure functions; what is random is drawn on the host from a given generator.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from medssl.ops.losses import IGNORE_INDEX, TINY

LEVELS = 5
"""Shares of the first volume in a fused one, 0, 1/4, ... 1: the classes to tell apart."""
FEWEST_BOXES, MOST_BOXES, LARGEST_EDGE = 10, 39, 0.625
UNSEEN = 0.05
"""Where two volumes differ by less, in standard deviations, nobody can tell the shares."""


def block_counts(shape: Sequence[int], edge: Sequence[int]) -> tuple[int, ...]:
    """Return how many blocks of an edge a patch has along each axis, one at least."""
    return tuple(max(1, side // e) for side, e in zip(shape, edge, strict=True))


def visible_blocks(
    shape: Sequence[int],
    edge: Sequence[int],
    share: float,
    samples: int,
    rng: np.random.RandomState,
) -> Tensor:
    """Draw the blocks that stay visible: ``floor(share n)`` of n are masked in every sample.

    Args:
        shape: voxels of a patch along each axis.
        edge: of a block; what is left over at the end of an axis belongs to its last block.
        share: of the blocks that are masked, in [0, 1].
        samples: patches, each with a draw of its own.
        rng: the generator.

    Returns:
        Boolean ``(samples, 1, *shape)``, True where visible.

    Source: ``MIC-DKFZ/nnssl``, BaseMAETrainer; with an edge that suits the patch.
    """
    counts = block_counts(shape, edge)
    total = int(np.prod(counts))
    visible = np.ones((samples, total), dtype=bool)
    for row in visible:
        row[rng.permutation(total)[: int(share * total)]] = False
    blocks = visible.reshape(samples, 1, *counts)
    for axis, (side, e, count) in enumerate(zip(shape, edge, counts, strict=True), start=2):
        of_voxel = np.minimum(np.arange(side) // e, count - 1)
        blocks = np.take(blocks, of_voxel, axis=axis)
    return torch.from_numpy(np.ascontiguousarray(blocks))


def masked_error(output: Tensor, image: Tensor, visible: Tensor) -> Tensor:
    """Compute the mean squared error over masked voxels: ``sum(w (f - x)^2) / (sum(w) + 1e-16)``.

    Args:
        output: reconstruction ``(B, C, *spatial)``.
        image: what it should be.
        visible: boolean, broadcastable; voxels where it is False count.

    Source: nnssl, masked image modeling (sum over the batch by count over the batch).
    """
    masked = (~visible).expand_as(image).float()
    error = (output.float() - image.float()).square()
    return (error * masked).sum() / (masked.sum() + TINY)


def fusion_shares(
    shape: Sequence[int], samples: int, rng: np.random.RandomState, *, min_edge: int = 8
) -> Tensor:
    """Draw the shares of the first volume: boxes of one share each, later ones on top, 0 elsewhere.

    Args:
        shape: voxels of a patch along each axis.
        samples: patches.
        rng: the generator; the order of draws is that of the published code.
        min_edge: smallest edge of a box; the largest is 0.625 of a side.

    Returns:
        int64 ``(samples, *shape)``: four times the share, 0 to 4.

    Source: Wang et al. 2023, volume fusion (arXiv 2306.16925), in the form of nnssl.
    """
    level = np.zeros((samples, *shape), dtype=np.int64)
    for one in level:
        count = rng.randint(FEWEST_BOXES, MOST_BOXES + 1)
        values = rng.randint(0, LEVELS, count)
        edges = []
        for side in shape:
            largest = max(1, int(LARGEST_EDGE * side))
            edges.append(rng.randint(min(min_edge, largest), largest + 1, count))
        starts = [rng.randint(0, s - edge + 1) for s, edge in zip(shape, edges, strict=True)]
        for i, value in enumerate(values):
            box = tuple(slice(s[i], s[i] + e[i]) for s, e in zip(starts, edges, strict=True))
            one[box] = value
    return torch.from_numpy(level)


def fuse(first: Tensor, second: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """Mix two volumes voxel by voxel, ``x = a F + (1 - a) G``, and say which shares can be seen.

    Args:
        first, second: F and G, ``(B, C, *spatial)``.
        level: ``4 a``, int64 ``(B, *spatial)``.

    Returns:
        The fused volumes, and the classes ``(B, *spatial)``: 255 where F and G hardly differ.
    """
    share = level.unsqueeze(1).to(first.dtype) / (LEVELS - 1)
    seen = ((first - second).abs() >= UNSEEN).any(dim=1)
    label = torch.where(seen, level, torch.full_like(level, IGNORE_INDEX))
    return share * first + (1 - share) * second, label
