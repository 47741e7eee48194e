"""The CT phantom: a small abdomen in Hounsfield units, before or after contrast.

Labeled are ``liver`` (1, large, at the patient's right), ``spleen`` (2), ``kidney`` (3, both) and
``pancreas`` (4, small, bent, between bowel loops as bright as itself); or the pancreas alone; or
the liver with its tumors, which some patients do not have. Unlabeled on purpose: air, fat, muscle,
ribs and spine, lung base, stomach, bowel with gas or contrast, gall bladder, aorta, vena cava and
the patient table. A case is native, arterial or portal venous, so that one organ has three
brightnesses and four cases do not show all. Lengths are those of a doll 11 cm wide.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from medssl.data.phantoms import parts
from medssl.data.phantoms.parts import Array, Canvas, Scan

LABELS = {0: "background", 1: "liver", 2: "spleen", 3: "kidney", 4: "pancreas"}
LIVER_LABELS = {0: "background", 1: "liver", 2: "tumor"}
PANCREAS_LABELS = {0: "background", 1: "pancreas"}
_TUMOR = 5
"""Label value while painting; tumors belong to the liver where organs are labeled."""

SPACING_MM = (2.0, 2.0, 3.0)
SHAPE = (64, 64, 32)
MIN_SHAPE = (32, 32, 16)

AIR, LUNG, FAT, GAS = -1000.0, -850.0, -100.0, -900.0
"""Hounsfield units of what contrast does not change."""

PHASES = {
    "native": {"liver": 58, "spleen": 48, "kidney": 32, "medulla": 30, "pancreas": 40}
    | {"aorta": 42, "cava": 40, "vessel": 42},
    "arterial": {"liver": 70, "spleen": 125, "kidney": 175, "medulla": 75, "pancreas": 105}
    | {"aorta": 300, "cava": 80, "vessel": 75},
    "portal": {"liver": 112, "spleen": 122, "kidney": 165, "medulla": 150, "pancreas": 92}
    | {"aorta": 150, "cava": 135, "vessel": 165},
}
"""Hounsfield units of enhancing tissue by contrast phase (typical values of textbooks)."""


def make_ct(rng: np.random.Generator, shape: tuple[int, int, int]) -> Scan:
    """Draw one CT-like scan; the anatomy is scaled to the smallest edge of the field of view."""
    # Scanners store axial slices: never oblique, mostly LPS.
    grid = parts.draw_grid(rng, shape, SPACING_MM, flipped=0.6, oblique=0.0)
    world = grid.points()
    unit = grid.extent / 96.0
    size = float(rng.uniform(0.95, 1.12))
    pose = parts.rotation(rng.uniform(-6, 6, 3))
    lying = world / np.float32(unit)
    points = parts.place(lying, rng.uniform(-3, 3, 3) * [1, 1, 2], pose) / np.float32(size)
    bent = parts.warp(points, rng, amplitude=1.6)

    phase = str(rng.choice(list(PHASES), p=[0.3, 0.3, 0.4]))
    uptake = float(rng.uniform(0.7, 1.1))
    native = PHASES["native"]
    tissue = {k: native[k] + uptake * (v - native[k]) for k, v in PHASES[phase].items()}
    tissue |= {"muscle": 55.0}
    tissue = {k: v * rng.uniform(0.95, 1.05) + rng.uniform(-6, 6) for k, v in tissue.items()}

    canvas = Canvas(shape, background=AIR, softness=2.0 / (unit * size))
    _paint_table(canvas, lying, rng)
    cavity = _paint_trunk(canvas, bent, tissue, rng)
    _paint_bowel(canvas, bent, cavity, rng)
    _paint_vessels(canvas, bent, tissue)
    _paint_liver(canvas, bent, cavity, tissue, rng)
    _paint_stomach(canvas, bent, cavity, rng)
    _paint_pancreas(canvas, bent, tissue, rng)
    _paint_lungs(canvas, bent, cavity, rng)
    volumes = _paint_spleen_and_kidneys(canvas, points, tissue, rng)
    scale = (unit * size) ** 3
    image, scanner = _scan(canvas.image, rng)
    settings: dict[str, float | str | list[float]] = {
        "phase": phase,
        "uptake": round(uptake, 4),
        "size": round(size, 4),
        **scanner,
    }
    analytic = {name: round(volume * scale, 2) for name, volume in volumes.items()}
    organs = np.where(canvas.label == _TUMOR, 1, canvas.label).astype(np.uint8)
    tumor = (canvas.label == _TUMOR).astype(np.uint8)
    others = {"liver": (organs == 1) + tumor, "pancreas": (organs == 4).astype(np.uint8)}
    return Scan(image, organs, grid.affine, settings, others=others, analytic=analytic)


def _column(points: Array, center: tuple[float, float], radii: tuple[float, float]) -> Array:
    """Signed distance to an upright elliptic cylinder."""
    flat = points.copy()
    flat[2] = 0
    return parts.ellipsoid(parts.place(flat, (*center, 0)), (*radii, 1.0))


def _paint_table(canvas: Canvas, lying: Array, rng: np.random.Generator) -> None:
    # A shallow trough of carbon fiber around foam, fixed to the scanner and not to the patient.
    top = np.float32(-46 + rng.uniform(-1, 1)) + lying[0] ** 2 / 700
    slab = np.maximum(np.abs(lying[1] - top + 3) - 3, np.abs(lying[0]) - 46)
    canvas.paint(slab, float(rng.uniform(-350, -250)))
    canvas.paint(np.maximum(slab + 1.5, np.abs(lying[0]) - 44), -920.0)


def _paint_trunk(
    canvas: Canvas, points: Array, tissue: dict[str, float], rng: np.random.Generator
) -> Array:
    """Paint skin to spine; return the signed distance to the abdominal cavity."""
    girth = rng.uniform(0.93, 1.05, 2)
    skin = _column(points, (0, 0), (54 * girth[0], 40 * girth[1]))
    texture = 4 * parts.smooth_field(rng, canvas.label.shape, (1.5, 1.5, 1.0))
    canvas.paint(skin, FAT + texture)
    fat, muscle = rng.uniform(2.5, 6.5), rng.uniform(3.5, 5.5)
    canvas.paint(skin + fat, tissue["muscle"] + texture)
    cavity = skin + fat + muscle
    # Ribs: oblique bands inside the muscle of the upper half.
    wall = np.abs(cavity - muscle / 2) - 1.6
    band = np.sin((points[2] + 0.35 * np.abs(points[1])) * np.float32(2 * np.pi / 17) + 1.0)
    upper = -8 - points[2] + 0.3 * np.abs(points[0])
    canvas.paint(np.maximum(np.maximum(wall, 5 * (0.55 - band)), upper), 700.0)
    canvas.paint(cavity, FAT + 8 * parts.smooth_field(rng, canvas.label.shape, (1, 1, 0.7)))
    for side in (-1, 1):  # psoas and back muscles
        canvas.paint(_column(points, (side * 12, -21), (7.5, 7)), tissue["muscle"])
        canvas.paint(_column(points, (side * 11, -33), (10, 5)), tissue["muscle"])
    canvas.paint(_column(points, (0, -21), (9, 7.5)), 800.0)
    canvas.paint(_column(points, (0, -21), (7.5, 6)), float(rng.uniform(150, 230)))
    canvas.paint(_column(points, (0, -31), (5.5, 4.5)), 800.0)
    canvas.paint(_column(points, (0, -31), (3.5, 2.7)), 25.0)
    canvas.paint(np.maximum(_column(points, (0, -37), (2, 5)), points[2] % 14 - 9), 650.0)
    return cavity


def _paint_bowel(canvas: Canvas, points: Array, cavity: Array, rng: np.random.Generator) -> None:
    for _ in range(int(rng.integers(9, 14))):
        center = rng.uniform([-36, 0, -44], [36, 26, 4])
        turn = parts.rotation(rng.uniform(-90, 90, 3))
        loop = parts.arc_tube(
            parts.place(points, center, turn),
            bend=rng.uniform(7, 13),
            half_angle=rng.uniform(0.6, 1.5),
            radius=tuple(rng.uniform(2.5, 5.0, 2)),
            twist=rng.uniform(-6, 6),
        )
        loop = np.maximum(loop, cavity + 1)
        canvas.paint(loop, float(rng.uniform(30, 110)))
        # Gas, fluid or swallowed contrast inside the wall.
        filling = rng.choice([GAS, 15.0, 45.0, 260.0], p=[0.2, 0.3, 0.35, 0.15])
        canvas.paint(loop + 1.4, float(filling))


def _paint_vessels(canvas: Canvas, points: Array, tissue: dict[str, float]) -> None:
    canvas.paint(_column(points, (-4, -10.5), (3.8, 3.8)), tissue["aorta"])
    canvas.paint(_column(points, (6.5, -10), (4.6, 3.8)), tissue["cava"])


def _paint_liver(
    canvas: Canvas,
    points: Array,
    cavity: Array,
    tissue: dict[str, float],
    rng: np.random.Generator,
) -> None:
    shift = rng.normal(0, 1.5, 3)
    right = parts.ellipsoid(
        parts.place(points, np.array([26, 1, 8]) + shift), rng.uniform([19, 21, 22], [25, 27, 31])
    )
    left = parts.ellipsoid(
        parts.place(points, np.array([4, 17, 13]) + shift), rng.uniform([17, 8, 9], [26, 12, 13])
    )
    liver = np.maximum(np.minimum(right, left), cavity + 0.5)
    # The cava runs in a groove behind it, the spine and the kidney press it from below.
    liver = np.maximum(liver, 1.0 - _column(points, (6.5, -10), (4.6, 3.8)))
    liver = np.maximum(liver, 2.0 - _column(points, (0, -21), (13, 9)))
    texture = 5 * parts.smooth_field(rng, canvas.label.shape, (1.2, 1.2, 0.8))
    canvas.paint(liver, tissue["liver"] + texture, label=1)
    for _ in range(int(rng.integers(3, 6))):  # portal and hepatic veins
        turn = parts.rotation(rng.uniform([-60, -60, 0], [60, 60, 90]))
        vein = parts.straight_tube(
            parts.place(points, rng.normal([20, 2, 10], 6), turn),
            half_length=rng.uniform(6, 14),
            radius=rng.uniform(0.9, 1.7),
        )
        canvas.paint(np.maximum(vein, liver + 1), tissue["vessel"], label=1)
    for _ in range(int(rng.integers(0, 4))):
        lesion = parts.ellipsoid(
            parts.place(points, rng.normal([26, 2, 8], 9)), rng.uniform(2.5, 6.5, 3)
        )
        lesion = np.maximum(lesion, liver + 1.5)
        canvas.paint(lesion, tissue["liver"] - float(rng.uniform(25, 70)), label=_TUMOR)
    bladder = parts.ellipsoid(
        parts.place(points, rng.normal([16, 16, -11], 2)), rng.uniform([4, 4, 6], [6, 7, 9])
    )
    if rng.random() < 0.8:
        canvas.paint(np.maximum(bladder, cavity + 1), float(rng.uniform(2, 18)))


def _paint_stomach(canvas: Canvas, points: Array, cavity: Array, rng: np.random.Generator) -> None:
    turn = parts.rotation([0, rng.uniform(15, 45), rng.uniform(-25, 5)])
    local = parts.place(points, rng.normal([-18, 14, 9], 2), turn)
    outer = parts.ellipsoid(local, rng.uniform([10, 8, 15], [15, 12, 20]))
    outer = np.maximum(outer, cavity + 1)
    canvas.paint(outer, float(rng.uniform(55, 90)))
    lumen = outer + 2.0
    canvas.paint(lumen, float(rng.choice([15.0, 40.0, 220.0], p=[0.45, 0.4, 0.15])))
    level = rng.uniform(16, 22)  # gas rises to the front of a patient on the back
    canvas.paint(np.maximum(lumen, level - points[1]), GAS)


def _paint_pancreas(
    canvas: Canvas, points: Array, tissue: dict[str, float], rng: np.random.Generator
) -> None:
    # In the axial plane, its hollow towards the spine, the tail rising to the spleen.
    turn = parts.rotation([rng.uniform(-14, 14), rng.uniform(8, 28), 90 + rng.uniform(-14, 14)])
    local = parts.place(points, rng.normal([-3, 4, -4], [2, 1.5, 3]), turn)
    bend = rng.uniform(15, 24)
    gland = parts.arc_tube(
        local,
        bend=bend,
        half_angle=rng.uniform(16, 21) / bend,
        radius=(rng.uniform(5.0, 6.8), rng.uniform(3.0, 4.4)),
        twist=rng.uniform(-8, 8),
    )
    lobules = parts.smooth_field(rng, canvas.label.shape, (1.2, 1.2, 0.8))
    gland = gland + 0.5 * lobules  # an uneven outline
    vein = parts.arc_tube(
        parts.place(local, (-4.5, 0, 2)),
        bend=bend,
        half_angle=0.8,
        radius=(1.6, 1.2),
        twist=0.0,
    )
    canvas.paint(vein, tissue["vessel"])
    canvas.paint(gland, tissue["pancreas"] + 9 * lobules, label=4)


def _paint_lungs(canvas: Canvas, points: Array, cavity: Array, rng: np.random.Generator) -> None:
    height = rng.uniform(36, 46)
    for side in (-1, 1):
        dome = parts.place(points, (side * 26, -2, 0))
        surface = height - side * 2 - (dome[0] ** 2 + dome[1] ** 2) / 80
        lung = np.maximum(np.maximum(surface - points[2], cavity - 1), 3 - side * points[0])
        lung = np.maximum(lung, 2.5 - _column(points, (0, -23), (11, 11)))  # the spine stays
        canvas.paint(lung, LUNG)


def _paint_spleen_and_kidneys(
    canvas: Canvas, points: Array, tissue: dict[str, float], rng: np.random.Generator
) -> dict[str, float]:
    """Paint exact ellipsoids; return their volumes in cubic units of ``points``."""
    ball = 4 / 3 * np.pi
    volumes = {"kidney": 0.0}
    radii = rng.uniform([6, 9, 12], [9, 13, 17])
    turn = parts.rotation([rng.uniform(-25, 5), rng.uniform(-15, 15), rng.uniform(-25, 5)])
    local = parts.place(points, rng.normal([-34, -6, 9], [0.8, 2, 2]), turn)
    mottle = 18 * parts.smooth_field(rng, canvas.label.shape, (1.6, 1.6, 1.0))
    # Only early contrast leaves the spleen mottled.
    uneven = mottle if tissue["aorta"] > 200 else mottle / 4
    canvas.paint(parts.ellipsoid(local, radii), tissue["spleen"] + uneven, label=2)
    volumes["spleen"] = float(ball * np.prod(radii))
    for side in (-1, 1):
        radii = rng.uniform([6, 5.5, 11], [8.5, 7.5, 15])
        center = rng.normal([side * 24, -15, -12 - side * 2], [1.2, 1.0, 3])
        turn = parts.rotation([rng.uniform(-8, 8), side * rng.uniform(5, 18), rng.uniform(-20, 20)])
        local = parts.place(points, center, turn)
        canvas.paint(parts.ellipsoid(local, radii), tissue["kidney"], label=3)
        canvas.paint(parts.ellipsoid(local, radii - 2.4), tissue["medulla"], label=3)
        # Fat of the renal sinus, towards the spine; the organ's outline is closed over it.
        sinus = parts.ellipsoid(parts.place(local, (-side * 2.0, 0, 0)), radii / [2.8, 3.2, 2.6])
        canvas.paint(sinus, float(rng.uniform(-60, 10)), label=3)
        volumes["kidney"] += float(ball * np.prod(radii))
    return volumes


def _scan(image: Array, rng: np.random.Generator) -> tuple[np.ndarray, dict[str, float]]:
    """Blur, add noise of the reconstruction; return int16 Hounsfield units and what was drawn."""
    noise = float(rng.uniform(10, 28))
    blur = float(rng.uniform(0.4, 0.75))
    image = gaussian_filter(image, (blur, blur, 0.4))
    grain = parts.smooth_field(rng, image.shape, (0.6, 0.6, 0.3))
    out = np.clip(np.rint(image + noise * grain), -1024, 3071).astype(np.int16)
    return out, {"noise_hu": round(noise, 4), "blur_voxels": round(blur, 4)}
