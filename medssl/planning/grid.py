"""Spacing, slices or volumes, patch, and the depth of the network: arithmetic on voxel sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medssl.data.datasets.fingerprint import Fingerprint, ScanGrid
from medssl.settings.spec import DataSpec

SAME_SPACING = 1.02
"""Voxel sides within this factor of each other count as equal."""

NEAR_SPEC = 1.5
"""A spec's own spacing is kept if the scans' median is within this factor of it on every axis."""

ANISOTROPIC = 3.0
"""From this ratio of voxel sides on, the longest side is that of thick slices."""

FEW_SLICES = 16
"""Fewer thick slices than this are trained one by one: there is no depth to learn from."""

APART = 8.0
"""Slices further apart than this many pixels share too little: trained one by one."""

COMPARABLE = 2.0
"""Voxel sides within this factor are treated alike by the network."""

LEAST_VOXELS = 4
"""Voxels that must remain of a side after halving."""

CUBE_SPACING_LIMIT = 4.0
"""Voxels up to this ratio are resampled to cubes for a method that looks from several sides."""

Spacing = Literal["native"] | list[float | None]


@dataclass(frozen=True)
class PlannedGrid:
    """The grid that patches are cut from, in the axis order of the data spec.

    Attributes:
        spacing: the recipe's ``spec.spacing``; None leaves the spec's own.
        voxel: size of a voxel after that.
        shape: the median volume after that.
        spacing_reason, slices_reason: why, in plain words.
        slice_axis: the axis across slices that are trained one by one, None for volumes.
    """

    spacing: Spacing | None
    voxel: tuple[float, ...]
    shape: tuple[int, ...]
    spacing_reason: str
    slices_reason: str
    slice_axis: int | None = None

    @property
    def axes(self) -> list[int]:
        """The axes of a patch."""
        return [a for a in range(3) if a != self.slice_axis]


def oriented(scan: ScanGrid, target: str | None) -> ScanGrid:
    """Return a scan's grid in the axis order of ``target`` (None: as stored)."""
    if target is None:
        return scan
    order = []
    for letter in target:
        pair = next(p for p in ("RL", "AP", "SI") if letter in p)
        order.append(next(i for i, c in enumerate(scan.orientation) if c in pair))
    a, b, c = order
    return ScanGrid(
        (scan.shape[a], scan.shape[b], scan.shape[c]),
        (scan.spacing[a], scan.spacing[b], scan.spacing[c]),
        target,
    )


def choose_grid(
    found: Fingerprint, spec: DataSpec, *, cubes: bool = False, native: bool = False
) -> PlannedGrid:
    """Choose the voxel size, and whether slices or volumes are trained.

    Args:
        found: the dataset.
        spec: its data spec.
        cubes: the method looks at volumes from several sides, and needs voxels about as long as
            wide. Strong anisotropy is left as it is, for the method to refuse.
        native: the user wants each scan's own voxels.
    """
    scans = [oriented(s, spec.orientation) for s in found.scans]
    sizes = np.array([s.spacing for s in scans])
    shapes = np.array([s.shape for s in scans], dtype=float)
    spacing, reason = _spacing(sizes, shapes, spec, cubes=cubes)
    if native:
        spacing, reason = "native", "as you asked: each scan keeps its own voxels"
    target = spec.spacing if spacing is None else spacing
    voxels = sizes.copy()
    if not isinstance(target, str):
        for axis, size in enumerate(target):
            voxels[:, axis] = sizes[:, axis] if size is None else size
    shape = np.median(shapes * sizes / voxels, axis=0)
    voxel = np.median(voxels, axis=0)
    if spec.resize is not None:
        resized = np.array([n if n else shape[a] for a, n in enumerate(spec.resize)], dtype=float)
        voxel, shape = voxel * shape / resized, resized
    sliced, why = _slices(voxel, shape, spec, cubes=cubes)
    return PlannedGrid(
        spacing,
        tuple(round(float(v), 4) for v in voxel),
        tuple(max(1, round(float(n))) for n in shape),
        reason,
        why,
        sliced,
    )


def _spacing(
    sizes: np.ndarray, shapes: np.ndarray, spec: DataSpec, *, cubes: bool
) -> tuple[Spacing | None, str]:
    """Return ``spec.spacing`` (None: the spec's own) and the reason."""
    unit, median = spec.spatial_unit, np.median(sizes, axis=0)
    _, ratio = _coarse(median, spec)
    if cubes and COMPARABLE < ratio <= CUBE_SPACING_LIMIT:
        side = float(f"{np.prod(median) ** (1 / 3):.2g}")
        return [side] * 3, f"{unit}; cubes, as the method looks at the scan from several sides"
    if isinstance(spec.spacing, list) and not _is_same(sizes):
        own = [v if t is None else t for v, t in zip(median, spec.spacing, strict=True)]
        if np.maximum(median / own, own / median).max() <= NEAR_SPEC:
            return None, f"{unit}; usual for this kind of scan, and near yours"
    return median_spacing(sizes, shapes, spec)


def median_spacing(
    sizes: np.ndarray, shapes: np.ndarray, spec: DataSpec
) -> tuple[list[float | None], str]:
    """Return the voxel size that all scans are brought to, new ones included, and the reason.

    The median of each axis; across thick slices the distance of the finer scans, and across slices
    that lie too far apart none (None): nothing was scanned in between.

    Args:
        sizes: ``(scans, 3)``, voxel edges in the axis order of the spec.
        shapes: ``(scans, 3)``, voxels.
        spec: the data spec.
    """
    unit, median = spec.spatial_unit, np.median(sizes, axis=0)
    coarse, ratio = _coarse(median, spec)
    same = _is_same(sizes)
    # Scans of one size are left alone: theirs is not rounded.
    chosen: list[float | None] = [float(f"{v:{'.6g' if same else '.3g'}}") for v in median]
    slices = float(np.median(shapes, axis=0)[coarse])
    apart = ratio >= ANISOTROPIC and (slices < FEW_SLICES or ratio > APART)
    if apart or spec.modality == "OCT":
        chosen[coarse] = None
        what = "B-scans" if spec.modality == "OCT" else "slices"
        pixels = "as in all scans" if same else "the median"
        return chosen, f"{unit}; pixels: {pixels}; {what} stay, nothing was scanned in between"
    if same:
        return chosen, f"{unit}; as in all your scans: others will be resampled to it"
    reason = f"{unit}; voxels differ between scans: the median"
    if ratio >= ANISOTROPIC:
        chosen[coarse] = float(f"{np.percentile(sizes[:, coarse], 10):.3g}")
        reason += ", and the slice distance of the finer scans"
    return chosen, reason


def _is_same(sizes: np.ndarray) -> bool:
    return bool((sizes.max(axis=0) / sizes.min(axis=0)).max() <= SAME_SPACING)


def _coarse(voxel: np.ndarray, spec: DataSpec) -> tuple[int, float]:
    """Return the axis of the longest voxel side (OCT: across B-scans), and its anisotropy."""
    axis = spec.slice_axis if spec.modality == "OCT" else int(voxel.argmax())
    return axis, float(voxel[axis] / voxel.min())


def _slices(
    voxel: np.ndarray, shape: np.ndarray, spec: DataSpec, *, cubes: bool
) -> tuple[int | None, str]:
    """Return the axis across slices that are to be trained one by one, or None, and the reason."""
    coarse, ratio = _coarse(voxel, spec)
    # A volume of one slice is a picture, whatever its header says of the distance to the next.
    flat = int(shape.argmin()) if shape.min() < LEAST_VOXELS else None
    if flat is not None:
        return flat, f"the scans have only {shape[flat]:.0f} slices: each is trained by itself"
    name = "B-scans" if spec.modality == "OCT" else "slices"
    if not cubes and ratio >= ANISOTROPIC and shape[coarse] < FEW_SLICES:
        return coarse, (
            f"only {shape[coarse]:.0f} thick {name}, {ratio:.1f} times as far apart as pixels: "
            "each is trained by itself"
        )
    if not cubes and ratio > APART:
        return coarse, (
            f"{name} lie {ratio:.0f} times as far apart as pixels: each is trained by itself"
        )
    if ratio > COMPARABLE:
        return None, "3D: neighboring slices are near enough to help each other"
    return None, "3D: voxels are about as long as wide"


@dataclass(frozen=True)
class Levels:
    """How a network goes from the patch to its coarsest level.

    Attributes:
        patch: voxels per axis.
        strides: one per level below the first, each per axis: 2 halves it, 1 keeps it.
        kernels: one per level, the first included: 3, or 1 across slices too far apart.
    """

    patch: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]

    @property
    def factors(self) -> tuple[int, ...]:
        """What each side of the patch is a multiple of."""
        return tuple(math.prod(column) for column in zip(*self.strides, strict=True))

    @property
    def isotropic(self) -> bool:
        """Whether all axes are treated alike."""
        alike = all(len(set(s)) == 1 for s in self.strides)
        return alike and all(k == 3 for kernel in self.kernels for k in kernel)


def choose_levels(
    shape: Sequence[int], voxel: Sequence[float], *, budget: int, depth: int
) -> Levels:
    """Choose the patch and the levels of a network for it.

    The patch is as near to a cube of tissue as the median volume allows, of at most ``budget``
    voxels, and rounded down to what the network can halve. An axis is halved while its voxels are
    comparable to the finest ones and at least ``LEAST_VOXELS`` remain.

    Args:
        shape: the median volume, voxels per axis of the patch.
        voxel: size of a voxel per axis.
        budget: most voxels of the patch.
        depth: most levels below the first.
    """
    sides = _cube(shape, voxel, budget)
    size, spacing = list(sides), [float(v) for v in voxel]
    strides: list[tuple[int, ...]] = []
    kernels = [_kernel(spacing)]
    while len(strides) < depth:
        able = [i for i, n in enumerate(size) if n // 2 >= LEAST_VOXELS]
        if not able:
            break
        finest = min(spacing[i] for i in able)
        stride = tuple(
            2 if i in able and spacing[i] <= COMPARABLE * finest else 1 for i in range(len(size))
        )
        size = [n // s for n, s in zip(size, stride, strict=True)]
        spacing = [v * s for v, s in zip(spacing, stride, strict=True)]
        strides.append(stride)
        kernels.append(_kernel(spacing))
    factors = [math.prod(column) for column in zip(*strides, strict=True)] or [1] * len(size)
    patch = tuple(n // f * f for n, f in zip(sides, factors, strict=True))
    return Levels(patch, tuple(strides), tuple(kernels))


def fixed_patch(
    shape: Sequence[int],
    voxel: Sequence[float],
    *,
    budget: int,
    factors: Sequence[int],
    cube: bool = False,
) -> tuple[int, ...]:
    """Choose the patch of a network whose halvings are given.

    Args:
        factors: what each side must be a multiple of; a side is at least that, even where the
            median volume is smaller.
        cube: all sides equal.
    """
    sides = _cube(shape, voxel, budget)
    if cube:
        sides = [min(*sides, int(budget ** (1 / len(sides)) + 1e-6))] * len(sides)
    return tuple(max(n // f, 1) * f for n, f in zip(sides, factors, strict=True))


def _kernel(spacing: Sequence[float]) -> tuple[int, ...]:
    return tuple(1 if v > COMPARABLE * min(spacing) else 3 for v in spacing)


def _cube(shape: Sequence[int], voxel: Sequence[float], budget: int) -> list[int]:
    """Return the sides, at most those of the volume, of the largest cube of tissue in budget."""
    low, high = 0.0, float(max(n * v for n, v in zip(shape, voxel, strict=True)))

    def sides(length: float) -> list[float]:
        return [min(float(n), length / v) for n, v in zip(shape, voxel, strict=True)]

    if math.prod(sides(high)) > budget:
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (low, middle) if math.prod(sides(middle)) > budget else (middle, high)
    else:
        low = high
    return [max(1, int(n + 1e-6)) for n in sides(low)]


def size_text(values: Sequence[float] | np.ndarray) -> str:
    """Write sizes such as ``1 x 1 x 2.5``."""
    return " x ".join(f"{float(v):.4g}" for v in values)
