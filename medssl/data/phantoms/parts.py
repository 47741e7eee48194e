"""What phantoms of every kind are made of: grids, soft shapes, and the scanner's imperfections.

A shape is a signed distance (negative inside) sampled at points given in millimetres (or
micrometres) in the patient's RAS frame, shape ``(3, X, Y, Z)``. Everything random comes from the
generator that is passed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

Array = NDArray[np.float32]
Floats = NDArray[np.floating]
Triple = Sequence[float] | NDArray[np.float64]
"""Three numbers, one per axis."""


@dataclass(frozen=True)
class Scan:
    """One synthetic scan.

    Attributes:
        image: ``(X, Y, Z)`` int16.
        label: ``(X, Y, Z)`` uint8 label values, 0 where nothing is labeled.
        affine: ``(4, 4)`` voxel index to RAS coordinates.
        settings: the drawn parameters worth knowing, for the record.
        others: the same anatomy labeled otherwise, by the name of the choice of labels.
        analytic: volumes in cubic length units of structures that have a closed formula.
    """

    image: NDArray[np.int16]
    label: NDArray[np.uint8]
    affine: NDArray[np.float64]
    settings: dict[str, float | str | list[float]]
    others: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    analytic: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class VoxelGrid:
    """A voxel grid in the patient: ``shape`` voxels of ``spacing``, turned by ``direction``.

    ``origin`` is the RAS position of voxel ``(0, 0, 0)``; columns of ``direction`` are the unit
    vectors of the three voxel axes.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    direction: NDArray[np.float64]
    origin: NDArray[np.float64]

    @property
    def affine(self) -> NDArray[np.float64]:
        """The ``(4, 4)`` matrix from voxel index to RAS position."""
        out = np.eye(4)
        out[:3, :3] = self.direction * np.asarray(self.spacing)
        out[:3, 3] = self.origin
        return out

    @property
    def extent(self) -> float:
        """The smallest edge of the field of view."""
        return min(n * d for n, d in zip(self.shape, self.spacing, strict=True))

    def points(self) -> Array:
        """RAS position of every voxel relative to the center of the grid, ``(3, X, Y, Z)``."""
        axes = [
            (np.arange(n) - (n - 1) / 2) * d for n, d in zip(self.shape, self.spacing, strict=True)
        ]
        local = np.stack(np.meshgrid(*axes, indexing="ij"))
        return np.einsum("ij,j...->i...", self.direction, local).astype(np.float32)


def rotation(degrees: Triple) -> NDArray[np.float64]:
    """Rotation matrix of angles about the x, y and z axes, applied in that order."""
    out = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        i, j = [a for a in range(3) if a != axis]
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        out = turn @ out
    return out


def draw_grid(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    *,
    flipped: float = 0.3,
    oblique: float = 0.3,
    tilt: float = 15.0,
    shift: float = 100.0,
) -> VoxelGrid:
    """Draw an off-origin grid, sometimes stored LPS instead of RAS, sometimes oblique.

    Args:
        rng: source of the draw.
        shape: voxels.
        spacing: size of a voxel.
        flipped: probability of LPS storage.
        oblique: probability of a tilted grid.
        tilt: largest tilt about each axis in degrees.
        shift: largest distance of the first voxel from the origin, per axis.
    """
    direction = np.diag([-1.0, -1.0, 1.0]) if rng.random() < flipped else np.eye(3)
    if rng.random() < oblique:
        # At least a fifth of the tilt: a grid that is oblique by a hair would test nothing.
        angles = rng.uniform(0.2, 1.0, 3) * tilt * rng.choice([-1.0, 1.0], 3)
        direction = rotation(angles) @ direction
    origin = rng.uniform(0.1, 1.0, 3) * shift * rng.choice([-1.0, 1.0], 3)
    # What a NIfTI header keeps: float32. The file and this grid then agree exactly.
    return VoxelGrid(shape, spacing, direction, np.round(origin, 2))


def place(points: Array, center: Triple, turn: NDArray[np.float64] | None = None) -> Array:
    """Express points in the frame of a shape at ``center`` whose axes are columns of ``turn``."""
    local = points - np.asarray(center, dtype=np.float32).reshape(3, 1, 1, 1)
    if turn is None:
        return local
    return np.einsum("ji,j...->i...", turn.astype(np.float32), local)


def warp(points: Array, rng: np.random.Generator, *, amplitude: float, waves: int = 3) -> Array:
    """Bend space by a few plane waves of 30 to 70 length units, each moving up to ``amplitude``."""
    moved = points.copy()
    for _ in range(waves):
        heading = rng.normal(size=3)
        heading *= 2 * np.pi / rng.uniform(30.0, 70.0) / np.linalg.norm(heading)
        push = rng.uniform(-1.0, 1.0, 3).astype(np.float32) * np.float32(amplitude)
        phase = np.tensordot(heading.astype(np.float32), points, axes=1)
        moved += push.reshape(3, 1, 1, 1) * np.sin(phase + np.float32(rng.uniform(0, 2 * np.pi)))
    return moved


def ellipsoid(local: Array, radii: Triple) -> Array:
    """Approximate signed distance to an axis-aligned ellipsoid (exact for a sphere)."""
    radius = np.asarray(radii, dtype=np.float32).reshape(3, 1, 1, 1)
    scaled = np.sqrt(np.sum((local / radius) ** 2, axis=0))
    slope = np.sqrt(np.sum((local / radius**2) ** 2, axis=0))
    # First order: value of the implicit function over the length of its gradient.
    return scaled * (scaled - 1) / np.maximum(slope, np.float32(1e-6))


def arc_tube(
    local: Array, *, bend: float, half_angle: float, radius: tuple[float, float], twist: float
) -> Array:
    """Signed distance to a tapered tube along an arc in the local xy plane.

    Args:
        local: points ``(3, X, Y, Z)``; the middle of the arc lies at the local origin.
        bend: radius of curvature of the arc.
        half_angle: half the arc's angle in radians, below pi.
        radius: tube radius at the two ends.
        twist: how far the arc leaves its plane from end to end.
    """
    angle = np.arctan2(local[1], local[0] + np.float32(bend))
    angle = np.clip(angle, -half_angle, half_angle)
    along = (angle / half_angle + 1) / 2
    distance = np.sqrt(
        (local[0] + bend - bend * np.cos(angle)) ** 2
        + (local[1] - bend * np.sin(angle)) ** 2
        + (local[2] - twist * (along - np.float32(0.5))) ** 2
    )
    return distance - (radius[0] + (radius[1] - radius[0]) * along)


def straight_tube(local: Array, *, half_length: float, radius: float) -> Array:
    """Signed distance to a capsule along the local z axis."""
    beyond = np.maximum(np.abs(local[2]) - half_length, 0)
    return np.sqrt(local[0] ** 2 + local[1] ** 2 + beyond**2) - radius


def curve_tube(points: Array, curve: Array, radius: float) -> Array:
    """Signed distance to a tube with round ends along a curve.

    Args:
        points: ``(3, X, Y, Z)``.
        curve: ``(N, 3)`` points on the axis, much denser than the radius.
        radius: of the tube. Farther than three length units from its box, the distance is 3.
    """
    reach = radius + 3
    low, high = (edge.reshape(3, 1, 1, 1) for edge in (curve.min(axis=0), curve.max(axis=0)))
    near = np.all((points >= low - reach) & (points <= high + reach), axis=0)
    out = np.full(points.shape[1:], 3.0, dtype=np.float32)
    out[near] = cKDTree(curve).query(points[:, near].T)[0] - radius
    return out


def tube_volume(curve: Array, radius: float) -> float:
    """Volume of such a tube, exact where the curve bends less sharply than its radius."""
    length = float(np.linalg.norm(np.diff(curve, axis=0), axis=1).sum())
    return float(np.pi * radius**2 * (length + 4 / 3 * radius))


class Canvas:
    """An image and its label, painted shape after shape; the last one painted is on top.

    Args:
        shape: voxels.
        background: intensity before anything is painted.
        softness: width of the border, in length units, over which two tissues mix.
    """

    def __init__(self, shape: tuple[int, int, int], *, background: float, softness: float) -> None:
        self.image: Array = np.full(shape, background, dtype=np.float32)
        self.label: NDArray[np.uint8] = np.zeros(shape, dtype=np.uint8)
        self.softness = softness

    def paint(self, distance: Array, intensity: float | Floats, label: int = 0) -> None:
        """Paint where ``distance`` is negative; borders mix as a partial volume would."""
        share = np.clip(0.5 - distance / self.softness, 0, 1)
        self.image += share * (intensity - self.image)
        self.label[distance < 0] = label

    def window(self, box: tuple[slice, ...]) -> Canvas:
        """Return a part of this canvas; what is painted there is painted here."""
        part = object.__new__(Canvas)
        part.image, part.label, part.softness = self.image[box], self.label[box], self.softness
        return part


def smooth_field(rng: np.random.Generator, shape: tuple[int, ...], sigma: Sequence[float]) -> Array:
    """Draw a smooth random field of mean 0 and standard deviation 1; ``sigma`` in voxels."""
    field = gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma, mode="wrap")
    return (field - field.mean()) / max(float(field.std()), 1e-6)


def bias_field(points: Array, rng: np.random.Generator, *, strength: float) -> Array:
    """Draw a positive, smooth gain: exp of a quadratic polynomial within ``+-strength``."""
    u = points / np.maximum(np.abs(points).max(axis=(1, 2, 3), keepdims=True), 1e-6)
    terms = [u[0], u[1], u[2], u[0] * u[1], u[1] * u[2], u[0] * u[2], u[0] ** 2, u[1] ** 2]
    exponent = sum(float(w) * t for w, t in zip(rng.uniform(-1, 1, len(terms)), terms, strict=True))
    exponent = exponent - exponent.mean()
    return np.exp(exponent * (strength / max(float(np.abs(exponent).max()), 1e-6)))


def rician(image: Array, rng: np.random.Generator, *, sigma: float) -> Array:
    """Add Rician noise: the magnitude of a signal with complex Gaussian noise of ``sigma``."""
    noise = rng.standard_normal((2, *image.shape), dtype=np.float32) * np.float32(sigma)
    return np.hypot(image + noise[0], noise[1])
