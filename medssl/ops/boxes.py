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
    return place_box(shape, box_size(shape, ratio), rng, inclusive=inclusive)


def place_box(
    shape: Sequence[int],
    sizes: Sequence[int],
    rng: np.random.RandomState,
    *,
    inclusive: bool = True,
) -> Box:
    """Draw where a box of ``sizes`` voxels lies in a patch; see :func:`draw_box`."""
    box = []
    for n, size in zip(shape, sizes, strict=True):
        start = int(rng.randint(0, n - size + int(inclusive)))
        box.append((start, start + size))
    return tuple(box)


def area_box(
    shape: Sequence[int],
    rng: np.random.RandomState,
    *,
    area: tuple[float, float] = (0.02, 0.4),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
) -> Box:
    """Draw a rectangle by its area and its height over its width, again until it fits.

    Args:
        shape: two equal sides.
        rng: draws the area, then aspect, column and row until the rectangle lies in the patch.
        area: least and largest share of the patch.
        aspect: least and largest height over width.

    Source: Yang et al., UniMatch (CVPR 2023, arXiv 2208.09910), published code.
    """
    rows, columns = shape
    pixels = rng.uniform(*area) * rows * columns
    while True:
        ratio = rng.uniform(*aspect)
        width, height = int(np.sqrt(pixels / ratio)), int(np.sqrt(pixels * ratio))
        x, y = int(rng.randint(0, columns)), int(rng.randint(0, rows))
        if x + width <= columns and y + height <= rows:
            return ((y, y + height), (x, x + width))


def centred_boxes(shape: Sequence[int], count: int, rng: np.random.RandomState) -> list[Box]:
    """Draw a box for each of ``count`` patches around a random centre, cut off at the rim.

    Args:
        shape: spatial shape of a patch.
        count: patches.
        rng: draws lambda of Beta(4, 4) once, so that sides are ``int(n sqrt(1 - lambda))``, in 3-D
            too; then axis by axis the centres of all boxes, from an eighth of the side on.

    Source: Zhao et al., AD-MT (ECCV 2024, arXiv 2311.17325), published code.
    """
    ratio = np.sqrt(1 - rng.beta(4, 4))
    spans = []
    for n in shape:
        half = int(n * ratio) // 2
        centres = rng.randint(n // 8, n, size=count)
        spans.append([(max(int(c) - half, 0), min(int(c) + half, n)) for c in centres])
    return [tuple(box) for box in zip(*spans, strict=True)]
