"""Small pictures of scans: three planes side by side, structures outlined."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageColor
from scipy import ndimage

from medssl.data.images.geometry import is_usable, turn_to_ras
from medssl.reports.sides import SIDES, mark_pixels

COLORS = ("#ff5a5f", "#00c2a8", "#ffc145", "#6a8dff", "#c86bff", "#7bd148", "#ff8fb1", "#9aa5b1")
"""Of structures in pictures, by label value."""

EDGE = 132
"""Pixels that the longest edge of a scan gets."""

QUALITY = 85


def draw_thumbnail(image: np.ndarray, label: np.ndarray | None, affine: np.ndarray) -> bytes:
    """Draw sagittal, coronal and axial planes in RAS axes, at true proportions, and their sides.

    The planes are the middle ones; where there is a label, those with most of it. Where the affine
    says nothing of sides, none are written.

    Args:
        image: ``(X, Y, Z)``, finite.
        label: label values on the same grid, or None.
        affine: voxel to world; an unusable one is taken as one unit per voxel.

    Returns:
        A JPEG.
    """
    upright = turn_to_ras(image, affine)
    mask = None if label is None else turn_to_ras(label, affine)
    spacing = _upright_spacing(affine)
    extent = spacing * upright.shape
    # Steep scans such as OCT keep at least a sixth of the width, or nothing would be seen.
    scale = EDGE / extent.max()
    pixels = np.maximum(np.round(extent * scale), EDGE // 6).astype(int)
    step = max(1, upright.size // 500_000)
    low, high = np.percentile(upright.ravel()[::step], (1, 99.5))
    planes = []
    for axis, plane_name in enumerate(SIDES):
        others = [a for a in range(3) if a != axis]
        index = upright.shape[axis] // 2
        if mask is not None and (mask > 0).any():
            index = int(np.argmax((mask > 0).sum(axis=tuple(others))))
        size = (int(pixels[others[0]]), int(pixels[others[1]]))
        gray = (np.take(upright, index, axis) - low) / max(high - low, 1e-12)
        plane = _resized(np.clip(255 * gray, 0, 255).astype(np.uint8), size)
        colored = np.repeat(plane[..., None], 3, axis=2)
        if mask is not None:
            _outline(colored, np.take(mask, index, axis), size)
        planes.append(mark_pixels(colored, plane_name) if is_usable(affine) else colored)
    return _side_by_side(planes)


def _upright_spacing(affine: np.ndarray) -> np.ndarray:
    spacing = np.abs(affine[:3, :3]).max(axis=1)
    return spacing if np.isfinite(spacing).all() and spacing.min() > 0 else np.ones(3)


def _resized(plane: np.ndarray, size: tuple[int, int], *, nearest: bool = False) -> np.ndarray:
    """Turn ``(first, second)`` axes to right and up, and resize."""
    how = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(np.ascontiguousarray(plane.T[::-1])).resize(size, how))


def structure_color(value: int) -> str:
    """Return the color of a label value, the same in every picture."""
    return COLORS[(value - 1) % len(COLORS)]


def _outline(colored: np.ndarray, plane: np.ndarray, size: tuple[int, int]) -> None:
    """Draw the borders of each structure into a picture, in place."""
    whole = np.rint(np.nan_to_num(plane)).astype(np.int32)
    for value in (int(v) for v in np.unique(whole)[:100] if v > 0):
        inside = _resized((whole == value).astype(np.uint8), size, nearest=True) > 0
        border = inside & ~ndimage.binary_erosion(inside)
        colored[border] = ImageColor.getrgb(structure_color(value))


def _side_by_side(planes: list[np.ndarray]) -> bytes:
    height = max(p.shape[0] for p in planes)
    canvas = np.full((height, sum(p.shape[1] for p in planes) + 8, 3), 0, np.uint8)
    start = 0
    for plane in planes:
        top = (height - plane.shape[0]) // 2
        canvas[top : top + plane.shape[0], start : start + plane.shape[1]] = plane
        start += plane.shape[1] + 4
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return buffer.getvalue()
