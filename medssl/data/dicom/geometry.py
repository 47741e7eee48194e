"""Where the voxels of DICOM slices are, from the elements that say so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medssl.data.images.geometry import LPS

UNEVEN = 0.05
"""Largest deviation of a slice from its place on an even grid, in slice gaps."""

MOST_ROUNDING = 0.2
"""The same where positions were rounded to so few decimals that this explains it."""


class UnusableError(Exception):
    """Why a series cannot become a volume, in a few words."""


def slice_grid(
    positions: np.ndarray, orientation: Sequence[float], spacing: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Order slices along their normal and return the order and their common affine.

    With the row's direction X, the column's direction Y and the position S of the first voxel
    (DICOM PS3.3, C.7.6.2.1.1), voxel (column i, row j) of a slice is at
    ``S + X * spacing[1] * i + Y * spacing[0] * j``; S runs evenly from the first to the last slice.

    Args:
        positions: ``(N, 3)`` ImagePositionPatient, mm, LPS.
        orientation: ImageOrientationPatient.
        spacing: PixelSpacing: between rows, between columns.

    Returns:
        indices into ``positions``, and ``(4, 4)`` voxel (column, row, slice) to RAS in mm.

    Raises:
        UnusableError: slices share a position, are missing, are not evenly spaced, or are sheared.
    """
    row, column = np.array(orientation[:3], float), np.array(orientation[3:], float)
    lengths = np.linalg.norm([row, column], axis=1)
    # Some writers round the cosines to two or three digits.
    if np.abs(lengths - 1).max() > 0.01 or abs(row @ column) > 0.01:
        raise UnusableError("its ImageOrientationPatient is not two perpendicular unit vectors")
    row, column = row / lengths[0], column / lengths[1]
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    depth = positions @ normal
    order = np.argsort(depth, kind="stable")
    depth, positions = depth[order], positions[order]
    rounding = _rounding(positions)
    step = _even_step(positions, np.diff(depth), rounding)
    along = float(step @ normal)
    drift = float(np.linalg.norm(step - along * normal)) * (len(positions) - 1)
    if drift <= rounding:  # so far, rounded positions say nothing against the directions
        step = along * normal
    shear = np.degrees(np.arccos(np.clip(step @ normal / np.linalg.norm(step), -1, 1)))
    if shear > 0.5:
        raise UnusableError(f"its slices are sheared by {shear:.1f} degrees (a tilted gantry)")
    # Rounded cosines leave a small shear, which ITK refuses to read; the positions are exact.
    normal = step / np.linalg.norm(step)
    row = row - (row @ normal) * normal
    row /= np.linalg.norm(row)
    column = np.cross(normal, row)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = row * float(spacing[1]), column * float(spacing[0])
    affine[:3, 2], affine[:3, 3] = step, positions[0]
    return order, LPS @ affine


def _rounding(positions: np.ndarray) -> float:
    """Return how far a position may be off because it was written with so few decimals, in mm.

    Positions that take more than three decimals are taken as they are.
    """
    for decimals in range(4):
        if np.abs(positions - positions.round(decimals)).max() < 1e-6:
            # Half a unit on each of three axes, of this position and of the one it is seen from.
            return float(np.sqrt(3)) * 10.0**-decimals
    return 0.0


def _even_step(positions: np.ndarray, gaps: np.ndarray, rounding: float) -> np.ndarray:
    """Return the vector from slice to slice, or say why there is no such vector."""
    count, gap = len(positions), float(np.median(gaps))
    if gaps.min() < 1e-3:
        same = int(np.count_nonzero(gaps < 1e-3))
        raise UnusableError(
            f"{same} of {count} slices share their position with another: several echoes, "
            "phases or time points (4D)"
        )
    wide = np.flatnonzero(gaps > 1.5 * gap)
    if wide.size:
        lost = int(np.rint(gaps[wide] / gap).sum() - wide.size)
        raise UnusableError(
            f"about {lost} slices are missing, the first {_mm(gaps[wide[0]])} mm wide hole after "
            f"slice {wide[0] + 1} of {count} (slices are {_mm(gap)} mm apart)"
        )
    step = (positions[-1] - positions[0]) / (count - 1)
    off = np.linalg.norm(positions - positions[0] - np.arange(count)[:, None] * step, axis=1)
    if off.max() > max(UNEVEN * gap, min(rounding, MOST_ROUNDING * gap)):
        raise UnusableError(
            f"its slices are unevenly spaced ({_mm(gaps.min())} to {_mm(gaps.max())} mm)"
        )
    return step


def _mm(value: float) -> str:
    return f"{value:.4g}"


def frame_values(data: Any, macro: str, keyword: str) -> np.ndarray:
    """Return one element of a functional group for all frames, ``(frames, ...)``.

    What neither the frames nor the shared groups have, the file as a whole may.

    Raises:
        KeyError: nothing has it; its argument is the keyword.
    """
    shared = _groups(data, "SharedFunctionalGroupsSequence")
    frames = _groups(data, "PerFrameFunctionalGroupsSequence")
    values = []
    for i in range(int(data.NumberOfFrames)):
        groups = [group[macro][0] for group in (*frames[i : i + 1], *shared) if macro in group]
        value = next((p[keyword].value for p in (*groups, data) if _has(p, keyword)), None)
        if value is None:
            raise KeyError(keyword)
        values.append(value)
    return np.array(values, float)


def frame_grid(data: Any) -> tuple[np.ndarray, np.ndarray, str]:
    """Order the frames of a multi-frame image along their normal, as `slice_grid` does.

    Many CBCT scanners write no position of each frame, but how far apart they are.

    Returns:
        order, affine, and what had to be assumed; empty if nothing.

    Raises:
        UnusableError: as `slice_grid`, or where the frames lie is not in the file.
    """
    assumed = []
    try:
        spacings = frame_values(data, "PixelMeasuresSequence", "PixelSpacing")
        directions = _frames_or(data, "PlaneOrientationSequence", "ImageOrientationPatient", _AXIAL)
        positions = _frames_or(data, "PlanePositionSequence", "ImagePositionPatient", (0, 0, 0))
    except KeyError as error:
        raise UnusableError(f"its frames have no {error.args[0]}") from None
    if np.ptp(directions, axis=0).max() > 1e-3 or np.ptp(spacings, axis=0).max() > 1e-4:
        raise UnusableError("its frames have different orientations or spacings")
    if np.ptp(positions, axis=0).max() == 0:
        offsets, source = _offsets(data)
        row, column = directions[0][:3], directions[0][3:]
        positions = positions + np.outer(offsets, np.cross(row, column))
        assumed.append(f"its frames have no positions of their own: placed by their {source}")
    order, affine = slice_grid(positions, directions[0], spacings[0])
    return order, affine, "; ".join(assumed)


_AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def _frames_or(data: Any, macro: str, keyword: str, default: Sequence[float]) -> np.ndarray:
    try:
        return frame_values(data, macro, keyword)
    except KeyError:
        return np.tile(np.array(default, float), (int(data.NumberOfFrames), 1))


def _offsets(data: Any) -> tuple[np.ndarray, str]:
    """Return how far each frame lies from the first, in mm, and which element says so."""
    count = int(data.NumberOfFrames)
    listed = data.get("GridFrameOffsetVector")
    if listed is not None and len(listed) == count:
        return np.array(listed, float) - float(listed[0]), "GridFrameOffsetVector"
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        try:
            gap = float(frame_values(data, "PixelMeasuresSequence", keyword)[0])
        except KeyError:
            continue
        if gap > 0:
            return np.arange(count) * gap, f"{keyword}, {_mm(gap)} mm"
    raise UnusableError(
        "its frames have no ImagePositionPatient, SpacingBetweenSlices or SliceThickness"
    )


def _has(data: Any, keyword: str) -> bool:
    return keyword in data and data[keyword].value not in (None, "")


def _groups(data: Any, keyword: str) -> Any:
    return data[keyword].value if keyword in data else []
