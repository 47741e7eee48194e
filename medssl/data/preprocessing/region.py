"""The part of a scan that training and prediction look at, where a recipe asks for one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from monai.data import MetaTensor

from medssl.data.preprocessing.pipeline import Prepared
from medssl.ops.boxes import Box
from medssl.ops.roi import grow_box


@dataclass(frozen=True)
class Region:
    """A box of one scan.

    Attributes:
        box: ``(start, stop)`` per axis, half-open, in voxels of the scan's file.
        shape: ``(X, Y, Z)`` of the file.
        found: False where the coarse run found nothing and the box is the whole scan.
        least: voxels that the box has at least after preprocessing, where the scan has as many: the
            patch, so that a patch is filled by image and not by padding.
    """

    box: Box
    shape: tuple[int, ...]
    found: bool
    least: tuple[int, ...] = (1, 1, 1)

    @property
    def key(self) -> list[Any]:
        """What decides which voxels are kept."""
        return [self.box, self.shape, self.least]

    @property
    def share(self) -> float:
        """Return the share of the scan that the box holds, in (0, 1]."""
        return math.prod(b - a for a, b in self.box) / math.prod(self.shape)

    def crop(self, prepared: Prepared) -> Prepared:
        """Return a preprocessed scan cropped to the box."""
        shape = prepared.grid.shape
        box = prepared.grid.prepared_box(self.box)
        return prepared.crop(grow_box(box, self.least, shape))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, to be recorded."""
        return {
            "found": self.found,
            "box": [list(side) for side in self.box],
            "shape": list(self.shape),
            "share": round(self.share, 4),
        }


class Regions(Protocol):
    """Finds the region of interest of a scan, as a coarse run can."""

    @property
    def fingerprint(self) -> str:
        """A hash of everything that decides the region of a scan."""

    def find(self, files: Sequence[Path], image: MetaTensor | None = None) -> Region:
        """Return the region of a scan: its files, and its voxels if the files are no images."""


def median_share(regions: Iterable[Region]) -> float:
    """Return the median share of a scan that its region holds."""
    return float(np.median([r.share for r in regions]))
