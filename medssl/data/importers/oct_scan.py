"""What all OCT readers return: voxels in one order, spacing in um, boundaries as depths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medssl.errors import MedSSLError

IGNORE = 255
"""Label of voxels that nobody annotated."""

UNEVEN = 0.5
"""Distances of B-scans may differ from the usual one by so much of it."""

CROSSING = 2.0
"""Boundaries that cross by more voxels than this are an error of the annotation."""


def three(numbers: Iterable[float]) -> tuple[float, float, float]:
    """Return three numbers, one per axis."""
    one, two, three = numbers
    return one, two, three


@dataclass(frozen=True)
class OctScan:
    """A raster volume.

    Attributes:
        image: ``(A-scan, B-scan, depth)``; A-scans from the left to the right of the picture, depth
            from the vitreous down.
        spacing_um: along those axes.
        upward: B-scan 0 is the inferior one (Heidelberg); otherwise it is the superior one.
        laterality: ``OD``, ``OS`` or empty.
        device: maker and model as far as known.
        label: like ``image``, or None.
        boundaries: by name, ``(A-scan, B-scan)``: depth of each layer boundary in voxels, NaN where
            there is none; ordered from the vitreous down.
        positions_mm: ``(B-scan, 4)``: start x, y and end x, y on the en-face image, if known.
        patient: the file's own patient id; it is written only if the user asks for it.
        group: whose scan it is where the source is anonymous already (challenge data).
    """

    image: np.ndarray
    spacing_um: tuple[float, float, float]
    upward: bool
    laterality: str = ""
    device: str = ""
    label: np.ndarray | None = None
    boundaries: Mapping[str, np.ndarray] = field(default_factory=dict)
    positions_mm: np.ndarray | None = None
    patient: str = ""
    group: str = ""


def check_raster(starts: np.ndarray, path: Path, distance: float = 0.0) -> None:
    """Refuse B-scans with a gap or a repeat between them: the volume would close it silently.

    Args:
        starts: ``(B-scan, 2 or 3)``: where each begins; nothing is known where all are equal.
        path: of the file.
        distance: of neighbors as the file states it, in the unit of ``starts``; 0 if it does not.

    Raises:
        MedSSLError: two neighbors lie much closer or further apart than usual, or all of them than
            stated: every other one is missing.
    """
    steps = np.linalg.norm(np.diff(starts, axis=0), axis=1)
    usual = float(np.median(steps)) if len(steps) else 0.0
    odd = np.flatnonzero(np.abs(steps - usual) > UNEVEN * usual)  # none where all are equal
    if odd.size:
        k = int(odd[0])
        raise MedSSLError(
            f"its B-scans are not evenly spaced: after B-scan {k + 1} of {len(starts)} the next is "
            f"{steps[k]:.3g} away, {usual:.3g} elsewhere",
            where=path,
            fix="export the volume again, or leave it out with --option skip_broken=true",
        )
    if usual > 0 and distance > 0 and abs(usual - distance) > UNEVEN * distance:
        raise MedSSLError(
            f"its B-scans lie {usual:.3g} apart, but the file says {distance:.3g}: some may be "
            "missing",
            where=path,
            fix="export the volume again, or leave it out with --option skip_broken=true",
        )


def check_filled(empty: np.ndarray, path: Path) -> None:
    """Refuse a volume with B-scans that hold no image.

    Args:
        empty: ``(B-scan,)`` bool, whether all voxels of each are marked as without data.
        path: of the file.

    Raises:
        MedSSLError: names the first.
    """
    lost = np.flatnonzero(empty)
    if lost.size:
        more = f" (and {lost.size - 1} more)" if lost.size > 1 else ""
        raise MedSSLError(
            f"B-scan {lost[0] + 1} of {len(empty)}{more} has no image: all of it is marked as "
            "without data",
            where=path,
            fix="export the volume again, or leave it out with --option skip_broken=true",
        )


def nominal_affine(
    shape: tuple[int, ...], spacing_um: tuple[float, float, float], *, upward: bool
) -> np.ndarray:
    """Return the affine ``(4, 4)``, voxel to RAS in um, of a volume that knows no patient space.

    The right of the picture is the patient's left in both eyes, depth runs from front to back, and
    B-scans run up or down. The center of the volume is the origin.
    """
    lateral, across, axial = spacing_um
    affine = np.zeros((4, 4))
    affine[0, 0] = -lateral
    affine[2, 1] = across if upward else -across
    affine[1, 2] = -axial
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape[:3]) - 1) / 2)
    affine[3, 3] = 1
    return affine


def layer_labels(boundaries: np.ndarray, depth: int) -> np.ndarray:
    """Return the label of each voxel: how many boundaries lie at or above it.

    Small crossings are undone by pushing the deeper boundary down to the upper one.

    Args:
        boundaries: ``(N, A-scan, B-scan)`` depths in voxels, from the vitreous down.
        depth: number of voxels along the depth.

    Returns:
        uint8 ``(A-scan, B-scan, depth)``; ``IGNORE`` in columns where a boundary is missing or
        crosses another by more than ``CROSSING`` voxels.
    """
    ordered = np.maximum.accumulate(boundaries, axis=0)
    known = np.isfinite(boundaries).all(axis=0)
    known &= (np.nan_to_num(ordered - boundaries) <= CROSSING).all(axis=0)
    label = np.zeros((*boundaries.shape[1:], depth), np.uint8)
    k = np.arange(depth)
    for boundary in ordered:
        label += boundary[..., None] <= k
    label[~known] = IGNORE
    return label


def layer_names(boundaries: list[str]) -> dict[int, str]:
    """Name the labels of :func:`layer_labels` after the boundaries around them."""
    below = [*boundaries[1:], None]
    return {
        value: f"{top} to {bottom}" if bottom else f"below {top}"
        for value, (top, bottom) in enumerate(zip(boundaries, below, strict=True), start=1)
    }
