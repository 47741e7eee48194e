"""Where the voxels of DICOM slices are, from the elements that say so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medssl.data.images.geometry import LPS

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
    step = _even_step(positions, np.diff(depth))
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


def _even_step(positions: np.ndarray, gaps: np.ndarray) -> np.ndarray:
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
    if off.max() > UNEVEN * gap:
        raise UnusableError(
            f"its slices are unevenly spaced ({_mm(gaps.min())} to {_mm(gaps.max())} mm)"
        )
    return step


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
