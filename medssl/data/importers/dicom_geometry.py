"""Where the voxels of DICOM slices are, from the elements that say so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

UNEVEN = 0.05
"""Largest deviation of a slice from its place on an even grid, in slice gaps."""


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
    normal = np.cross(row, column)
    if abs(np.linalg.norm(normal) - 1) > 1e-3:
        raise UnusableError("its ImageOrientationPatient is not two perpendicular unit vectors")
    depth = positions @ normal
    order = np.argsort(depth, kind="stable")
    depth, positions = depth[order], positions[order]
    gaps = np.diff(depth)
    gap = float(np.median(gaps))
    if gaps.min() < 1e-3:
        same = int(np.count_nonzero(gaps < 1e-3))
        raise UnusableError(
            f"{same} of {len(depth)} slices share their position with another: several echoes, "
            "phases or time points (4D)"
        )
    wide = np.flatnonzero(gaps > 1.5 * gap)
    if wide.size:
        lost = int(np.rint(gaps[wide] / gap).sum() - wide.size)
        raise UnusableError(
            f"about {lost} slices are missing, the first {_mm(gaps[wide[0]])} mm wide hole after "
            f"slice {wide[0] + 1} of {len(depth)} (slices are {_mm(gap)} mm apart)"
        )
    step = (positions[-1] - positions[0]) / (len(depth) - 1)
    off = np.linalg.norm(positions - positions[0] - np.arange(len(depth))[:, None] * step, axis=1)
    if off.max() > UNEVEN * gap:
        raise UnusableError(
            f"its slices are unevenly spaced ({_mm(gaps.min())} to {_mm(gaps.max())} mm)"
        )
    shear = np.degrees(np.arccos(np.clip(step @ normal / np.linalg.norm(step), -1, 1)))
    if shear > 0.5:
        raise UnusableError(f"its slices are sheared by {shear:.1f} degrees (a tilted gantry)")
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = row * float(spacing[1]), column * float(spacing[0])
    affine[:3, 2], affine[:3, 3] = step, positions[0]
    return order, LPS_TO_RAS @ affine


def _mm(value: float) -> str:
    return f"{value:.4g}"


def frame_values(data: Any, macro: str, keyword: str) -> np.ndarray:
    """Return one element of a functional group for all frames, ``(frames, ...)``.

    Raises:
        KeyError: neither the frames nor the shared groups have it; its argument is the keyword.
    """
    shared = _groups(data, "SharedFunctionalGroupsSequence")
    frames = _groups(data, "PerFrameFunctionalGroupsSequence")
    values = []
    for i in range(int(data.NumberOfFrames)):
        places = [group[macro][0] for group in (*frames[i : i + 1], *shared) if macro in group]
        value = next((place[keyword].value for place in places if keyword in place), None)
        if value is None:
            raise KeyError(keyword)
        values.append(value)
    return np.array(values, float)


def _groups(data: Any, keyword: str) -> Any:
    return data[keyword].value if keyword in data else []
