"""Decide which faults of a file can be mended without guessing, and mend them in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from nibabel import orientations
from scipy import ndimage

from medssl.data.datasets.case import Case, LabelMap
from medssl.data.images.same_grid import GRID_ERROR_VOXELS, GRID_WARNING_VOXELS, grid_distance
from medssl.data.images.stored import Volume

Kind = Literal["not_finite", "copy_grid", "turn", "whole"]

EXACT_VOXELS = 1e-3
"""Grids closer than this are equal but for the rounding of numbers in headers."""

WHOLE = 0.01
"""A label value this close to a declared one was meant to be it: interpolation and compression
leave such traces."""

FEW = 0.01
"""Share of voxels that may be filled from their neighbors; more of them are a frame, not holes."""


@dataclass(frozen=True)
class Repair:
    """One thing to mend in one file.

    Attributes:
        file: which file.
        kind: ``not_finite``: numbers for NaN and infinities; ``copy_grid``: the image's affine
            replaces the file's; ``turn``: axes turned as the file's own header says; ``whole``:
            stored as integers.
        what: what is done, for the user.
        mends: the checks whose problem in this file it removes; empty for harmless tidying.
    """

    file: Path
    kind: Kind
    what: str
    mends: tuple[str, ...]


def plan_repairs(
    case: Case, images: Sequence[Volume], label: Volume | None, labels: LabelMap
) -> tuple[Repair, ...]:
    """Return everything that can be mended in the files of a case.

    Args:
        case: names the files.
        images: its channels as opened, in order.
        label: its label as opened, if any.
        labels: the declared values.
    """
    found = [
        Repair(path, "not_finite", what, ("not_finite",))
        for path, image in zip(case.images, images, strict=True)
        if (what := _fill_rule(image))
    ]
    for path, image in zip(case.images[1:], images[1:], strict=True):
        found += _plan_grid(path, images[0], image, None)
    if case.label is not None and label is not None and label.data.ndim == 3:
        if _roundable(label, labels):
            exact = np.array_equal(np.rint(label.data), label.data)
            what = f"stored as integers instead of {label.data.dtype.name}"
            found.append(Repair(case.label, "whole", what, () if exact else ("undeclared",)))
        found += _plan_grid(case.label, images[0], label, _foreground(label))
    return tuple(found)


def _fill_rule(image: Volume) -> str:
    """Say how NaN and infinities of an image are filled; empty if there are none, or only them."""
    if not np.issubdtype(image.data.dtype, np.floating) or image.data.size == 0:
        return ""
    bad = image.data.size - int(np.count_nonzero(np.isfinite(image.data)))
    if bad in (0, image.data.size):
        return ""
    if bad <= FEW * image.data.size:
        return f"{bad} voxels get the value of the nearest voxel that has one"
    return f"{bad} voxels get the lowest value of the image"


def _roundable(label: Volume, labels: LabelMap) -> bool:
    """Tell whether a label is stored as fractions but stands for declared whole numbers."""
    data = label.data
    if not np.issubdtype(data.dtype, np.floating) or label.scale != (1.0, 0.0):
        return False
    whole = np.rint(data)
    if not np.isfinite(data).all() or np.abs(whole - data).max(initial=0) > WHOLE:
        return False
    known = {*labels.values, *([] if labels.ignore_value is None else [labels.ignore_value])}
    return {float(v) for v in np.unique(whole)} <= {float(v) for v in known}


def _foreground(label: Volume) -> np.ndarray:
    """Return the voxels ``(N, 3)`` of a label's structures, at most some thousands."""
    slope, offset = label.scale
    index = np.argwhere(label.data != (0 - offset) / slope if slope else label.data != 0)
    return index[:: max(1, len(index) // 5000)]


def _plan_grid(
    path: Path, image: Volume, other: Volume, foreground: np.ndarray | None
) -> list[Repair]:
    shape = image.data.shape[:3]
    if other.data.ndim != 3 or len(shape) != 3:
        return []
    same = other.data.shape == shape
    distance = grid_distance(image.affine, other.affine, shape) if same else np.inf
    if distance <= EXACT_VOXELS:
        return []
    mends = ("grid",) if distance > GRID_WARNING_VOXELS else ()
    if distance <= GRID_ERROR_VOXELS:
        what = f"the affine, {distance:.2g} voxels off, is replaced by the image's"
        return [Repair(path, "copy_grid", what, mends)]
    turned = turn_to(image, other)
    if turned is not None and turned.data.shape == shape:
        what = "the voxels are turned to the image's axes, as the file's own header says"
        return [Repair(path, "turn", what, ("grid", "shape"))]
    reason = _why_copy(image, other, foreground) if same else ""
    if reason:
        what = f"the affine is replaced by the image's: {reason}"
        return [Repair(path, "copy_grid", what, mends)]
    return []


def turn_to(image: Volume, other: Volume) -> Volume | None:
    """Flip and exchange axes of ``other`` so that it lies on the image's grid, or None.

    Nothing is interpolated: the voxels must lie on the image's voxels as they are.
    """
    try:
        between = np.linalg.solve(image.affine, other.affine)
        turn = orientations.io_orientation(between)
    except (np.linalg.LinAlgError, ValueError):
        return None
    if np.isnan(turn).any():
        return None
    data = orientations.apply_orientation(other.data, turn)
    affine = other.affine @ orientations.inv_ornt_aff(turn, other.data.shape)
    close = data.shape == image.data.shape[:3] and (
        grid_distance(image.affine, affine, data.shape) <= GRID_ERROR_VOXELS
    )
    return Volume(data, other.scale, image.affine) if close else None


def _why_copy(image: Volume, other: Volume, foreground: np.ndarray | None) -> str:
    """Say why a header that disagrees with the image's must be the wrong one; empty if unclear."""
    affine = other.affine
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        return "its own cannot be used"
    if not np.allclose(other.spacing, image.spacing, rtol=1e-3):
        return "the voxels are as many as the image's, so the other spacing cannot be right"
    straight = np.allclose(affine[:3, :3], np.diag(np.diag(affine[:3, :3])), atol=1e-6)
    if straight and (np.diag(affine)[:3] > 0).all() and not affine[:3, 3].any():
        return "its own has neither origin nor direction, so it was lost when the file was written"
    if foreground is not None and len(foreground):
        world = np.c_[foreground, np.ones(len(foreground))] @ affine.T
        voxels = np.linalg.solve(image.affine, world.T)[:3]
        limit = np.array(image.data.shape[:3])[:, None] - 0.5
        inside = ((voxels >= -0.5) & (voxels < limit)).all(axis=0).mean()
        if inside < 0.5:
            return "by its own, most of the label would lie outside of the image"
    return ""


def apply_repair(repair: Repair, volume: Volume, image: Volume) -> Volume:
    """Mend one thing of a volume.

    Args:
        repair: what to mend.
        volume: the file's content.
        image: the first image of the case, whose grid counts.
    """
    if repair.kind == "copy_grid":
        return replace(volume, affine=image.affine)
    if repair.kind == "turn":
        turned = turn_to(image, volume)
        assert turned is not None  # as planned
        return turned
    if repair.kind == "whole":
        whole = np.rint(volume.data)
        dtype = np.uint8 if whole.max(initial=0) < 256 else np.uint16
        return replace(volume, data=whole.astype(dtype))
    return replace(volume, data=fill_not_finite(volume.data))


def fill_not_finite(data: np.ndarray) -> np.ndarray:
    """Replace NaN and infinities: a few by the nearest finite voxel, many by the lowest value.

    Many are a frame around the field of view, into which anatomy must not be smeared.

    Args:
        data: ``(X, Y, Z)`` or ``(X, Y, Z, C)``, with at least one finite voxel.
    """
    bad = ~np.isfinite(data)
    out = data.copy()
    if bad.sum() > FEW * data.size:
        out[bad] = data[~bad].min()
        return out
    # Channels must not fill each other: along the fourth axis every step is far away.
    sampling = [1.0] * 3 + [1e6] * (data.ndim - 3)
    nearest = ndimage.distance_transform_edt(
        bad, sampling=sampling, return_distances=False, return_indices=True
    )
    out[bad] = data[tuple(n[bad] for n in nearest)]
    return out
