"""The OCT phantom: a macula as a stack of B-scans, with fluid, in micrometers.

Two choices of labels of the same eyes. ``fluid``: ``IRF`` (1, cysts within the retina), ``SRF`` (2,
under the retina) and ``PED`` (3, under the pigment epithelium). ``layers``: five bands between six
boundaries from the inner limiting membrane to Bruch's membrane; as usual where boundaries are
annotated, SRF then counts to the band above the pigment epithelium and PED to the one below.
Unlabeled on purpose: vitreous, choroid, vessels and their shadows. There is speckle, the eye moves
between B-scans (recorded), and gain and contrast differ between devices.

The array is (A-scan, B-scan, depth); B-scans are thirty times farther apart than depth samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from medssl.data.phantoms import parts
from medssl.data.phantoms.parts import Array, Scan

FLUID_LABELS = {0: "background", 1: "IRF", 2: "SRF", 3: "PED"}
LAYER_LABELS = {
    0: "background",
    1: "RNFL",
    2: "GCL_IPL",
    3: "INL_OPL",
    4: "OPL_RPE",
    5: "RPE_BM",
}
SPACING_UM = (24.0, 120.0, 4.0)
SHAPE = (64, 16, 96)
MIN_SHAPE = (32, 8, 48)

THICKNESS_UM = (24.0, 58.0, 46.0, 78.0, 26.0)
"""Mean thickness of the five bands outside the fovea, scaled to the depth of the grid."""
_PIT = np.array([0.85, 0.8, 0.6, 0.0, 0.0])
"""Share of each band that is absent in the middle of the fovea."""

# Brightness on the logarithmic scale of a display, 0 to 1.
VITREOUS, CYST, SUBRETINAL, VESSEL = 0.10, 0.13, 0.11, 0.85
LAYERS = (0.72, 0.52, 0.36, 0.26, 0.80)


@dataclass(frozen=True)
class _Plane:
    """Positions of the A-scans: across and along the stack of B-scans, each ``(A, B)`` in um.

    Attributes:
        u, v: lateral position and position of the B-scan.
        deep: thickness of the grid relative to the default's, by which all heights are scaled.
        wide: the same of the smaller lateral edge.
    """

    u: Array
    v: Array
    deep: float
    wide: float


def make_oct(rng: np.random.Generator, shape: tuple[int, int, int]) -> Scan:
    """Draw one OCT-like volume.

    Args:
        rng: the case's own generator.
        shape: voxels as (A-scans, B-scans, depth); the anatomy is scaled to the field.
    """
    size = np.asarray(shape) * SPACING_UM
    lateral = [
        (np.arange(n) - (n - 1) / 2) * d for n, d in zip(shape[:2], SPACING_UM, strict=False)
    ]
    u, v = (a.astype(np.float32) for a in np.meshgrid(*lateral, indexing="ij"))
    plane = _Plane(u, v, float(size[2] / 384), float(min(size[0] / 1536, size[1] / 1920)))

    motion = rng.normal(0, 9, shape[1]) * plane.deep * rng.uniform(0.5, 1.3)
    motion = np.round(motion - motion.mean(), 2)
    boundaries, domes, analytic = _draw_boundaries(plane, rng)
    boundaries = boundaries + motion.astype(np.float32)
    # Vitreous above, choroid below: the whole sits where the operator held it.
    top, bottom = float(boundaries[0].min()), float(boundaries[-1].max())
    room = size[2] - (bottom - top)
    boundaries += np.float32(room * rng.uniform(0.2, 0.45) - top)

    depth = ((np.arange(shape[2]) + 0.5) * SPACING_UM[2]).astype(np.float32)
    passed = depth[None, None, None] >= boundaries[..., None]
    layers = passed.sum(axis=0).astype(np.uint8)
    layers[layers == len(boundaries)] = 0
    image = _tissue(passed, depth, boundaries, plane, rng)
    fluid = _paint_fluid(image, (boundaries, domes), depth, plane, rng)
    _paint_vessels(image, boundaries, depth, plane, rng)
    image, scanner = _scan(image, rng)

    laterality = str(rng.choice(["OD", "OS"]))
    upwards = rng.random() < 0.6
    bands = np.diff(boundaries, axis=0).mean(axis=(1, 2))
    settings: dict[str, float | str | list[float]] = {
        "laterality": laterality,
        "bscan_order": "inferior_to_superior" if upwards else "superior_to_inferior",
        "bscan_shift_um": [float(m) for m in motion],
        "thickness_um": [round(float(b), 3) for b in bands],
        **scanner,
    }
    return Scan(
        image.astype(np.int16, copy=False),
        fluid,
        oct_affine(shape, upwards=bool(upwards)),
        settings,
        others={"layers": layers},
        analytic=analytic,
    )


def oct_affine(shape: tuple[int, int, int], *, upwards: bool) -> NDArray[np.float64]:
    """Return the nominal ``(4, 4)`` affine of a volume in um, its center at 0.

    No patient space exists for OCT. The image's right is the patient's left for both eyes, depth
    points backwards, and B-scans run up (``upwards``) or down.
    """
    out = np.zeros((4, 4))
    out[0, 0], out[2, 1], out[1, 2] = np.array([-1, 1 if upwards else -1, -1]) * SPACING_UM
    out[3, 3] = 1
    out[:3, 3] = -out[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return out


def _draw_boundaries(
    plane: _Plane, rng: np.random.Generator
) -> tuple[Array, dict[str, Array], dict[str, float]]:
    """Draw six boundaries ``(6, A, B)`` in um, heights of SRF and PED, and volumes in um^3."""
    u, v, deep, wide = plane.u, plane.v, plane.deep, plane.wide
    fovea = rng.normal(0, 150, 2) * wide
    pit = np.exp(-((u - fovea[0]) ** 2 + (v - fovea[1]) ** 2) / (2 * (300 * wide) ** 2))
    swelling = rng.uniform(0.85, 1.15)
    bands = []
    for mean, absent in zip(THICKNESS_UM, _PIT, strict=True):
        wave = 1 + 0.08 * parts.smooth_field(rng, (*u.shape, 1), (8, 2, 0))[..., 0]
        mean = mean * deep * swelling * float(rng.uniform(0.88, 1.12))
        bands.append(np.maximum(mean * wave * (1 - absent * pit), 2.0))
    # Edema: the inner retina thickens around a place near the fovea, cysts or not.
    place = fovea + rng.normal(0, 250, 2) * wide
    edema = np.exp(-((u - place[0]) ** 2 + (v - place[1]) ** 2) / (2 * (350 * wide) ** 2))
    bands[2] = bands[2] + np.float32(rng.uniform(0, 35) * deep) * edema

    domes, analytic = {}, {}
    for name, height, band in (("SRF", (22, 62), 3), ("PED", (22, 65), 4)):
        domes[name] = np.zeros_like(u)
        if rng.random() < 0.75:
            center = rng.uniform(-0.3, 0.3, 2) * [1536, 1920] * wide
            radius = rng.uniform([200, 300], [480, 620]) * wide
            top = rng.uniform(*height) * deep
            share = ((u - center[0]) / radius[0]) ** 2 + ((v - center[1]) / radius[1]) ** 2
            domes[name] = np.maximum(top * (1 - share), 0).astype(np.float32)
            inside = all(
                abs(c) + r < abs(x).max() for c, r, x in zip(center, radius, (u, v), strict=True)
            )
            if inside:  # a paraboloid: half its cylinder
                analytic[name] = round(float(np.pi * radius[0] * radius[1] * top / 2), 1)
        bands[band] = bands[band] + domes[name]
    # Bruch's membrane is the smooth one; everything lies on it.
    tilt, bend = rng.uniform(-20, 20, 2) * deep, rng.uniform(0, 18) * deep
    membrane = tilt[0] * u / 768 / wide + tilt[1] * v / 960 / wide
    membrane = membrane - bend * (u / 768 / wide) ** 2
    heights = np.cumsum(np.stack(bands[::-1]), axis=0)[::-1]
    boundaries = np.concatenate([membrane - heights, membrane[None]])
    return boundaries.astype(np.float32), domes, analytic


def _tissue(
    passed: NDArray[np.bool_],
    depth: Array,
    boundaries: Array,
    plane: _Plane,
    rng: np.random.Generator,
) -> Array:
    """Brightness before fluid and vessels."""
    tones = [VITREOUS, *(tone + rng.uniform(-0.05, 0.05) for tone in LAYERS)]
    image = np.full(passed.shape[1:], tones[0], dtype=np.float32)
    for above, tone in zip(passed, tones[1:], strict=False):
        image[above] = tone
    below = np.maximum(depth - boundaries[-1][..., None], 0)
    choroid = 0.55 * np.exp(-below / (90 * plane.deep))
    choroid *= 1 + 0.25 * parts.smooth_field(rng, image.shape, (2, 0.5, 4))
    image[passed[-1]] = choroid[passed[-1]]
    # The epithelium is the bright top of its band; the band's rest is dark where it is thick.
    down = depth - boundaries[-2][..., None]
    lifted = passed[-2] & ~passed[-1] & (down > 24 * plane.deep)
    image[lifted] = rng.uniform(0.2, 0.42)
    # The photoreceptors' line above it, and the thin bright plexiform line under the INL.
    image[np.abs(depth - boundaries[3][..., None] + 5 * plane.deep) < 5 * plane.deep] += 0.14
    return image


def _paint_fluid(
    image: Array,
    retina: tuple[Array, dict[str, Array]],
    depth: Array,
    plane: _Plane,
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """Paint cysts and fluid under the retina; return the fluid's labels."""
    boundaries, domes = retina
    label = np.zeros(image.shape, dtype=np.uint8)
    below = boundaries[-1][..., None] - depth
    # PED: between Bruch's membrane and the epithelium above it.
    label[(below > 0) & (below <= domes["PED"][..., None])] = 3
    above = boundaries[-2][..., None] - depth
    under = (above > 0) & (above <= domes["SRF"][..., None])
    label[under] = 2
    image[under] = SUBRETINAL
    # Photoreceptors hang on the lifted retina, as a line brighter than the fluid.
    edge = above - domes["SRF"][..., None]
    image[(edge > 0) & (edge < 12 * plane.deep) & (domes["SRF"][..., None] > 4)] += 0.3
    if rng.random() < 0.75:
        focus = rng.normal(0, 200, 2) * plane.wide
        for _ in range(int(rng.integers(2, 9))):
            center = focus + rng.normal(0, 220, 2) * plane.wide
            radii = rng.uniform([70, 130, 9], [190, 290, 28]) * [plane.wide, plane.wide, plane.deep]
            near = np.hypot(plane.u - center[0], plane.v - center[1])
            at = np.unravel_index(int(near.argmin()), near.shape)
            # Mostly in the inner nuclear layer, some in the outer one.
            band = 2 if rng.random() < 0.65 else 3
            low, high = boundaries[band][at], boundaries[band + 1][at]
            middle = low + (high - low) * rng.uniform(0.3, 0.7)
            # Motion moves cysts with the retina: measured from the boundary, not from the grid.
            sunk = depth - boundaries[band][..., None] - (middle - low)
            spread = ((plane.u - center[0]) / radii[0]) ** 2 + (
                (plane.v - center[1]) / radii[1]
            ) ** 2
            cyst = (spread[..., None] + (sunk / radii[2]) ** 2) < 1
            cyst &= (depth > boundaries[1][..., None] + 4) & (above > domes["SRF"][..., None] + 14)
            image[cyst] = CYST
            label[cyst] = 1
    return label


def _paint_vessels(
    image: Array, boundaries: Array, depth: Array, plane: _Plane, rng: np.random.Generator
) -> None:
    for _ in range(int(rng.integers(2, 6))):
        course = plane.u - np.float32(rng.uniform(-700, 700) * plane.wide)
        course = np.abs(course - np.float32(rng.uniform(-0.4, 0.4)) * plane.v)
        width = rng.uniform(18, 40)
        dark = (course < width).astype(np.float32) * np.float32(rng.uniform(0.3, 0.65))
        below = np.clip((depth - boundaries[1][..., None]) / 20, 0, 1)
        image *= 1 - dark[..., None] * below
        wall = np.abs(depth - boundaries[1][..., None] + 4) < 14
        image[wall & (course < width)[..., None]] = VESSEL


def _scan(image: Array, rng: np.random.Generator) -> tuple[np.ndarray, dict[str, float]]:
    """Add speckle and the device's gain; return int16 values of 0 to 255 and what was drawn."""
    speckle = float(rng.uniform(0.05, 0.10))
    gain = float(rng.uniform(0.7, 1.15))
    black = float(rng.uniform(0.0, 0.14))
    gamma = float(np.exp(rng.uniform(-0.3, 0.3)))
    fading = float(rng.uniform(0.0, 0.35))
    image = gaussian_filter(image, (0.5, 0, 0.6))
    # Brightness is a logarithm, so that multiplicative speckle is added; its logarithm is skewed.
    looks = 3.0
    grain = np.log(rng.gamma(looks, 1 / looks, image.shape).astype(np.float32))
    grain = gaussian_filter(grain, (0.45, 0, 0.6))
    image = image + speckle * grain / max(float(grain.std()), 1e-6)
    image = image * (1 - fading * np.linspace(0, 1, image.shape[2], dtype=np.float32))
    image = black + gain * np.clip(image, 0, None) ** gamma
    out = np.clip(np.rint(255 * image), 0, 255).astype(np.int16)
    drawn = {"speckle": speckle, "gain": gain, "black": black, "gamma": gamma, "fading": fading}
    return out, {k: round(v, 4) for k, v in drawn.items()}
