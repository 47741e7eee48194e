"""The rows of ``cases.csv``: every metric of every structure of one case."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import find_objects

from medssl.data.datasets.case import IGNORE_INDEX, LabelMap
from medssl.data.images.geometry import Unit
from medssl.evaluation.overlap import confusion_matrix, dice_and_iou, of_structures
from medssl.evaluation.surface import (
    SurfaceDistances,
    asd_medpy,
    assd,
    hd95,
    hd95_medpy,
    point_distances,
    surface_points,
)
from medssl.evaluation.surface_elements import nsd, surface_elements

POLICY = """\
missed (only in the reference) and false_positive (only predicted): Dice, IoU
and NSD are 0, distances the image diagonal; both count and stay in every mean.
absent (in neither): no value, left out of the means, counted. Voxels without
annotation are removed from both sides before anything is measured."""
"""What a structure scores where prediction or reference is empty; printed with every table."""


@dataclass(frozen=True)
class Measures:
    """What is measured, and in what unit.

    Attributes:
        nsd_tolerance: surface tolerance, in ``unit``.
        unit: of all distances, ``mm`` or ``um``; part of the column names.
        voxel_metrics: add ``hd95_medpy_vox`` and ``asd_medpy_vox``, the medpy definitions on
            voxels of size 1, as the semi-supervised literature reports them.
        legacy_zero: score those two as 0 for a missed structure, as the literature's scripts do.
            It rewards missing a structure; only for comparison with published numbers.
    """

    nsd_tolerance: float
    unit: Unit = "mm"
    voxel_metrics: bool = False
    legacy_zero: bool = False


def distance_columns(unit: str = "mm") -> tuple[str, str]:
    """Return the names of the two distance columns in a unit: HD95 and ASSD."""
    return f"hd95_{unit}", f"assd_{unit}"


def case_columns(unit: str = "mm", *, voxel_metrics: bool = False) -> list[str]:
    """Return the columns of ``cases.csv``, in order.

    Args:
        unit: spatial unit of the dataset, ``mm`` or ``um``; part of the names.
        voxel_metrics: append the literature's metrics in voxels.
    """
    hd95_column, assd_column = distance_columns(unit)
    columns = ["case", "label", "name", "dice", "iou", hd95_column, assd_column, "nsd"]
    columns += [f"volume_reference_{unit}3", f"volume_prediction_{unit}3", "status"]
    return columns + (["hd95_medpy_vox", "asd_medpy_vox"] if voxel_metrics else [])


def evaluate_case(
    prediction: np.ndarray,
    reference: np.ndarray,
    measures: Measures,
    *,
    spacing: Sequence[float],
    label_map: LabelMap,
    case_id: str,
) -> list[dict[str, Any]]:
    """Measure every structure of one case on its own grid: classes, or regions of several.

    Voxels where the reference is ``IGNORE_INDEX`` are removed from both maps first: they count
    neither as hit nor as error, add no volume, and where they cut through a structure the cut is a
    surface of prediction and reference alike. What an empty prediction or reference scores:
    ``POLICY``. Axes of length 1 are ignored for distances. Of a 2D case the volumes are areas.

    Args:
        prediction: class indices on the native grid, 2D or 3D.
        reference: class indices, same shape; ``IGNORE_INDEX`` where not annotated.
        measures: what is measured.
        spacing: voxel size along each axis, in the unit of ``measures``.
        label_map: the structures; the background gets no row.
        case_id: goes into the column ``case``.

    Returns:
        One row per structure with the keys of `case_columns`; ``label`` of a region of several
        values is a text such as ``1+2+3``.

    Raises:
        ValueError: shapes or spacing do not fit, or a value is no class index.
    """
    _check(prediction, reference, spacing, measures.nsd_tolerance)
    prediction, reference = _as_integers(prediction), _as_integers(reference)
    confusion = confusion_matrix(prediction, reference, label_map.num_classes)
    members = [label_map.classes_of(structure) for structure in label_map.structures]
    counts = of_structures(confusion, members)
    dice, iou = dice_and_iou(counts)
    voxel, unit = math.prod(spacing), measures.unit
    surfaces = _Surfaces(prediction, reference, spacing, label_map.num_classes)
    rows = []
    for index, structure in enumerate(label_map.structures):
        _, n_reference, n_prediction = map(int, counts[index])
        status = _status(n_reference, n_prediction)
        row = {
            "case": case_id,
            "label": structure.label,
            "name": structure.name,
            "dice": float(dice[index]),
            "iou": float(iou[index]),
        }
        volumes = {
            f"volume_reference_{unit}3": float(n_reference * voxel),
            f"volume_prediction_{unit}3": float(n_prediction * voxel),
        }
        near, in_voxels = _distances(surfaces, members[index], status, measures)
        rows.append({**row, **near, **volumes, "status": status, **in_voxels})
    return rows


def _distances(
    surfaces: _Surfaces, structure: Classes, status: str, measures: Measures
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the columns of one structure about its surface: in the unit, and in voxels."""
    distances = surfaces.distances(structure) if status == "ok" else None
    within = surfaces.nsd(structure, measures.nsd_tolerance) if status == "ok" else None
    values = _surface_values(distances, within, status, surfaces.diagonal)
    near = dict(zip((*distance_columns(measures.unit), "nsd"), values, strict=True))
    if not measures.voxel_metrics:
        return near, {}
    voxels = surfaces.distances_in_voxels(structure) if distances else None
    zero = measures.legacy_zero and status == "missed"
    worst = 0.0 if zero else surfaces.diagonal_in_voxels
    pair = _voxel_values(voxels, status, worst)
    return near, dict(zip(("hd95_medpy_vox", "asd_medpy_vox"), pair, strict=True))


Classes = tuple[int, ...]
"""Class indices of a structure."""


class _Surfaces:
    """The surfaces of both maps, one structure after another, each found in its bounding box."""

    def __init__(
        self,
        prediction: np.ndarray,
        reference: np.ndarray,
        spacing: Sequence[float],
        num_classes: int,
    ) -> None:
        self.diagonal = math.hypot(*(n * s for n, s in zip(reference.shape, spacing, strict=True)))
        self.diagonal_in_voxels = math.hypot(*reference.shape)
        axes = [axis for axis, size in enumerate(reference.shape) if size > 1] or [0]
        kept = tuple(slice(None) if axis in axes else 0 for axis in range(reference.ndim))
        self._spacing = [float(spacing[axis]) for axis in axes]
        ignored = reference == IGNORE_INDEX
        if ignored.any():
            prediction, reference = (
                np.where(ignored, 0, prediction),
                np.where(ignored, 0, reference),
            )
        self._maps = [prediction[kept], reference[kept]]
        self._boxes = [find_objects(m, max_label=num_classes - 1) for m in self._maps]
        self._points: dict[Classes, tuple[np.ndarray, np.ndarray]] = {}

    def distances(self, structure: Classes) -> SurfaceDistances:
        """Distances of one structure in physical units; both maps must hold it."""
        self._points = {structure: (self._find(0, structure), self._find(1, structure))}
        return point_distances(*self._points[structure], self._spacing)

    def distances_in_voxels(self, structure: Classes) -> SurfaceDistances:
        """Distances of the structure last asked for, on voxels of size 1."""
        return point_distances(*self._points[structure], [1.0] * len(self._spacing))

    def nsd(self, structure: Classes, tolerance: float) -> float:
        """Surface Dice of one structure; both maps must hold it."""
        pieces = [
            surface_elements(mask, self._spacing, start)
            for mask, start in (self._crop(which, structure) for which in (0, 1))
        ]
        return nsd(pieces[0], pieces[1], self._spacing, tolerance)

    def _find(self, which: int, structure: Classes) -> np.ndarray:
        return surface_points(*self._crop(which, structure))

    def _crop(self, which: int, structure: Classes) -> tuple[np.ndarray, list[int]]:
        """Return the mask of a structure within its box, and where the box starts."""
        found = [box for i in structure if (box := self._boxes[which][i - 1]) is not None]
        box = tuple(
            slice(min(s.start for s in along), max(s.stop for s in along))
            for along in zip(*found, strict=True)
        )
        inside = self._maps[which][box]
        mask = inside == structure[0] if len(structure) == 1 else np.isin(inside, structure)
        return mask, [s.start for s in box]


def _as_integers(array: np.ndarray) -> np.ndarray:
    return array.astype(np.uint8) if array.dtype == bool else array


def _status(n_reference: int, n_prediction: int) -> str:
    if n_reference:
        return "ok" if n_prediction else "missed"
    return "false_positive" if n_prediction else "absent"


def _surface_values(
    distances: SurfaceDistances | None, within: float | None, status: str, worst: float
) -> tuple[float, float, float]:
    """Return HD95, ASSD and NSD of one structure under the policy for empty ones."""
    if distances is not None and within is not None:
        return hd95(distances), assd(distances), within
    return (math.nan,) * 3 if status == "absent" else (worst, worst, 0.0)


def _voxel_values(
    distances: SurfaceDistances | None, status: str, worst: float
) -> tuple[float, float]:
    if distances is not None:
        return hd95_medpy(distances), asd_medpy(distances)
    return (math.nan,) * 2 if status == "absent" else (worst, worst)


def _check(
    prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float], tolerance: float
) -> None:
    if prediction.shape != reference.shape or len(spacing) != reference.ndim:
        raise ValueError(
            f"prediction {prediction.shape}, reference {reference.shape} and spacing "
            f"{tuple(spacing)} do not fit together"
        )
    if not all(math.isfinite(s) and s > 0 for s in spacing):
        raise ValueError(f"spacing must be positive, got {tuple(spacing)}")
    if not tolerance >= 0:
        raise ValueError(f"nsd_tolerance must not be negative, got {tolerance}")
    for name, array in (("prediction", prediction), ("reference", reference)):
        if not (np.issubdtype(array.dtype, np.integer) or array.dtype == bool):
            raise ValueError(f"{name} must hold integers, got {array.dtype}")
