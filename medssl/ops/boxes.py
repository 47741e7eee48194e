"""Boxes in a patch: how large they are, and where they lie."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Box = tuple[tuple[int, int], ...]
"""``(start, stop)`` per spatial axis."""


def box_size(shape: Sequence[int], ratio: float) -> tuple[int, ...]:
    """Return the box's voxels per axis: ``int(n * ratio)``.

    For 2/3 this equals ``int(n * 2 / 3)`` for every patch side up to 2048, so that both ways in
    which published code computes it agree.

    Raises:
        ValueError: the box would be empty, or would fill an axis of the patch.
    """
    sizes = tuple(int(n * ratio) for n in shape)
    if any(size < 1 or size >= n for size, n in zip(sizes, shape, strict=True)):
        raise ValueError(
            f"a box of {ratio:.3g} of each axis is {'x'.join(map(str, sizes))} voxels in a "
            f"patch of {'x'.join(map(str, shape))}: it must be at least 1 and smaller than the "
            "patch on every axis"
        )
    return sizes


def draw_box(
    shape: Sequence[int],
    ratio: float,
    rng: np.random.RandomState,
    *,
    inclusive: bool = True,
) -> Box:
    """Draw a box of :func:`box_size` at a uniformly random place, one integer per axis in order.

    Args:
        shape: spatial shape of the patch.
        ratio: side of the box relative to the patch's, in (0, 1).
        rng: generator; a seeded one reproduces the box.
        inclusive: let the last valid position be drawn. The original BCP code never draws it.

    Raises:
        ValueError: see :func:`box_size`.
    """
    box = []
    for n, size in zip(shape, box_size(shape, ratio), strict=True):
        start = int(rng.randint(0, n - size + int(inclusive)))
        box.append((start, start + size))
    return tuple(box)
