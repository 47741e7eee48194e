"""Recognize a scan by pieces of it: a copy that was cropped or padded keeps those inside.

Every window of ``SIDE x SIDE`` voxels of a slice has a number, a hash of its values. The smallest
numbers of a scan are its marks: a choice that depends on the windows alone, wherever they lie. A
copy cut out of a scan holds those of the scan's marks that lie inside, and they are among its own
smallest. Two people's scans share none, but for windows with little in them: those where fewer than
half of the neighbors differ do not count, so that neither padding nor frames nor plain shades do.
Only windows whose first voxels have a rare hash are looked at, one of ``RARE``.
"""

from __future__ import annotations

import numpy as np

MARKS, SIDE, RARE = 64, 8, 256
LEAST = 6
"""Shared marks from which on one scan is a part of the other: a tenth of its volume. Of 200
hippocampi, 80 people's hearts and 30 atria, no two people's scans share a single one."""

_SLAB = 2**21
"""Voxels that are looked at at a time."""
_FIRST = np.array([0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D], np.uint32)


def marks_of(data: np.ndarray, scale: float = 1.0, offset: float = 0.0) -> list[int]:
    """Return the marks of a volume, ascending; fewer, or none, where it has few such windows.

    Args:
        data: ``(X, Y, Z)``, numbers as they are stored.
        scale: with ``offset``, makes true values of them: a copy has the same marks where it has
            these.
    """
    if min(data.shape[:2]) < SIDE:
        return []
    thick = max(1, _SLAB // (data.shape[0] * data.shape[1]))
    found = np.empty(0, np.uint64)
    for first in range(0, data.shape[2], thick):
        slab = data[..., first : first + thick]
        if (scale, offset) != (1.0, 0.0):
            slab = slab * np.float64(scale) + np.float64(offset)
        slab = np.ascontiguousarray(slab, np.float32) + np.float32(0)  # -0.0 becomes 0.0
        found = np.unique(np.concatenate([found, _numbers(slab)]))[:MARKS]
    return [int(number) for number in found]


def _numbers(slab: np.ndarray) -> np.ndarray:
    """Return the numbers of some windows of slices ``(X, Y, S)`` of float32."""
    bits = slab.view(np.uint32)
    inside = bits[: 1 - SIDE, : 1 - SIDE]  # where a window begins
    along, across = bits[1 : 2 - SIDE, : 1 - SIDE], bits[: 1 - SIDE, 1 : 2 - SIDE]
    key = inside * _FIRST[0] + along * _FIRST[1] + across * _FIRST[2]
    key = (key ^ (key >> np.uint32(15))) * _FIRST[0]
    places = np.nonzero((key < 2**32 // RARE) & (inside != along))
    views = np.lib.stride_tricks.sliding_window_view(bits, (SIDE, SIDE), axis=(0, 1))
    windows = views[places]
    changes = (windows[:, 1:] != windows[:, :-1]).sum(axis=(1, 2))
    flat = windows[changes >= SIDE * (SIDE - 1) // 2].reshape(-1, SIDE * SIDE)
    return _mixed(_mixed(flat.astype(np.uint64)) @ _WEIGHTS)


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Return numbers of which every bit depends on every bit of the given ones, one to one."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    return (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)


_WEIGHTS = _mixed(np.arange(1, SIDE * SIDE + 1, dtype=np.uint64)) | np.uint64(1)
