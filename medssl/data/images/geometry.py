"""Where voxels lie: units, the change between ITK's world and ours, and the comparison of grids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medssl.errors import MedSSLError

Grid = tuple[Sequence[int], np.ndarray]
"""``(X, Y, Z)`` of a volume, and its affine."""

Unit = Literal["mm", "um"]
"""The unit of a dataset: millimeters or micrometers."""

MM_PER_UNIT: dict[str, float] = {"mm": 1.0, "um": 1e-3}

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From ITK's and DICOM's world (to the patient's left, back and head) to ours (RAS), or back."""

GRID_WARNING_VOXELS = 0.05
GRID_ERROR_VOXELS = 0.5
"""How far, in voxels, two grids that should be one may lie apart anywhere in the volume.

In voxels and not in mm, so that it means the same for micrometers. Headers rounded to single
precision stay below the first; above the second, a voxel of one lies on another voxel of the other.
"""

SHEAR = 1e-4
"""Largest deviation from right angles of axes that ITK takes for perpendicular."""

LARGEST_MM, COARSEST_MM = 10_000.0, 100.0
SMALLEST_MM = 1.0
FINE_MM = 0.01
"""No scan is larger than the first, or of voxels larger than the second; none is smaller than the
third with all voxels below the last, but those of microscopes."""

FINEST_OCT_MM = 0.1
"""No OCT has axial voxels as large as this: such a number is in micrometers, whatever the header
says (its unit is often wrong in OCT files)."""


@dataclass(frozen=True)
class ItkGeometry:
    """A grid in ITK's terms: LPS, mm, one entry per axis, the direction row by row."""

    origin: tuple[float, ...]
    spacing: tuple[float, ...]
    direction: tuple[float, ...]

    @classmethod
    def of(cls, affine: np.ndarray) -> ItkGeometry:
        """Return the terms of an affine to RAS in mm."""
        lps = LPS @ affine
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        direction = lps[:3, :3] / spacing
        return cls(
            tuple(lps[:3, 3].tolist()), tuple(spacing.tolist()), tuple(direction.ravel().tolist())
        )

    def spatial(self) -> ItkGeometry:
        """Return the first three axes: further ones hold channels."""
        axes = len(self.origin)
        direction = np.reshape(self.direction, (axes, axes))[:3, :3]
        return ItkGeometry(
            tuple(self.origin[:3]), tuple(self.spacing[:3]), tuple(direction.ravel().tolist())
        )

    def affine(self) -> np.ndarray:
        """Return the affine ``(4, 4)`` of the first three axes to RAS in mm."""
        own = self.spatial()
        axes = len(own.origin)
        affine = np.eye(4)
        affine[:axes, :axes] = np.reshape(own.direction, (axes, axes)) * np.asarray(own.spacing)
        affine[:axes, 3] = own.origin
        return LPS @ affine


def spacing_of(affine: np.ndarray) -> tuple[float, float, float]:
    """Return the voxel size along each axis: the lengths of the affine's columns."""
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0)
    return float(x), float(y), float(z)


def is_usable(affine: np.ndarray) -> bool:
    """Tell whether an affine places each voxel of its own somewhere."""
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        return False
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return bool(spacing.min() > 0 and abs(np.linalg.det(affine[:3, :3] / spacing)) > 1e-9)


def straightened(affine: np.ndarray) -> np.ndarray:
    """Return a usable affine with its axes at right angles, moved as little as possible.

    The very same array where ITK takes them for perpendicular already.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    directions = affine[:3, :3] / spacing
    if np.abs(directions @ directions.T - np.eye(3)).max() <= SHEAR:
        return affine
    left, _, right = np.linalg.svd(directions)
    out = affine.copy()
    out[:3, :3] = left @ right * spacing
    return out


def is_sheared(affine: np.ndarray, shape: Sequence[int]) -> bool:
    """Tell whether right angles would move a voxel of a volume visibly."""
    return grid_distance(affine, straightened(affine), shape) > GRID_WARNING_VOXELS


def unit_factor(affine: np.ndarray, mm_per_unit: float, unit: Unit) -> float:
    """Return what to multiply a file's affine with to get it in a unit.

    Args:
        affine: ``(4, 4)`` as in the file.
        mm_per_unit: what the file says one of it is.
        unit: the wanted one. For micrometers see ``FINEST_OCT_MM``.
    """
    if unit == "um" and mm_per_unit == 1.0 and min(spacing_of(affine)) >= FINEST_OCT_MM:
        return 1.0
    return mm_per_unit / MM_PER_UNIT[unit]


def impossible_size(
    affine: np.ndarray, shape: Sequence[int], mm_per_unit: float, unit: Unit
) -> MedSSLError | None:
    """Say why a scan cannot be as large as its header says; None if it can.

    Args:
        affine: in ``unit``.
        shape: voxels per axis.
        mm_per_unit: what the file says one of its own unit is.
        unit: of the dataset.
    """
    spacing = np.array(spacing_of(affine)) * MM_PER_UNIT[unit]
    extent = float((spacing * shape[:3]).max())
    small = extent < SMALLEST_MM and spacing.max() < FINE_MM and mm_per_unit < 1 and unit == "mm"
    large = extent > LARGEST_MM or spacing.max() > COARSEST_MM
    if not large and not small:
        return None
    name = {1000.0: "meter", 1.0: "mm", 1e-3: "micron"}.get(mm_per_unit, "unknown")
    size = f"{extent / 1000:.3g} m" if large else f"{extent:.3g} mm"
    voxels = " x ".join(f"{v:.4g}" for v in spacing)
    return MedSSLError(
        f"by its header (unit '{name}', voxels of {voxels} mm) the scan would be {size} long",
        fix="write the right unit into the header (xyzt_units of a NIfTI), or the right voxel size",
    )


def grid_distance(first: np.ndarray, second: np.ndarray, shape: Sequence[int]) -> float:
    """Return how far two affines take a corner of the volume apart, in voxels of the first."""
    corners = _corners(shape)
    if not np.isfinite(second).all() or not np.isfinite(first).all():
        return float("inf")
    try:
        apart = np.linalg.solve(first, second @ corners) - corners
    except np.linalg.LinAlgError:
        return float("inf")
    return float(np.abs(apart[:3]).max())


def turn_onto(grid: Grid, reference: Grid) -> np.ndarray | None:
    """Return how axes must be swapped and flipped to lie on a grid; None if they cannot.

    Nothing is interpolated: the voxels must lie on the other grid's voxels as they are.

    Returns:
        nibabel's orientation ``(3, 2)``.
    """
    from nibabel import orientations  # not quick to import, and few grids are turned

    (shape, affine), (onto_shape, onto) = grid, reference
    try:
        turn = orientations.io_orientation(np.linalg.solve(onto, affine))
    except (np.linalg.LinAlgError, ValueError):
        return None
    if np.isnan(turn).any():
        return None
    turned = tuple(shape[list(turn[:, 0]).index(axis)] for axis in range(3))
    moved = affine @ orientations.inv_ornt_aff(turn, shape)
    apart = grid_distance(onto, moved, turned) if turned == tuple(onto_shape) else np.inf
    return turn if apart <= GRID_ERROR_VOXELS else None


def turn_to_ras(data: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Turn the axes of a volume to the closest RAS axes; a view."""
    from nibabel import orientations

    try:
        return orientations.apply_orientation(data, orientations.io_orientation(affine))
    except (np.linalg.LinAlgError, ValueError, orientations.OrientationError):
        return data


def corner_distance(first: np.ndarray, second: np.ndarray, shape: Sequence[int]) -> float:
    """Return how far two affines take a corner of the volume apart, in their unit."""
    return float(np.linalg.norm(((first - second) @ _corners(shape))[:3], axis=0).max())


def _corners(shape: Sequence[int]) -> np.ndarray:
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape[:3]], indexing="ij"))
    return np.vstack([corners.reshape(3, -1), np.ones(8)])


def describe_difference(image: np.ndarray, other: np.ndarray) -> str:
    """Describe what differs between two affines in the user's words."""
    sizes = spacing_of(image), spacing_of(other)
    if not np.allclose(sizes[0], sizes[1], rtol=1e-3):
        return f"spacing {_numbers(sizes[1])} against {_numbers(sizes[0])}"
    own, others = (
        a[:3, :3] / np.maximum(s, 1e-12) for a, s in zip((image, other), sizes, strict=True)
    )
    if not np.allclose(own, others, atol=1e-3):
        return "the header's axes point another way"
    return f"origin {_numbers(other[:3, 3])} against {_numbers(image[:3, 3])}"


def _numbers(values: Sequence[float] | np.ndarray) -> str:
    return "(" + ", ".join(f"{v:.4g}" for v in values) + ")"
