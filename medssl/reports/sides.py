"""Right and left on pictures of scans, in words that cannot be mistaken: letters at their edges."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDES = {
    "sagittal": (("P", "A"), ("I", "S")),
    "coronal": (("L", "R"), ("I", "S")),
    "axial": (("L", "R"), ("P", "A")),
}
"""Of each plane in RAS order: the patient's sides at the left and right edge of a picture, and at
the lower and upper one."""
COLOR = (255, 212, 0)
"""Of the letters, which no gray of a scan is."""
SIZE = 14
"""Of the letters in pictures of pixels."""


def mark_sides(axes: Any, plane: str) -> None:
    """Write which side of the patient is where, at the edges of a plane in RAS order."""
    (left, right), (lower, upper) = SIDES[plane]
    places = ((left, 0.02, 0.5), (right, 0.98, 0.5), (lower, 0.5, 0.02), (upper, 0.5, 0.98))
    for letter, x, y in places:
        axes.text(
            x,
            y,
            letter,
            transform=axes.transAxes,
            color="white",
            fontsize=9,
            ha={0.02: "left", 0.98: "right"}.get(x, "center"),
            va={0.02: "bottom", 0.98: "top"}.get(y, "center"),
            bbox={"facecolor": "black", "alpha": 0.5, "pad": 1, "linewidth": 0},
        )


def mark_pixels(picture: np.ndarray, plane: str) -> np.ndarray:
    """Return a picture ``(height, width, 3)`` uint8 of a plane with left and right written on."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=SIZE)
    height, width = picture.shape[:2]
    left, right = SIDES[plane][0]
    for letter, place, anchor in ((left, 3, "lm"), (right, width - 3, "rm")):
        at = (place, height // 2)
        draw.text(at, letter, (0, 0, 0), font, anchor, stroke_width=2, stroke_fill=(0, 0, 0))
        draw.text(at, letter, COLOR, font, anchor, stroke_width=0.5, stroke_fill=COLOR)
    return np.asarray(image)
