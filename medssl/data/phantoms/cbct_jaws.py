"""The jaws of the CBCT phantom: bone, nose, sinuses, and the canals of the nerves in the lower jaw.

A maxillary sinus is filled with air or, as in many people, in part or wholly with swollen mucosa,
a cyst or fluid; all of it counts as sinus. The nose beside it is air as well. The field cuts both.

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

from medssl.data.phantoms import parts
from medssl.data.phantoms.parts import Array, Canvas

LOWER_JAW, UPPER_JAW, CANAL, SINUS = 1, 2, 3, 4
"""Label values while jaws are painted."""

FILLINGS = ("clear", "thickened", "cyst", "opaque")
"""What a maxillary sinus may hold: air; air within swollen mucosa or around a cyst; none at all."""

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

    def curve(
        self,
        start: float,
        stop: float,
        *,
        inward: NDArray[np.floating] | float,
        depth: NDArray[np.floating],
    ) -> Array:
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
) -> tuple[float, dict[str, str]]:
    """Paint both jaws with label values :data:`LOWER_JAW` to :data:`SINUS`.

    Returns:
        The volume of both canals, and what was drawn.
    """
    upper, lower = arches
    bone = _draw_bone(canvas.label.shape, rng)
    _paint_bone(canvas, points, upper, bone, rng)
    _paint_nose(canvas, points, rng)
    sinuses = {
        f"{name}_sinus": _paint_sinus(canvas, points, side, rng)
        for name, side in (("right", 1), ("left", -1))
    }
    ridge = _paint_bone(canvas, points, lower, bone, rng)
    return _paint_canals(canvas, points, lower, ridge, bone, rng), sinuses


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
    return ridge


def _paint_nose(canvas: Canvas, points: Array, rng: np.random.Generator) -> None:
    """Paint the floor of the nose above the palate: air, like a sinus, between mucosa."""
    inside = parts.place(points, (0, rng.uniform(-2, 4), 22 + rng.uniform(-1, 1)))
    nose = parts.ellipsoid(inside, rng.uniform([7, 14, 6], [10, 19, 7.5]))
    canvas.paint(nose - 1, CORTICAL * 0.6, label=UPPER_JAW)
    canvas.paint(nose, SOFT)
    bend = rng.uniform(-1.5, 1.5)
    septum = np.abs(inside[0] - bend * np.cos(inside[1] / 8))
    canvas.paint(np.maximum(nose + rng.uniform(0.5, 1.5), rng.uniform(0.8, 1.6) - septum), AIR)
    for side in (-1, 1):  # lower turbinate
        turbinate = parts.place(inside, (side * rng.uniform(3, 6), rng.uniform(-3, 3), -2))
        turbinate = parts.ellipsoid(turbinate, rng.uniform([1.2, 6, 1.2], [2.6, 11, 2.4]))
        canvas.paint(np.maximum(turbinate, nose), SOFT + float(rng.uniform(-40, 80)))


def _paint_sinus(canvas: Canvas, points: Array, side: int, rng: np.random.Generator) -> str:
    """Paint the sinus above the upper molars of one side; return what fills it."""
    center = (side * rng.uniform(19, 21.5), rng.uniform(-11, -5), rng.uniform(18.5, 21.5))
    turn = parts.rotation([0, side * rng.uniform(-12, 12), side * rng.uniform(5, 25)])
    local = parts.place(points, center, turn)
    radii = rng.uniform([4.5, 8.0, 5.5], [6.5, 12.0, 8.5])
    sinus = parts.ellipsoid(local, radii)
    canvas.paint(sinus - rng.uniform(0.5, 1.1), CORTICAL * 0.6, label=UPPER_JAW)
    state = str(rng.choice(FILLINGS, p=[0.4, 0.3, 0.15, 0.15]))
    mucosa = float(rng.uniform(0, 140))
    canvas.paint(sinus, mucosa, label=SINUS)
    if state == "clear":
        canvas.paint(sinus, AIR, label=SINUS)
    elif state == "thickened":  # more on the floor, where fluid also collects
        lining = rng.uniform(0.7, 2.5) + rng.uniform(0, 2.5) * (local[2] < -0.2 * radii[2])
        canvas.paint(sinus + lining, AIR, label=SINUS)
    elif state == "cyst":
        dome = parts.place(local, (rng.uniform(-2, 2), rng.uniform(-5, 5), -radii[2]))
        dome = parts.ellipsoid(dome, rng.uniform([3, 3, 4], [5, 6, 8]))
        canvas.paint(np.maximum(sinus, -dome), AIR, label=SINUS)
    return state


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
        begin, end = rng.uniform(10.5, 17.5) + rng.uniform(-1, 1, 2)
        depth = np.linspace(begin, end, _STEPS)
        line = course.curve(start, start + length, inward=rng.uniform(-2, 2), depth=depth)
        space = parts.curve_tube(points, line, float(rng.uniform(0.8, 2.0)))
        space = np.maximum(space, ridge + 1.2)
        canvas.paint(space, float(rng.uniform(0, 160)), label=LOWER_JAW)
