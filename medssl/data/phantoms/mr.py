"""The MR phantom: a trunk with three labeled structures and anatomy that looks like them.

Labeled are ``arc`` (1, a bent, tapered, elongated structure), ``wall`` (2, an open thin shell
around a cavity, like a myocardium) and ``node`` (3, small, at the side). Unlabeled on purpose: the
cavity, a second, closed shell, straight vessels as bright as the arc, blobs as bright as the node
and a rim of fat, so that no threshold finds a structure. Contrast, sizes, pose and scanner differ
between cases more than four cases can show.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from medssl.data.phantoms import parts
from medssl.data.phantoms.parts import Array, Canvas, Scan

LABELS = {0: "background", 1: "arc", 2: "wall", 3: "node"}
SPACING_MM = (1.0, 1.0, 2.0)
SHAPE = (56, 56, 28)
MIN_SHAPE = (24, 24, 12)

# Intensities of two sequences; a case lies somewhere on the line between them.
_BRIGHT_BLOOD = {"body": 0.38, "fat": 0.80, "arc": 0.70, "wall": 0.62, "blood": 1.00, "node": 0.78}
_DARK_BLOOD = {"body": 0.40, "fat": 0.72, "arc": 0.64, "wall": 0.72, "blood": 0.15, "node": 0.70}


@dataclass(frozen=True)
class _Contrast:
    """Intensities of one case; ``jitter`` is drawn anew for every thing painted."""

    tissue: dict[str, float]
    jitter: float
    rng: np.random.Generator

    def __call__(self, name: str) -> float:
        return self.tissue[name] * (1 + self.jitter * float(self.rng.uniform(-1, 1)))


def make_mr(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float] = SPACING_MM,
) -> Scan:
    """Draw one MR-like scan.

    Args:
        rng: the case's own generator.
        shape: voxels; the anatomy is scaled to the smallest edge of the field of view.
        spacing_mm: size of a voxel.
    """
    grid = parts.draw_grid(rng, shape, spacing_mm)
    world = grid.points()
    pose = parts.rotation(rng.uniform(-14, 14, 3))
    size = float(rng.uniform(0.88, 1.1))
    shift = rng.uniform(-2.5, 2.5, 3)
    unit = grid.extent / 56.0
    points = parts.place(world / np.float32(unit), shift, pose) / np.float32(size)
    points = parts.warp(points, rng, amplitude=1.2)

    # Two clusters of sequences, each spread out.
    dark = rng.random() < 0.4
    mix = float(rng.uniform(0.7, 1.0) if dark else rng.uniform(0.0, 0.3))
    tissue = {k: (1 - mix) * v + mix * _DARK_BLOOD[k] for k, v in _BRIGHT_BLOOD.items()}
    contrast = _Contrast(tissue, 0.08, rng)

    canvas = Canvas(shape, background=0.03, softness=1.5 / (unit * size))
    _paint_trunk(canvas, points, contrast)
    _paint_distractors(canvas, points, contrast)
    _paint_wall(canvas, points, contrast)
    _paint_arc(canvas, points, contrast)
    _paint_node(canvas, points, contrast)
    image, scanner = _scan(canvas.image, world, rng)
    settings: dict[str, float | str | list[float]] = {
        "sequence": "dark_blood" if dark else "bright_blood",
        "sequence_mix": round(mix, 4),
        "size": round(size, 4),
        **scanner,
    }
    return Scan(image, canvas.label, grid.affine, settings)


def _paint_trunk(canvas: Canvas, points: Array, contrast: _Contrast) -> None:
    rng = contrast.rng
    radii = np.array([25.0, 22.0, 36.0]) * rng.uniform(0.92, 1.06, 3)
    skin = parts.ellipsoid(points, radii)
    texture = 1 + 0.05 * parts.smooth_field(rng, canvas.label.shape, (2.5, 2.5, 1.25))
    canvas.paint(skin, contrast("fat"))
    canvas.paint(skin + float(rng.uniform(2.0, 4.0)), contrast("body") * texture)


def _paint_distractors(canvas: Canvas, points: Array, contrast: _Contrast) -> None:
    rng = contrast.rng
    # A vessel as bright as the arc, running head to foot behind everything.
    turn = parts.rotation(rng.uniform(-15, 15, 3))
    vessel = parts.place(points, rng.normal([0, -14, 0], [2.5, 1.0, 1.0]), turn)
    canvas.paint(
        parts.straight_tube(vessel, half_length=60, radius=rng.uniform(2.2, 3.6)), contrast("arc")
    )
    # A shorter one near the front, lying across.
    turn = parts.rotation([rng.uniform(-25, 25), 90 + rng.uniform(-25, 25), 0])
    vessel = parts.place(points, rng.normal([4, 14, -12], 1.5), turn)
    canvas.paint(
        parts.straight_tube(vessel, half_length=rng.uniform(5, 9), radius=rng.uniform(1.8, 3.0)),
        contrast("arc"),
    )
    # A closed shell with the wall's intensity around something that is not blood.
    shell = parts.place(points, rng.normal([6, 7, 14], 1.5))
    radii = rng.uniform([5.5, 5.5, 6.0], [7.0, 7.0, 8.0])
    canvas.paint(parts.ellipsoid(shell, radii), contrast("wall"))
    canvas.paint(parts.ellipsoid(shell, radii - rng.uniform(2.0, 3.0)), contrast("blood"))
    # Blobs like the node, away from the side where the node lies.
    for center in ([-6.0, -8.0, 17.0], [-12.0, 6.0, -17.0], [4.0, 4.0, -20.0]):
        if rng.random() < 0.75:
            blob = parts.place(points, rng.normal(center, 1.5))
            canvas.paint(parts.ellipsoid(blob, rng.uniform(2.4, 4.6, 3)), contrast("node"))


def _paint_wall(canvas: Canvas, points: Array, contrast: _Contrast) -> None:
    rng = contrast.rng
    turn = parts.rotation(rng.uniform(-25, 25, 3))
    local = parts.place(points, rng.normal([-7, 3, -1], 1.0), turn)
    radii = rng.uniform([8.5, 8.5, 11.0], [11.0, 10.5, 14.0])
    inner = parts.ellipsoid(local, radii - rng.uniform(3.0, 4.8))
    base = local[2] - radii[2] * rng.uniform(0.3, 0.65)
    shell = np.maximum(np.maximum(parts.ellipsoid(local, radii), -inner), base)
    canvas.paint(inner, contrast("blood"))
    canvas.paint(shell, contrast("wall"), label=2)


def _paint_arc(canvas: Canvas, points: Array, contrast: _Contrast) -> None:
    rng = contrast.rng
    # Local y runs head to foot, local x to the patient's right or left: the arc opens inwards.
    turn = parts.rotation([90, 0, 0]) @ parts.rotation(rng.uniform(-22, 22, 3))
    local = parts.place(points, rng.normal([13, -5, 0], [0.8, 1.2, 1.5]), turn)
    distance = parts.arc_tube(
        local,
        bend=rng.uniform(9.0, 15.0),
        half_angle=rng.uniform(0.8, 1.25),
        radius=(rng.uniform(3.0, 4.2), rng.uniform(2.0, 2.8)),
        twist=rng.uniform(-6, 6),
    )
    canvas.paint(distance, contrast("arc"), label=1)


def _paint_node(canvas: Canvas, points: Array, contrast: _Contrast) -> None:
    rng = contrast.rng
    turn = parts.rotation(rng.uniform(-30, 30, 3))
    local = parts.place(points, rng.normal([16, 6, -1], [0.8, 1.2, 2.5]), turn)
    radii = rng.uniform([2.7, 3.0, 3.6], [3.8, 4.2, 5.8])
    canvas.paint(parts.ellipsoid(local, radii), contrast("node"), label=3)


def _scan(
    image: Array, world: Array, rng: np.random.Generator
) -> tuple[np.ndarray, dict[str, float]]:
    """Degrade intensities in [0, 1] as a scanner would; return int16 and what was drawn."""
    gain = float(rng.uniform(400, 1600))
    gamma = float(np.exp(rng.uniform(-0.3, 0.3)))
    noise = float(rng.uniform(0.02, 0.05))
    bias = float(rng.uniform(0.15, 0.45))
    blur = float(rng.uniform(0.35, 0.6))
    image = gaussian_filter(image, (blur, blur, blur / 2))
    image = np.clip(image, 0, None) ** gamma * parts.bias_field(world, rng, strength=bias)
    image = parts.rician(image, rng, sigma=noise) * np.float32(gain)
    drawn = {"gain": gain, "gamma": gamma, "noise": noise, "bias": bias, "blur_voxels": blur}
    out = np.clip(np.rint(image), 0, np.iinfo(np.int16).max).astype(np.int16)
    return out, {k: round(v, 4) for k, v in drawn.items()}
