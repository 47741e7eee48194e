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
from medssl.data.images.geometry import (
    GRID_ERROR_VOXELS,
    GRID_WARNING_VOXELS,
    grid_distance,
    is_usable,
    turn_onto,
)
from medssl.data.images.labels import WHOLE
from medssl.data.images.volume import Volume

Kind = Literal["not_finite", "copy_grid", "turn", "whole"]

EXACT_VOXELS = 1e-3
"""Grids closer than this are equal but for the rounding of numbers in headers."""

NEARLY_WHOLE = 0.01
"""A label value this close to a declared one is mended to it; closer than ``WHOLE`` it is read as
it without a repair."""

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
    numbers = label is not None and label.data.dtype.kind in "iufb" and label.data.ndim == 3
    if case.label is not None and label is not None and numbers:
        if _roundable(label, labels):
            values = label.values()
            near = np.abs(np.rint(values) - values).max(initial=0) <= WHOLE
            what = f"stored as integers instead of {values.dtype.name}"
            found.append(Repair(case.label, "whole", what, () if near else ("undeclared",)))
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
    if np.issubdtype(label.data.dtype, np.integer) and label.scale == (1.0, 0.0):
        return False
    data = label.values()
    whole = np.rint(data)
    if not np.isfinite(data).all() or np.abs(whole - data).max(initial=0) > NEARLY_WHOLE:
        return False
    known = {*labels.values, *([] if labels.ignore_value is None else [labels.ignore_value])}
    return {float(v) for v in np.unique(whole)} <= {float(v) for v in known}


def _foreground(label: Volume) -> np.ndarray:
    """Return the voxels ``(N, 3)`` of a label's structures, at most some thousands."""
    index = np.argwhere(np.rint(label.values()) != 0)
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
    if turn_onto(other.grid, image.grid) is not None:
        what = "the voxels are turned to the image's axes, as the file's own header says"
        return [Repair(path, "turn", what, ("grid", "shape"))]
    reason = _why_copy(image, other, foreground) if same else ""
    if reason:
        what = f"the affine is replaced by the image's: {reason}"
        return [Repair(path, "copy_grid", what, mends)]
    return []


def _why_copy(image: Volume, other: Volume, foreground: np.ndarray | None) -> str:
    """Say why a header that disagrees with the image's must be the wrong one; empty if unclear."""
    affine = other.affine
    if not is_usable(affine):
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
        turn = turn_onto(volume.grid, image.grid)
        data = orientations.apply_orientation(volume.data, turn)
        return replace(volume, data=data, affine=image.affine)
    if repair.kind == "whole":
        whole = np.rint(volume.values())
        dtype = np.uint8 if whole.max(initial=0) < 256 else np.uint16
        return replace(volume, data=whole.astype(dtype), scale=(1.0, 0.0))
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
