"""Which case, and which slice of it, a patch is cut from: every item once in an epoch."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from medssl.data.datasets.case import IGNORE_INDEX, CachedCase
from medssl.errors import MedSSLError

_ORDER = 1


class Items:
    """The items of a stream: its cases, or for 2D patches the slices of its cases.

    Each epoch visits every item once in a new order.

    Args:
        cases: cached cases.
        slice_axis: axis across the slices; None for volumes.
        annotated: leave out slices without any annotated voxel.

    Raises:
        MedSSLError: no slice of any case is annotated.
    """

    def __init__(
        self, cases: Sequence[CachedCase], slice_axis: int | None, *, annotated: bool
    ) -> None:
        counts = [1 if slice_axis is None else case.shape[slice_axis] for case in cases]
        self._slices: list[np.ndarray] | None = None
        if annotated and slice_axis is not None:
            self._slices = [_annotated_slices(case, slice_axis) for case in cases]
            counts = [len(slices) for slices in self._slices]
        self._ends = np.cumsum(counts)
        if not len(self):
            raise MedSSLError(
                f"no slice of the {len(cases)} labeled cases holds an annotated voxel",
                fix="choose other labeled cases, or check the ignore value of dataset.json",
            )

    def __len__(self) -> int:
        """Return how many items an epoch has."""
        return int(self._ends[-1])

    def at(self, number: int, *, seed: int, stream: str) -> tuple[int, int]:
        """Return the case index and slice (0 for volumes) of patch ``number`` of a stream."""
        epoch, position = divmod(number, len(self))
        item = int(_order(seed, stream, epoch, len(self))[position])
        case = int(np.searchsorted(self._ends, item, side="right"))
        position = item - int(self._ends[case - 1] if case else 0)
        return case, position if self._slices is None else int(self._slices[case][position])


def generator(seed: int, stream: str, purpose: int, number: int) -> np.random.Generator:
    """Return the generator of one address."""
    key = [seed, zlib.crc32(stream.encode()), purpose, number]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


@lru_cache(maxsize=16)
def _order(seed: int, stream: str, epoch: int, count: int) -> np.ndarray:
    return generator(seed, stream, _ORDER, epoch).permutation(count)


def _annotated_slices(case: CachedCase, slice_axis: int) -> np.ndarray:
    """Return the indices of the slices of a case that hold an annotated voxel."""
    others = tuple(a for a in range(3) if a != slice_axis)
    return np.flatnonzero((np.asarray(case.label) != IGNORE_INDEX).any(axis=others))
