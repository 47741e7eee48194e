"""The error of the boundaries between ordered layers, the clinical figure for retinal layers.

Labels count up with depth: background (0) above, then the layers, as classes 1, 2, ...; background
below their middle is taken as one more. Boundary ``b`` is the upper face of layer ``b``. In each
A-scan (a column along the depth) its position is the number of voxels above it that belong to
layers less than ``b``, so that a stray voxel moves it by one voxel and no more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medssl.data.datasets.case import IGNORE_INDEX, LabelMap
from medssl.evaluation.statistics import mean_interval, patient_means
from medssl.files import write_csv

if TYPE_CHECKING:
    from rich.table import Table

MAX_UNORDERED = 0.05
"""Share of the A-scans of a reference whose layers may be out of order."""


@dataclass(frozen=True)
class Depth:
    """How depth runs through an image.

    Attributes:
        axis: along the depth.
        direction: 1 if the depth grows along the axis, -1 if it falls.
        spacing: voxel size along the depth, in the dataset's unit.
    """

    axis: int
    direction: int
    spacing: float


def boundary_columns(unit: str) -> list[str]:
    """Return the columns of ``boundaries.csv``, in order."""
    figures = [f"{name}_{unit}" for name in ("mae", "bias", "max")]
    return ["case", "boundary", "name", *figures, "a_scans"]


def evaluate_boundaries(
    prediction: np.ndarray,
    reference: np.ndarray,
    depth: Depth,
    *,
    label_map: LabelMap,
    case_id: str,
    unit: str,
) -> list[dict[str, Any]]:
    """Measure every boundary of one case, over the A-scans whose reference shows it.

    An A-scan without annotation (any voxel ``IGNORE_INDEX``) or with reference layers out of order
    counts for no boundary. A layer that a prediction lacks has its boundary at the next one, or at
    the lower end of the image.

    Args:
        prediction: class indices, 2D or 3D.
        reference: class indices, same shape.
        depth: how it runs through both.
        label_map: the layers, from above.
        case_id: goes into the column ``case``.
        unit: part of the column names.

    Returns:
        One row per boundary: mean absolute, mean signed (positive: predicted too deep) and largest
        absolute error, NaN without any A-scan, and the number of A-scans.

    Raises:
        ValueError: the reference's labels are no ordered layers.
    """
    last = label_map.num_classes
    truth, wrong_order = _ordered(_columns(reference, depth), last)
    annotated = (truth != IGNORE_INDEX).all(axis=0)
    share = float((wrong_order & annotated).sum()) / max(int(annotated.sum()), 1)
    if share > MAX_UNORDERED:
        raise ValueError(
            f"{share:.0%} of the A-scans have layers that do not count up with depth: labels must "
            "be ordered from the vitreous down for boundaries to be measured"
        )
    guess, _ = _ordered(_columns(prediction, depth), last)
    usable = annotated & ~wrong_order
    rows = []
    for boundary in range(1, last + 1):
        above = (truth < boundary).sum(axis=0)
        seen = usable & (above > 0) & (above < truth.shape[0])
        if boundary == last and not seen.any():
            continue  # nothing lies below the last layer: it reaches the lower end everywhere
        error = ((guess < boundary).sum(axis=0) - above)[seen] * float(depth.spacing)
        figures = (np.abs(error).mean(), error.mean(), np.abs(error).max()) if error.size else ()
        values = [float(v) for v in figures] or [math.nan] * 3
        name = f"bottom of {label_map.names[-1]}"
        if boundary < last:
            name = f"top of {label_map.names[boundary]}"
        row = [case_id, boundary, name, *values, int(seen.sum())]
        rows.append(dict(zip(boundary_columns(unit), row, strict=True)))
    return rows


def _columns(classes: np.ndarray, depth: Depth) -> np.ndarray:
    """Return ``(depth, columns)`` from above to below."""
    columns = np.moveaxis(classes, depth.axis, 0).reshape(classes.shape[depth.axis], -1)
    return columns if depth.direction > 0 else columns[::-1]


def _ordered(columns: np.ndarray, last: int) -> tuple[np.ndarray, np.ndarray]:
    """Number background below the layers as ``last``; tell which columns are out of order."""
    columns = columns.astype(np.int16)
    layers = columns > 0
    passed = layers.cumsum(axis=0, dtype=np.int32)
    # Stray voxels far below do not make what is between them and the layers lie above.
    columns[~layers & (2 * passed > passed[-1])] = last
    return columns, np.asarray((np.diff(columns, axis=0) < 0).any(axis=0))


def summarize_boundaries(
    rows: Sequence[Mapping[str, Any]], patients: Mapping[str, str], *, unit: str
) -> dict[str, Any]:
    """Average each boundary over the patients, with Student's t intervals.

    Returns:
        Boundary name -> ``n`` (cases) and per figure ``mean``, ``low`` and ``high`` (NaN where
        there is no interval) and ``n`` (patients); ``mean`` is the entry of all boundaries
        together.
    """
    cases = list(dict.fromkeys(row["case"] for row in rows))
    names = list(dict.fromkeys(row["name"] for row in rows))
    groups = [patients.get(case, case) for case in cases]
    figures = boundary_columns(unit)[3:-1]
    out: dict[str, Any] = {name: {"n": 0} for name in [*names, "mean"]}
    for figure in figures:
        grid = np.full((len(cases), len(names)), np.nan)
        for row in rows:
            grid[cases.index(row["case"]), names.index(row["name"])] = row[figure]
        whole = np.full((len(cases), 1), np.nan)
        has = np.isfinite(grid).any(axis=1)
        whole[has, 0] = np.nanmean(grid[has], axis=1)
        grid = np.concatenate((grid, whole), axis=1)
        own = patient_means(grid, groups)
        bounds = (-math.inf if figure.startswith("bias") else 0.0, math.inf)
        for index, name in enumerate([*names, "mean"]):
            found = mean_interval(own[:, index], bounds=bounds)
            out[name]["n"] = int(np.isfinite(grid[:, index]).sum())
            ends = {"mean": found.mean, "low": found.low, "high": found.high, "n": found.n}
            out[name][figure] = ends
    return out


def write_boundaries_csv(rows: Sequence[Mapping[str, Any]], path: Path, *, unit: str) -> None:
    """Write the rows, whole or not at all; a missing value is an empty cell.

    Raises:
        MedSSLError: the file cannot be written.
    """
    write_csv(path, rows, columns=boundary_columns(unit))


def format_boundaries(summary: Mapping[str, Any]) -> Table:
    """Lay out what `summarize_boundaries` made for the terminal."""
    from rich import box
    from rich.table import Table

    boundaries, unit = summary["boundaries"], summary["unit"]
    table = Table(box=box.SIMPLE_HEAD, caption_justify="left", padding=(0, 1, 0, 0))
    table.caption = "bias: positive where the boundary is predicted too deep"
    table.add_column("boundary", overflow="fold")
    for heading in (f"error\n{unit}", f"bias\n{unit}", f"largest\n{unit}", "n"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, entry in boundaries.items():
        if name == "mean":
            table.add_section()
        cells = [_figure(entry[f"{key}_{unit}"], key) for key in ("mae", "bias", "max")]
        table.add_row(name, *cells, str(entry["n"]))
    return table


def _figure(values: Mapping[str, float | None], key: str) -> str:
    mean, low, high = (values[k] for k in ("mean", "low", "high"))
    if mean is None or not math.isfinite(mean):
        return "-"
    if key != "mae" or low is None or not math.isfinite(low):
        return f"{mean:.1f}"
    return f"{mean:.1f}\n[{low:.1f} {high:.1f}]"
