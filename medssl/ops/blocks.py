"""Patches cut into blocks that change places within a patch, or patches at their place."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from torch import Tensor

from medssl.ops.perturb import Move

Block = tuple[slice, ...]


def blocks_of(shape: tuple[int, ...], parts: int = 2) -> list[Block]:
    """Return the blocks of a patch: equal, ``parts`` along each axis, or one where it is thin.

    What is left over of a side that cannot be divided belongs to no block.
    """
    sides = []
    for n in shape:
        count = min(parts, n)
        size = n // count
        sides.append([slice(k * size, (k + 1) * size) for k in range(count)])
    return list(product(*sides))


def shuffled_blocks(image: Tensor, rng: np.random.RandomState, parts: int = 2) -> Move:
    """Draw an order of the blocks of each patch.

    Args:
        image: ``(N, C, *spatial)``; its shape alone is looked at.
        rng: draws one order after the other.
        parts: blocks along each axis.

    Source: Liu et al., HSSDA (CVPR 2023), which permutes the quarters of a scene.
    """
    blocks = blocks_of(tuple(image.shape[2:]), parts)
    orders = [rng.permutation(len(blocks)) for _ in range(len(image))]

    def move(x: Tensor) -> Tensor:
        out, first = x.clone(), len(x) - len(orders)
        for row, order in enumerate(orders, start=first):
            for block, source in zip(blocks, order, strict=True):
                _part(out[row], block).copy_(_part(x[row], blocks[source]))
        return out

    return move


def exchanged_blocks(image: Tensor, rng: np.random.RandomState, parts: int = 2) -> Move:
    """Draw for each block of which patch of the batch it is; all keep their place in the patch.

    Args:
        image: ``(N, C, *spatial)``; its shape alone is looked at.
        rng: draws an order of the patches for one block after the other.
        parts: blocks along each axis.

    Source: Chen et al., MagicNet (CVPR 2023).
    """
    count = len(image)
    blocks = blocks_of(tuple(image.shape[2:]), parts)
    orders = [rng.permutation(count) for _ in blocks]

    def move(x: Tensor) -> Tensor:
        out, first = x.clone(), len(x) - count
        for block, order in zip(blocks, orders, strict=True):
            moved = [_part(x[first + int(source)], block) for source in order]
            _part(out[first:], block).copy_(torch.stack(moved))
        return out

    return move


def _part(volume: Tensor, block: Block) -> Tensor:
    """Return the block of ``(..., *spatial)``, a view."""
    whole: list[slice] = [slice(None)] * (volume.ndim - len(block))
    return volume[(*whole, *block)]
