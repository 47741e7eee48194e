"""Figures of a structure, defined as PyRadiomics defines them.

Voxel volume, mesh volume, surface area and largest 3D diameter are those of its shape features: of
the mesh of marching cubes, whose vertices also say how far two points are apart. Mean and standard
deviation are those of its first-order features: over all voxels, the deviation with N below.

Source: van Griethuysen et al., Computational Radiomics System to Decode the Radiographic Phenotype,
Cancer Research (2017), and the definitions that its documentation prints.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medssl.data.datasets.case import LabelMap
from medssl.data.images.geometry import MM_PER_UNIT, Unit
from medssl.files import locked, write_csv, write_json
from medssl.structures.mesh import Mesh, mesh_of

FOLDER = "statistics"


def structure_statistics(
    mask: np.ndarray, affine: np.ndarray, channels: Sequence[np.ndarray], unit: Unit = "mm"
) -> dict[str, float]:
    """Return the figures of one structure.

    Args:
        mask: boolean ``(X, Y, Z)``.
        affine: ``(4, 4)`` voxel to world, in mm.
        channels: intensities ``(X, Y, Z)``, one array per channel.
        unit: of lengths in the result.

    Returns:
        ``voxels``, ``voxel_volume_UNIT3``, ``mesh_volume_UNIT3``, ``surface_area_UNIT2``,
        ``maximum_3d_diameter_UNIT``, ``mean`` and ``standard_deviation`` (with more than one
        channel ``mean_1`` and so on). Of an empty structure volumes and area are 0, the rest NaN.
    """
    scale = 1 / MM_PER_UNIT[unit]
    affine = np.diag([scale, scale, scale, 1.0]) @ affine
    count = int(np.count_nonzero(mask))
    mesh = mesh_of(mask, affine)
    found = {
        "voxels": float(count),
        f"voxel_volume_{unit}3": count * abs(float(np.linalg.det(affine[:3, :3]))),
        f"mesh_volume_{unit}3": mesh.volume,
        f"surface_area_{unit}2": mesh.area,
        f"maximum_3d_diameter_{unit}": largest_diameter(mesh),
    }
    for number, channel in enumerate(channels, start=1):
        suffix = f"_{number}" if len(channels) > 1 else ""
        values = channel[mask].astype(np.float64)
        found[f"mean{suffix}"] = float(values.mean()) if count else math.nan
        found[f"standard_deviation{suffix}"] = float(values.std()) if count else math.nan
    return found


def largest_diameter(mesh: Mesh) -> float:
    """Return the largest distance of two vertices; NaN of an empty mesh.

    The two lie on the convex hull, which has few of them.
    """
    from scipy.spatial import ConvexHull
    from scipy.spatial.distance import cdist

    if not len(mesh.vertices):
        return math.nan
    hull = mesh.vertices[ConvexHull(mesh.vertices).vertices]
    pieces = np.array_split(hull, 1 + len(hull) // 1000)
    return max(float(cdist(piece, hull).max()) for piece in pieces)


def statistics_of(
    values: np.ndarray,
    affine: np.ndarray,
    channels: Sequence[np.ndarray],
    labels: LabelMap,
    unit: Unit = "mm",
) -> list[dict[str, Any]]:
    """Return the figures of each structure of a label map, in the dataset's order."""
    return [
        {"label": one.label, "name": one.name}
        | structure_statistics(one.mask(values), affine, channels, unit)
        for one in labels.structures
    ]


def statistics_file(output: Path, case_id: str) -> Path:
    """Return where the figures of a case are written."""
    return output / FOLDER / f"{case_id}.json"


def write_table(output: Path) -> None:
    """Write ``statistics.csv`` and ``statistics.json`` about all cases whose figures are there.

    Several processes may write into one folder: the last one tells what all have found.

    Raises:
        MedSSLError: the disk refuses.
    """
    folder = output / FOLDER
    if not folder.is_dir():
        return
    with locked(output / ".statistics.lock", stays=False):
        cases: dict[str, list[dict[str, Any]]] = {}
        for path in sorted(folder.glob("*.json")):
            try:
                cases[path.stem] = list(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError):  # of another hand, or being removed
                continue
        rows = [{"case": case, **row} for case, found in cases.items() for row in found]
        if rows:
            columns = list(dict.fromkeys(key for row in rows for key in row))
            write_csv(output / "statistics.csv", rows, columns=columns)
            write_json(output / "statistics.json", cases)
