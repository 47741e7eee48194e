"""Label maps: whole numbers up to rounding, whatever they are stored as."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medssl.data.images.geometry import Unit
from medssl.data.images.volume import read_image
from medssl.errors import MedSSLError

WHOLE = 1e-3
"""A value this close to a whole number is meant to be it: factors in headers, interpolation and
compression leave such traces."""

NOT_WHOLE_FIX = "give label maps, not images or probabilities, resampled with nearest neighbor"
_FIX = (
    "store one whole number per voxel (argmax of the channels, one time point); structures that "
    "overlap are 'regions' of such numbers in dataset.json"
)


def read_label(path: str | Path, *, unit: Unit = "mm") -> tuple[np.ndarray, np.ndarray]:
    """Read a label map in any supported format.

    Args:
        path: NIfTI, NRRD or MetaImage.
        unit: of the returned affine.

    Returns:
        Integer array ``(X, Y, Z)`` (a 2D image has Z = 1) and its 4x4 voxel-to-RAS affine.

    Raises:
        MedSSLError: the file cannot be read, is no label map (see :func:`whole_numbers`), or its
            affine is not usable.
    """
    volume = read_image(path, unit=unit)
    try:
        return whole_numbers(volume.values()), volume.affine
    except MedSSLError as error:
        raise MedSSLError(error.what, where=path, fix=error.fix) from None


def whole_numbers(values: np.ndarray) -> np.ndarray:
    """Return the whole numbers that the true values of a label map stand for.

    Args:
        values: ``(X, Y, Z)`` of any type.

    Returns:
        The same array where it holds integers, else a copy as int32.

    Raises:
        MedSSLError: the values are no numbers, further from whole ones than ``WHOLE``, not finite,
            or there are several for each voxel. It names no file.
    """
    if values.dtype.kind not in "iufb":
        raise MedSSLError(
            f"a label map must hold plain numbers, this one holds {values.dtype}", fix=_FIX
        )
    if values.ndim != 3:
        raise MedSSLError(
            f"a label map must be 2D or 3D, this one has shape {values.shape}", fix=_FIX
        )
    if values.dtype.kind in "iu":
        return values
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    wrong = ~_near(values)
    if wrong.any():
        raise MedSSLError(
            f"{int(wrong.sum())} voxels are not whole numbers, the first is {values[wrong][0]:g}",
            fix=NOT_WHOLE_FIX,
        )
    return np.rint(values).astype(np.int32)


def count_values(values: np.ndarray) -> dict[float, int]:
    """Count each value of a label map, those near a whole number as that number.

    Quick for the integers that labels are; what is not finite is counted like any other value.
    """
    if values.size == 0:
        return {}
    if values.dtype.kind == "f":
        near = _near(values)
        if not near.all():
            found, counts = np.unique(values[~near], return_counts=True)
            odd = {float(v): int(n) for v, n in zip(found, counts, strict=True)}
            return count_values(values[near]) | odd
        values = np.rint(values).astype(np.int64)
    low, high = int(values.min()), int(values.max())
    if high - low > 2**20:
        found, counts = np.unique(values, return_counts=True)
    else:
        counts = np.bincount((values.astype(np.int64) - low).ravel(order="K"))
        found = np.flatnonzero(counts)
        counts = counts[found]
        found = found + low
    return {float(v): int(n) for v, n in zip(found, counts, strict=True)}


def _near(values: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # NaN and infinity compare false, so they are wrong too
        near = np.abs(values - np.rint(values)) <= WHOLE
    return near & (np.abs(values) <= np.iinfo(np.int32).max)
