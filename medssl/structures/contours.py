"""The outlines of a mask in a slice: polygons halfway between pixels inside and outside.

Through the centers of the outermost pixels a polygon would lose half a pixel all around, a fifth of
a small structure. Holes are joined to their outline by a channel of no width (the keyhole of DICOM
PS3.3, C.8.8.6.3), so that one closed polygon says what is inside.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medssl.optional import optional_module
from medssl.structures.mesh import EXTRA, bounding_box


def polygons_of(mask: np.ndarray) -> list[np.ndarray]:
    """Return the closed polygons around the pieces of a mask, holes cut out.

    Args:
        mask: boolean ``(X, Y)``.

    Returns:
        ``(N, 2)`` pixel coordinates each, pixel (0, 0) having its center at (0, 0); the first point
        is not repeated at the end. Pieces that touch at corners only are apart.
    """
    box = bounding_box(mask)
    if box is None:
        return []
    measure = optional_module("skimage.measure", EXTRA)
    padded = np.pad(mask[box].astype(np.float32), 1)
    start = np.array([one.start for one in box]) - 1
    found = [_corners_only(line[:-1]) + start for line in measure.find_contours(padded, 0.5)]
    areas = np.array([signed_area(line) for line in found])
    sign = np.sign(areas[np.abs(areas).argmax()])  # the largest is no hole
    outer = [line for line, area in zip(found, areas, strict=True) if area * sign > 0]
    holes = [line for line, area in zip(found, areas, strict=True) if area * sign < 0]
    outer.sort(key=lambda line: abs(signed_area(line)))
    owned: list[list[np.ndarray]] = [[] for _ in outer]
    for hole in holes:
        # Of nested pieces the smallest is the one that it is cut out of.
        owner = next(i for i, line in enumerate(outer) if _is_inside(hole[0], line))
        owned[owner].append(hole)
    return [_keyhole(line, own) for line, own in zip(outer, owned, strict=True)]


def signed_area(polygon: np.ndarray) -> float:
    """Return the area of a closed polygon ``(N, 2)``, negative if it runs the other way."""
    x, y = polygon[:, 0], polygon[:, 1]
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def _corners_only(line: np.ndarray) -> np.ndarray:
    """Leave out the points at which a closed polygon runs straight on."""
    before, after = line - np.roll(line, 1, 0), np.roll(line, -1, 0) - line
    turns = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    return line[np.abs(turns) > 1e-9]


def _is_inside(point: np.ndarray, polygon: np.ndarray) -> bool:
    """Tell whether a point is inside, by the crossings of a ray along the first axis."""
    (x, y), a, b = point, polygon, np.roll(polygon, -1, 0)
    across = (a[:, 1] > y) != (b[:, 1] > y)
    a, b = a[across], b[across]
    at = a[:, 0] + (y - a[:, 1]) / (b[:, 1] - a[:, 1]) * (b[:, 0] - a[:, 0])
    return bool(np.count_nonzero(at > x) % 2)


def _keyhole(outline: np.ndarray, holes: Sequence[np.ndarray]) -> np.ndarray:
    """Return one polygon that runs along an outline, into each hole and back the same way."""
    left = list(holes)
    while left:
        pairs = []
        for number, hole in enumerate(left):
            apart = ((outline[:, None] - hole[None]) ** 2).sum(-1)
            place = divmod(int(apart.argmin()), len(hole))
            pairs.append((float(apart[place]), number, *place))
        _, number, i, j = min(pairs)  # the nearest first, so that channels do not cross holes
        hole = np.roll(left.pop(number), -j, 0)
        parts = [outline[: i + 1], hole, hole[:1], outline[i : i + 1], outline[i + 1 :]]
        outline = np.concatenate(parts)
    return outline
