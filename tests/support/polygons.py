"""Which pixels a polygon holds, worked out apart from the package."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def inside(polygons: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Return the pixels whose centers are inside an odd number of times."""
    x, y = (grid.astype(float) for grid in np.meshgrid(*map(np.arange, shape), indexing="ij"))
    found = np.zeros(shape, int)
    for polygon in polygons:
        for (ax, ay), (bx, by) in zip(polygon, np.roll(polygon, -1, 0), strict=True):
            across = (ay > y) != (by > y)
            with np.errstate(divide="ignore", invalid="ignore"):
                at = ax + (y - ay) / (by - ay) * (bx - ax)
            found += across & (at > x)
    return found % 2 == 1
