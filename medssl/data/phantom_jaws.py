"""The jaws of the CBCT phantom: bone, sinuses and the canals of the nerves in the lower jaw.

The canal of each side runs from the end of the jaw, below the molars, to the mental foramen, where
it leaves through the outer cortex; a thinner branch, not labeled, goes on to the front teeth. What
makes it hard to find is in people, too: bone from dense to porous, a canal with a bony wall of its
own in some and without in others, and marrow spaces as dark as itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from medssl.data import phantom_parts as parts
from medssl.data.phantom_parts import Array, Canvas

LOWER_JAW, UPPER_JAW, CANAL, SINUS = 1, 2, 3, 4
"""Label values while jaws are painted."""

AIR, SOFT, TRABECULAR, CORTICAL = -1000.0, 60.0, 450.0, 1250.0
"""Grey values before the scanner's own offset and slope."""

_STEPS = 200
"""Points of a curve; neighbors are less than 0.2 mm apart."""


@dataclass(frozen=True)
class Arch:
    """One dental arch: half an ellipse in the axial plane, open towards the back.

    Attributes:
        half_width, depth: half axes of the ellipse.
        back: y of its center, where the arch ends.
        up: 1 for the upper jaw (roots point up), -1 for the lower.
        bite: height of the chewing surface.
    """

    half_width: float
    depth: float
    back: float
    up: int
    bite: float

    def outline(self, side: int, count: int = 400) -> NDArray[np.float64]:
        """Return ``(count, 2)`` points of one half from the midline backwards; side 1 is right."""
        angle = np.linspace(0, 1.9, count)
        return np.stack(
            [side * self.half_width * np.sin(angle), self.back + self.depth * np.cos(angle)], axis=1
        )


@dataclass(frozen=True)
class Bone:
    """What is one patient's own: density, size of the marrow spaces, thickness of the cortex."""

    cortical: float
    spongy: Array
    shell: float


class Course:
    """One half of a lower arch as a road along which canals run."""

    def __init__(self, arch: Arch, side: int) -> None:
        outline = arch.outline(side)
        self._outline = outline[outline[:, 1] > arch.back - 3]
        steps = np.linalg.norm(np.diff(self._outline, axis=0), axis=1)
        self._along = np.concatenate([[0], np.cumsum(steps)])
        ahead = np.gradient(self._outline, axis=0)
        across = np.stack([ahead[:, 1], -ahead[:, 0]], axis=1)
        across /= np.linalg.norm(across, axis=1, keepdims=True)
        to_middle = np.sum(across * (np.array([0, arch.back]) - self._outline), axis=1)
        self._inward = across * np.sign(to_middle)[:, None]
        self._bite = arch.bite

    @property
    def length(self) -> float:
        """Length from the midline to the end of the jaw."""
        return float(self._along[-1])

    def curve(self, start: float, stop: float, *, inward: Array | float, depth: Array) -> Array:
        """Return the points ``(N, 3)`` of a curve from ``start`` to ``stop`` along the arch.

        Args:
            start, stop: mm from the midline.
            inward: mm from the arch towards the tongue, one number or ``(N,)``.
            depth: mm below the chewing surface, ``(N,)``.
        """
        where = np.linspace(start, stop, len(depth))
        flat, turn = (
            np.stack([np.interp(where, self._along, axis) for axis in points.T], axis=1)
            for points in (self._outline, self._inward)
        )
        inside = np.broadcast_to(inward, where.shape)[:, None]
        return np.column_stack([flat + turn * inside, self._bite - depth]).astype(np.float32)


def draw_arches(rng: np.random.Generator) -> tuple[Arch, Arch]:
    """Draw the upper and the lower arch."""
    half_width, depth = rng.uniform(22.0, 24.5), rng.uniform(36.0, 41.0)
    gap, back = rng.uniform(0.3, 2.5), rng.uniform(-17.5, -15.5)
    overjet = rng.uniform(0.5, 2.5)
    upper = Arch(half_width, depth, back, 1, gap / 2)
    return upper, Arch(half_width - 0.7, depth - overjet, back, -1, -gap / 2)


def paint_jaws(
    canvas: Canvas, points: Array, arches: tuple[Arch, Arch], rng: np.random.Generator
) -> dict[str, float]:
    """Paint both jaws with :data:`LOWER_JAW` to :data:`SINUS`; return volumes that are known."""
    bone = _draw_bone(canvas.label.shape, rng)
    for arch in arches:
        ridge = _paint_bone(canvas, points, arch, bone, rng)
    return {"canal": _paint_canals(canvas, points, arches[1], ridge, bone, rng)}


def _draw_bone(shape: tuple[int, int, int], rng: np.random.Generator) -> Bone:
    density, porous, grain = rng.uniform([0.6, 0.15, 0.8], [1.5, 0.6, 1.5])
    spongy = 1 + np.float32(porous) * parts.smooth_field(rng, shape, (grain, grain, grain))
    spongy = np.maximum(np.float32(TRABECULAR * density) * spongy, np.float32(SOFT))
    cortical = CORTICAL * float(rng.uniform(0.85, 1.1))
    return Bone(cortical, spongy, float(rng.uniform(0.8, 1.7)))


def _paint_bone(
    canvas: Canvas, points: Array, arch: Arch, bone: Bone, rng: np.random.Generator
) -> Array:
    """Paint one jaw; return the signed distance to its surface."""
    tree = cKDTree(np.concatenate([arch.outline(1), arch.outline(-1)]))
    flat_points = np.moveaxis(points[:2], 0, -1).reshape(-1, 2)
    # Beyond the jaw's width any distance does, and searching is what takes the time.
    away = tree.query(flat_points, distance_upper_bound=8.0)[0]
    away = away.reshape(canvas.label.shape).astype(np.float32)
    height = arch.up * (points[2] - arch.bite)
    crest = rng.uniform(5.0, 6.5)  # the crowns stand above it
    ridge = np.maximum(away - rng.uniform(4.0, 4.9), crest - height)
    if arch.up > 0:  # the palate joins both sides
        flat = points.copy()
        flat[2] = 0
        within = (arch.half_width, arch.depth, 1.0)
        palate = parts.ellipsoid(parts.place(flat, (0, arch.back, 0)), within)
        palate = np.maximum(palate, np.abs(height - 13.5) - 1.2)
        palate = np.maximum(palate, arch.back + 5 - points[1])
        ridge = np.minimum(ridge, palate)
    jaw = UPPER_JAW if arch.up > 0 else LOWER_JAW
    canvas.paint(ridge, bone.cortical, label=jaw)
    canvas.paint(ridge + bone.shell, bone.spongy, label=jaw)
    if arch.up > 0:
        for side in (-1, 1):  # sinus above the upper molars
            sinus = parts.place(points, (side * 20, -8, 19 + rng.uniform(-1, 1)))
            sinus = parts.ellipsoid(sinus, (4.5, 10, 5))
            canvas.paint(sinus - 1, CORTICAL * 0.6, label=jaw)
            canvas.paint(sinus, AIR, label=SINUS)
    return ridge


def _paint_canals(
    canvas: Canvas,
    points: Array,
    arch: Arch,
    ridge: Array,
    bone: Bone,
    rng: np.random.Generator,
) -> float:
    """Paint the canals of both nerves and what looks like them; return the canals' volume."""
    wall = float(rng.uniform(0.0, 0.7))  # of cortical bone
    content = float(rng.uniform(0, 160))
    base = rng.uniform(12.5, 15.5)
    volume = 0.0
    for side in (1, -1):
        course = Course(arch, side)
        _paint_marrow_spaces(canvas, points, course, ridge, rng)
        foramen = rng.uniform(17.5, 23.0)
        share = np.linspace(0, 1, _STEPS)
        level = base + rng.uniform(-0.7, 0.7)
        rise, sag, ramus = rng.uniform([1.0, 0, -1.0], [3.0, 1.0, 3.0])
        # It rises to the foramen in front and to the ramus behind, and sags between them.
        depth = level - rise * np.exp(-share * 6) + sag * np.sin(np.pi * share) - ramus * share**2
        inward = rng.uniform(-0.5, 1.8) - 4.5 * np.exp(-share * 14)
        line = course.curve(foramen, course.length, inward=inward, depth=depth)
        radius = float(rng.uniform(1.4, 1.8))
        canal = parts.curve_tube(points, line, radius)
        in_front = rng.uniform(4, 10)
        branch = course.curve(in_front, foramen, inward=0, depth=np.full(_STEPS, level - rise))
        branch = parts.curve_tube(points, branch, radius * 0.55)
        canvas.paint(branch, content, label=LOWER_JAW)
        rim = canvas.image + wall * (bone.cortical - canvas.image)
        canvas.paint(canal - 0.8, rim, label=LOWER_JAW)
        canvas.paint(canal, content, label=CANAL)
        volume += parts.tube_volume(line, radius)
    return volume


def _paint_marrow_spaces(
    canvas: Canvas, points: Array, course: Course, ridge: Array, rng: np.random.Generator
) -> None:
    for _ in range(int(rng.integers(0, 7))):
        start, length = rng.uniform(2, course.length - 6), rng.uniform(0.5, 5.0)
        depth = np.linspace(*(rng.uniform(10.5, 17.5) + rng.uniform(-1, 1, 2)), _STEPS)
        line = course.curve(start, start + length, inward=rng.uniform(-2, 2), depth=depth)
        space = parts.curve_tube(points, line, float(rng.uniform(0.8, 2.0)))
        space = np.maximum(space, ridge + 1.2)
        canvas.paint(space, float(rng.uniform(0, 160)), label=LOWER_JAW)
