"""The dental CBCT phantom: two arches of teeth with FDI numbers in a cylindrical field of view.

Label values are FDI numbers: 11 to 18 upper right, 21 to 28 upper left, 31 to 38 lower left, 41 to
48 lower right of the *patient*, counted from the midline; or all teeth as one class; or the canals
of the nerves in the lower jaw; or the maxillary sinuses; or jaws, canals, sinuses and teeth. Some
teeth are missing, as in people. Unlabeled on purpose: soft tissue, tongue, airway and metal
streaks. Grey values are not Hounsfield units: offset and slope differ from scanner to scanner, the
field is cupped, and what lies outside the cylinder is padded. Teeth have three quarters of their
real size, so that a jaw fits into 64 voxels of 1 mm.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from medssl.data.phantoms import parts
from medssl.data.phantoms.cbct_jaws import (
    AIR,
    CANAL,
    LOWER_JAW,
    SINUS,
    SOFT,
    UPPER_JAW,
    Arch,
    draw_arches,
    paint_jaws,
)
from medssl.data.phantoms.parts import Array, Canvas, Scan

FDI_NUMBERS = tuple(10 * quadrant + tooth for quadrant in range(1, 5) for tooth in range(1, 9))
LABELS = {0: "background"} | {number: f"tooth_{number}" for number in FDI_NUMBERS}
BINARY_LABELS = {0: "background", 1: "tooth"}
CANAL_LABELS = {0: "background", 1: "canal"}
SINUS_LABELS = {0: "background", 1: "sinus"}
UPPER_TEETH, LOWER_TEETH = 5, 6
JAW_LABELS = {
    0: "background",
    LOWER_JAW: "lower jaw",
    UPPER_JAW: "upper jaw",
    CANAL: "canal",
    SINUS: "sinus",
    UPPER_TEETH: "upper teeth",
    LOWER_TEETH: "lower teeth",
}
SPACING_MM = (1.0, 1.0, 1.0)
SHAPE = (64, 64, 40)
MIN_SHAPE = (40, 40, 24)

DENTIN, ENAMEL, PULP, METAL = 1700.0, 2600.0, 250.0, 6000.0
"""Grey values before the scanner's own offset and slope."""

# Mesiodistal and buccolingual width of tooth 1 to 8 in mm (rounded textbook values) times 3/4.
_UPPER = [(6.4, 5.2), (5.0, 4.6), (5.7, 6.0), (5.3, 6.8), (5.2, 6.8), (7.6, 8.2), (7.0, 8.0)]
_LOWER = [(4.0, 4.4), (4.3, 4.7), (5.2, 5.7), (5.4, 5.8), (5.5, 6.2), (8.2, 7.9), (7.8, 7.6)]
WIDTHS_MM = {"upper": [*_UPPER, (6.4, 7.2)], "lower": [*_LOWER, (7.2, 7.0)]}
_MISSING = np.array([0.03, 0.05, 0.04, 0.08, 0.07, 0.12, 0.07, 0.45])
"""Chance that tooth 1 to 8 is missing."""


@dataclass(frozen=True)
class Tooth:
    """One tooth: a tapered, round-ended rod of elliptic section, from crown to root tip.

    Attributes:
        number: FDI number.
        center: middle of its axis.
        turn: columns are the directions across (mesiodistal, buccolingual) and along, to the root.
        section: half widths of the crown.
        half_length: half the length of the axis.
        taper: width at the root tip relative to the crown's.
    """

    number: int
    center: NDArray[np.float64]
    turn: NDArray[np.float64]
    section: tuple[float, float]
    half_length: float
    taper: float

    def local(self, points: Array) -> Array:
        """Express points ``(3, X, Y, Z)`` in the tooth's frame."""
        return parts.place(points, self.center, self.turn)

    def distance(self, local: Array) -> Array:
        """Signed distance, exact up to the ellipse's approximation."""
        a, b = self.section
        mean = np.float32(np.sqrt(a * b))
        height = np.clip(local[2], -self.half_length, self.half_length)
        share = 1 + (self.taper - 1) * (height / self.half_length + 1) / 2
        across = np.hypot(local[0] * (mean / a), local[1] * (mean / b))
        return np.hypot(across, local[2] - height) - mean * share

    @property
    def volume(self) -> float:
        """Volume in closed form: a truncated cone between two half balls of its ends' radii."""
        a, b = self.section
        one, two = np.sqrt(a * b), np.sqrt(a * b) * self.taper
        cone = np.pi * 2 * self.half_length / 3 * (one**2 + one * two + two**2)
        return float(cone + 2 / 3 * np.pi * (one**3 + two**3))


def make_cbct(rng: np.random.Generator, shape: tuple[int, int, int]) -> Scan:
    """Draw one CBCT-like scan; the anatomy is scaled to fit a cylinder inside the grid."""
    grid = parts.draw_grid(rng, shape, SPACING_MM, flipped=0.5, oblique=0.2, tilt=8.0)
    world = grid.points()
    edges = [n * d for n, d in zip(shape, SPACING_MM, strict=True)]
    unit = min(edges[0] / 64, edges[1] / 64, edges[2] / 40)
    size = float(rng.uniform(0.9, 1.02))
    pose = parts.rotation(rng.uniform(-1, 1, 3) * [7, 4, 7])
    points = parts.place(world / np.float32(unit), rng.uniform(-2, 2, 3), pose) / np.float32(size)

    upper, lower = draw_arches(rng)
    teeth = [*_draw_teeth(upper, rng), *_draw_teeth(lower, rng)]
    canvas = Canvas(shape, background=AIR, softness=1.2 / (unit * size))
    _paint_head(canvas, points, rng)
    canals, sinuses = paint_jaws(canvas, points, (upper, lower), rng)
    jaws = canvas.label.copy()
    canvas.label[:] = 0
    metal = _paint_teeth(canvas, points, teeth, rng)
    canvas.image += _streaks(points, metal, rng)

    radius = float(rng.uniform(30.5, 32.0)) * unit
    axis = np.einsum("ji,j...->i...", grid.direction.astype(np.float32), world)
    outside = np.hypot(axis[0], axis[1]) > radius
    numbers = canvas.label
    numbers[outside] = jaws[outside] = 0
    jaws[np.isin(numbers // 10, (1, 2))] = UPPER_TEETH
    jaws[np.isin(numbers // 10, (3, 4))] = LOWER_TEETH
    image, scanner = _scan(canvas.image, np.hypot(axis[0], axis[1]) / radius, outside, rng)
    settings: dict[str, float | str | list[float]] = {
        "size": round(size, 4),
        "teeth": float(len(teeth)),
        "metal_crowns": float(len(metal)),
        "field_radius_mm": round(radius, 4),
        **sinuses,
        **scanner,
    }
    scale = (unit * size) ** 3
    volumes = {f"tooth_{t.number}": t.volume for t in teeth} | {"canal": canals}
    return Scan(
        image,
        numbers,
        grid.affine,
        settings,
        others={
            "binary": (numbers > 0).astype(np.uint8),
            "canal": (jaws == CANAL).astype(np.uint8),
            "sinus": (jaws == SINUS).astype(np.uint8),
            "jaws": jaws,
        },
        analytic={name: round(volume * scale, 2) for name, volume in volumes.items()},
    )


def _draw_teeth(arch: Arch, rng: np.random.Generator) -> list[Tooth]:
    widths = WIDTHS_MM["upper" if arch.up > 0 else "lower"]
    found = []
    for side in (1, -1):
        quadrant = {(1, 1): 1, (1, -1): 2, (-1, -1): 3, (-1, 1): 4}[arch.up, side]
        outline = arch.outline(side)
        steps = np.linalg.norm(np.diff(outline, axis=0), axis=1)
        along = np.concatenate([[0], np.cumsum(steps)])
        position = 0.15
        for index, (mesiodistal, buccolingual) in enumerate(widths):
            grown = rng.uniform(0.92, 1.04, 2)
            middle = np.array(
                [np.interp(position + mesiodistal / 2, along, axis) for axis in outline.T]
            )
            ahead = np.array(
                [np.interp(position + mesiodistal / 2 + 0.5, along, axis) for axis in outline.T]
            )
            position += mesiodistal
            present = rng.random() >= _MISSING[index]
            lean = rng.uniform([-6, -6], [6, 6]) + np.array([0, 10 if index < 3 else 0])
            half_length = rng.uniform(4.3, 5.2) - (0.9 if index > 5 else 0)
            if not present:
                continue
            tangent = np.append((ahead - middle) / np.linalg.norm(ahead - middle), 0)
            root = np.array([0, 0, float(arch.up)])
            outward = np.cross(root, tangent) * -side * arch.up
            # The frame leans: roots of front teeth point backwards.
            root = root - np.tan(np.deg2rad(lean[1])) * outward
            root = root + np.tan(np.deg2rad(lean[0])) * tangent
            root /= np.linalg.norm(root)
            across = tangent - root * (tangent @ root)
            across /= np.linalg.norm(across)
            crown = mesiodistal / 2 * 0.93 * grown[0], buccolingual / 2 * 0.93 * grown[1]
            found.append(
                Tooth(
                    number=10 * quadrant + index + 1,
                    center=np.append(
                        middle, arch.bite + arch.up * (half_length + 0.8 * np.sqrt(crown[0]))
                    ),
                    turn=np.stack([across, np.cross(root, across), root], axis=1),
                    section=crown,
                    half_length=half_length,
                    taper=float(rng.uniform(0.35, 0.5)),
                )
            )
    return found


def _paint_head(canvas: Canvas, points: Array, rng: np.random.Generator) -> None:
    flat = points.copy()
    flat[2] = 0
    texture = 25 * parts.smooth_field(rng, canvas.label.shape, (1.5, 1.5, 1.5))
    face = parts.ellipsoid(parts.place(flat, (0, -28, 0)), (40, rng.uniform(56, 59), 1))
    canvas.paint(face, SOFT + texture)
    airway = parts.ellipsoid(parts.place(flat, (0, -27, 0)), (rng.uniform(6, 9), 4.5, 1))
    canvas.paint(airway, AIR)
    # Air between tongue and palate.
    canvas.paint(parts.ellipsoid(parts.place(points, (0, 0, 9)), (11, 12, rng.uniform(1, 3))), AIR)


def _paint_teeth(
    canvas: Canvas, points: Array, teeth: list[Tooth], rng: np.random.Generator
) -> list[Tooth]:
    """Paint teeth; return those that carry a metal crown."""
    metal = []
    chance = rng.choice([0.0, 0.06, 0.15], p=[0.35, 0.4, 0.25])
    enamel, dentin = ENAMEL * rng.uniform(0.92, 1.08), DENTIN * rng.uniform(0.9, 1.1)
    for tooth in teeth:
        local = tooth.local(points)
        near = np.abs(local).max(axis=0) < tooth.half_length + max(tooth.section) + 2
        box = tuple(slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(near))
        if not box or not near.any():  # wholly outside the field
            continue
        local = local[(slice(None), *box)]
        distance = tooth.distance(local)
        part = canvas.window(box)
        part.paint(distance - 0.5, SOFT)  # the ligament: a thin dark line between root and bone
        part.paint(distance, dentin, label=tooth.number)
        cap = local[2] + tooth.half_length * float(rng.uniform(0.1, 0.35))
        crown = np.maximum(distance, cap)
        # Enamel is a shell over the crown; a restored crown is metal throughout.
        if tooth.number % 10 > 3 and rng.random() < chance:
            part.paint(crown, METAL, label=tooth.number)
            metal.append(tooth)
        else:
            part.paint(np.maximum(crown, -(distance + 1.1)), enamel, label=tooth.number)
            chamber = parts.straight_tube(
                local, half_length=tooth.half_length * 0.8, radius=float(rng.uniform(0.45, 0.8))
            )
            part.paint(chamber, PULP, label=tooth.number)
    return metal


def _streaks(points: Array, metal: list[Tooth], rng: np.random.Generator) -> Array:
    """Return the grey values that metal adds around itself, and takes away between two of it."""
    out = np.zeros(points.shape[1:], dtype=np.float32)
    crowns = [t.center - t.turn[:, 2] * t.half_length * 0.7 for t in metal]
    for center in crowns:
        local = parts.place(points, center)
        away = np.hypot(local[0], local[1])
        angle = np.arctan2(local[1], local[0])
        rays = sum(
            np.sin(k * angle + np.float32(rng.uniform(0, 2 * np.pi)))
            for k in rng.integers(4, 17, 4)
        )
        fade = np.exp(-((local[2] / 3.0) ** 2)) / (1 + away / 6)
        out += np.float32(rng.uniform(250, 550)) * rays * fade * (away > 2)
    for one, two in itertools.pairwise(crowns):
        middle, half = (one + two) / 2, (two - one) / 2
        local = parts.place(points, middle)
        length = np.linalg.norm(half[:2])
        along = (local[0] * half[0] + local[1] * half[1]) / length
        across = (local[0] * half[1] - local[1] * half[0]) / length
        dark = np.exp(-((across / 2.5) ** 2) - (local[2] / 3.0) ** 2) * (np.abs(along) < length)
        out -= np.float32(rng.uniform(500, 900)) * dark
    return out


def _scan(
    image: Array, radial: Array, outside: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[np.ndarray, dict[str, float]]:
    """Apply the scanner; ``radial`` is the distance from the field's axis over its radius."""
    slope = float(rng.uniform(0.55, 1.25))
    # Two habits of manufacturers: air near -1000, or no negative values at all.
    offset = float(rng.normal(0, 120) if rng.random() < 0.5 else 1000 * slope + rng.normal(0, 120))
    cupping = float(rng.uniform(-0.05, 0.22))
    noise = float(rng.uniform(40, 130))
    blur = float(rng.uniform(0.45, 0.75))
    image = gaussian_filter(np.minimum(image, METAL), blur)
    image = (image + 1000) * (1 + cupping * (radial**2 - 0.5)) - 1000
    image = image + noise * parts.smooth_field(rng, image.shape, (0.5, 0.5, 0.5))
    image = np.clip(image, -1000, 4200) * slope + offset
    image[outside] = -1000 * slope + offset  # padded with the value of air
    out = np.rint(image).astype(np.int16)
    drawn = {"slope": slope, "offset": offset, "cupping": cupping, "noise": noise, "blur": blur}
    return out, {k: round(v, 4) for k, v in drawn.items()}
