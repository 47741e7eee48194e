"""How large the structures of a label map are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from medssl.data.datasets.case import LabelMap
from medssl.data.images.geometry import MM_PER_UNIT, Unit


@dataclass(frozen=True)
class Volumes:
    """The volume of each structure of a label map.

    Attributes:
        unit: spatial unit, ``mm`` or ``um``; volumes are in its cube.
        structures: label (of a region ``1+2+3``), name and volume, in the dataset's order; 0 where
            there is none.
    """

    unit: str
    structures: tuple[tuple[int | str, str, float], ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the content as plain values, for JSON."""
        rows = [{"label": v, "name": name, "volume": size} for v, name, size in self.structures]
        return {"unit": self.unit, "structures": rows}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Volumes:
        """Read back what :meth:`as_dict` gave.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        rows = content["structures"]
        structures = ((_label(r["label"]), str(r["name"]), float(r["volume"])) for r in rows)
        return cls(str(content["unit"]), tuple(structures))


def volumes_of(values: np.ndarray, affine: np.ndarray, labels: LabelMap, unit: Unit) -> Volumes:
    """Measure the structures of a label map.

    Args:
        values: label values ``(X, Y, Z)``.
        affine: voxel to world, in mm.
        labels: the structures there can be.
        unit: of the volumes.
    """
    voxel = abs(float(np.linalg.det(affine[:3, :3]))) / MM_PER_UNIT[unit] ** 3
    known = list(labels.values[1:])
    counts = np.zeros(len(known), dtype=np.int64)
    for piece in values:  # slice by slice: counting copies to int64
        found = np.bincount(piece.ravel(), minlength=max(known, default=0) + 1)
        counts += found[known]
    size = dict(zip(known, (voxel * int(n) for n in counts), strict=True))
    return Volumes(
        unit, tuple((s.label, s.name, sum(size[v] for v in s.values)) for s in labels.structures)
    )


def _label(value: Any) -> int | str:
    return value if isinstance(value, str) else int(value)
