"""What several members agree on: voxel by voxel, and scan by scan. Pure functions of label maps.

A voxel has the label that at least ``ceil(share * K)`` of K members give it; else nobody knows it.
A scan counts unless its members agree less than in the others: the lowest mean pairwise Dice is
taken relative to the pool, so that no threshold has to be known of a new anatomy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

MOST_DROPPED = 0.25
"""No more than this share of the scans is left out, however much is asked for."""


def vote(maps: Sequence[np.ndarray], *, share: float, ignore: int) -> np.ndarray:
    """Return the label map that members agree on.

    Args:
        maps: label values ``(X, Y, Z)`` of each member.
        share: of the members that must agree, in (0.5, 1].
        ignore: value of the voxels on which fewer do.

    Returns:
        ``(X, Y, Z)``, uint8 or the smallest type that holds all values.

    Raises:
        ValueError: no map, maps of several shapes, or a share with which two labels could win.
    """
    if not maps or len({m.shape for m in maps}) > 1 or not 0.5 < share <= 1:
        raise ValueError("maps of one shape and a share above one half are voted on")
    needed = math.ceil(share * len(maps) - 1e-9)  # 2/3 of 3 is 2, whatever rounding makes of it
    values = np.unique(np.concatenate([np.unique(m) for m in maps]))
    out = np.full(maps[0].shape, ignore, np.min_scalar_type(max(ignore, int(values.max()))))
    for value in values:
        out[sum((m == value).astype(np.uint8) for m in maps) >= needed] = value
    return out


def undecided(label: np.ndarray, maps: Sequence[np.ndarray], ignore: int) -> float:
    """Return the share of the voxels that some member calls a structure that nobody decided."""
    called = np.logical_or.reduce([m > 0 for m in maps])
    return float((label[called] == ignore).mean()) if called.any() else 0.0


def agreement(maps: Sequence[np.ndarray]) -> float:
    """Return the mean Dice of all pairs of label maps, each the mean over structures in either.

    Two maps without any structure agree: 1. So does a single map with itself.
    """
    pairs = [alike(a, b) for a, b in combinations(maps, 2)]
    return float(np.mean(pairs)) if pairs else 1.0


def alike(one: np.ndarray, other: np.ndarray, ignore: int | None = None) -> float:
    """Return the mean Dice over the structures in either of two label maps; 1 where none is.

    Args:
        one, other: label values of one shape.
        ignore: value that is no structure: where one map has it, the other's structure is missed.
    """
    structures = set(np.unique(one).tolist()) | set(np.unique(other).tolist())
    dice = []
    for value in sorted(structures - {0, ignore}):
        a, b = one == value, other == value
        dice.append(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))
    return float(np.mean(dice)) if dice else 1.0


def left_out(agreements: Mapping[str, float], drop: float) -> set[str]:
    """Return the ids of the scans on which members agree least.

    Args:
        agreements: of each scan.
        drop: the share of scans to leave out, rounded down; at most `MOST_DROPPED`.
    """
    count = math.floor(min(drop, MOST_DROPPED) * len(agreements) + 1e-9)
    return set(sorted(agreements, key=lambda case: (agreements[case], case))[:count])
