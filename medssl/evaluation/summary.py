"""From the rows of all cases to the numbers one reports, and to the files of ``evaluation/``."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medssl.errors import MedSSLError
from medssl.evaluation.case_metrics import POLICY, case_columns
from medssl.evaluation.statistics import bootstrap_means, percentile_interval

if TYPE_CHECKING:
    from rich.table import Table

_LEVEL = 0.95
_RESAMPLES = 10000
_VOXEL_METRICS = ("hd95_medpy_vox", "asd_medpy_vox")
_TEXT_COLUMNS = ("case", "name", "status")
_STATUSES = ("missed", "false_positive", "absent")
_COUNTS = {
    "n": "n",
    "n_missed": "missed",
    "n_false_positive": "false\npos.",
    "n_absent": "absent",
}


def summarize(
    rows: Sequence[Mapping[str, Any]],
    *,
    seed: int = 0,
    patients: Mapping[str, str] | None = None,
    nsd_tolerance: float | None = None,
) -> dict[str, Any]:
    """Summarize the rows of `evaluate_case` over cases, per structure and overall.

    A structure's mean runs over the cases that have a value (all but ``absent``); the overall mean
    is the mean of the structures' means. The overall standard deviation and median run over the
    cases' own means over structures. Intervals: 95 % percentile bootstrap over patients; a resample
    without any case of a structure averages the others.

    Args:
        rows: rows of any number of cases, with the same columns.
        seed: seed of the bootstrap.
        patients: patient of each case; by default the row's key ``patient`` if it has one, else
            every case is its own patient.
        nsd_tolerance: the tolerance the rows were made with; recorded and shown, nothing else.

    Returns:
        A mapping with ``policy``, ``unit``, ``nsd_tolerance``, ``interval`` (how it was made),
        ``n_cases``, ``n_patients``, ``structures`` (name -> entry) and ``overall`` (an entry). An
        entry has ``n`` (cases with a value), ``n_missed``, ``n_false_positive``, ``n_absent`` and
        ``metrics``: per metric ``mean``, ``std`` (n - 1), ``median``, ``low`` and ``high``, NaN
        where undefined. A structure's entry also has its ``label`` value.

    Raises:
        ValueError: there is no row, two rows are of the same case and structure, or cases do not
            hold the same structures.
    """
    unit, metrics = _columns_of(rows)
    cases, structures, grid = _grid(rows)
    owner = _patients(rows, patients)
    groups = [owner[case] for case in cases]
    entries: dict[str, dict[str, Any]] = {}
    for (label, name), column in zip(structures, grid.T, strict=True):
        entries[name] = {"label": label, **_counts(column), "metrics": {}}
    overall: dict[str, Any] = {**_counts(grid.ravel()), "metrics": {}}
    overall["n"] = len({row["case"] for row in grid.ravel() if row["status"] != "absent"})
    n_patients = len(set(groups))
    for metric in metrics:
        values = np.array([[row[metric] for row in line] for line in grid], dtype=np.float64)
        draws = bootstrap_means(values, groups, n=_RESAMPLES, seed=seed)
        for index, entry in enumerate(entries.values()):
            entry["metrics"][metric] = _describe(values[:, index], draws[:, index], n_patients)
        per_case = _nanmean(values, axis=1)
        described = _describe(per_case, _nanmean(draws, axis=1), n_patients)
        described["mean"] = float(_nanmean(_nanmean(values, axis=0), axis=0))
        overall["metrics"][metric] = described
    return {
        "policy": POLICY,
        "unit": unit,
        "nsd_tolerance": nsd_tolerance,
        "interval": f"{_LEVEL:.0%} bootstrap over patients, {_RESAMPLES} resamples, seed {seed}",
        "n_cases": len(cases),
        "n_patients": n_patients,
        "structures": entries,
        "overall": overall,
    }


def write_cases_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the rows to ``cases.csv``, whole or not at all; a missing value is an empty cell.

    Raises:
        ValueError: there is no row.
        MedSSLError: the file cannot be written.
    """
    unit, metrics = _columns_of(rows)
    columns = case_columns(unit, voxel_metrics=_VOXEL_METRICS[0] in metrics)
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row[column]) for column in columns] for row in rows)
    write_text(path, buffer.getvalue())


def read_cases_csv(path: Path) -> list[dict[str, Any]]:
    """Read the rows that `write_cases_csv` wrote; empty cells become NaN.

    Raises:
        MedSSLError: the file is missing or is not such a table.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows = [{key: _parse(key, value) for key, value in row.items()} for row in reader]
        columns = list(reader.fieldnames or [])
        expected = {tuple(case_columns(u, voxel_metrics=v)) for u in ("mm", "um") for v in (0, 1)}
        if tuple(columns) not in expected:
            raise ValueError(f"its columns are {', '.join(columns[:6]) or 'missing'}")
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise MedSSLError(
            f"this is not a table of per-case results: {_reason(error)}",
            where=path,
            fix="run `medssl evaluate` again to write it",
        ) from error
    return rows


def write_summary_json(summary: Mapping[str, Any], path: Path) -> None:
    """Write the summary as strict JSON (NaN becomes null), whole or not at all.

    Raises:
        MedSSLError: the file cannot be written.
    """
    write_text(path, json.dumps(_without_nan(summary), indent=2, allow_nan=False) + "\n")


def format_table(summary: Mapping[str, Any], *, title: str | None = None) -> Table:
    """Lay the summary out for the terminal: a line per structure, the policy below.

    Dice comes with its interval; the other intervals are in the JSON. Columns of counts that are
    zero throughout are left out, but for the missed structures. Fits on 80 columns (with the voxel
    metrics, false positives and absent structures together it needs 96).
    """
    from rich import box
    from rich.table import Table

    entries = [*summary["structures"].items(), ("mean", summary["overall"])]
    metrics = list(summary["overall"]["metrics"])
    counts = [k for k in _COUNTS if k in ("n", "n_missed") or summary["overall"][k]]
    caption = f"{summary['policy']}\n[ ]: {summary['interval']}."
    table = Table(title=title, caption=caption, caption_justify="left", box=box.SIMPLE_HEAD)
    table.padding, table.pad_edge, table.show_edge = (0, 1, 0, 0), False, False
    table.add_column("structure", overflow="fold", min_width=9)
    for heading in [_heading(m, summary) for m in metrics] + [_COUNTS[k] for k in counts]:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, entry in entries:
        if entry is summary["overall"]:
            table.add_section()
        values = [_metric_text(m, entry["metrics"][m]) for m in metrics]
        table.add_row(name, *values, *(str(entry[key]) for key in counts))
    return table


def _columns_of(rows: Sequence[Mapping[str, Any]]) -> tuple[str, list[str]]:
    """Return the unit and the metric columns of the rows."""
    if not rows:
        raise ValueError("no case was evaluated: there is nothing to summarize")
    unit = next(k[5:] for k in rows[0] if k.startswith("hd95_") and k not in _VOXEL_METRICS)
    voxel = _VOXEL_METRICS if _VOXEL_METRICS[0] in rows[0] else ()
    return unit, ["dice", "iou", f"hd95_{unit}", f"assd_{unit}", "nsd", *voxel]


def _grid(
    rows: Sequence[Mapping[str, Any]],
) -> tuple[list[str], list[tuple[int, str]], np.ndarray]:
    """Arrange the rows as ``(cases, structures)``."""
    cases = list(dict.fromkeys(row["case"] for row in rows))
    structures = list(dict.fromkeys((row["label"], row["name"]) for row in rows))
    cells = {(row["case"], (row["label"], row["name"])): row for row in rows}
    if len(cells) != len(rows) or len(rows) != len(cases) * len(structures):
        raise ValueError(
            f"{len(rows)} rows of {len(cases)} cases and {len(structures)} structures: expected "
            "each structure once in each case"
        )
    grid = np.empty((len(cases), len(structures)), dtype=object)
    for i, case in enumerate(cases):
        for j, structure in enumerate(structures):
            grid[i, j] = cells[case, structure]
    return cases, structures, grid


def _patients(
    rows: Iterable[Mapping[str, Any]], patients: Mapping[str, str] | None
) -> dict[str, str]:
    given = patients or {}
    return {row["case"]: given.get(row["case"], row.get("patient", row["case"])) for row in rows}


def _counts(cells: np.ndarray) -> dict[str, int]:
    counts = {f"n_{s}": sum(row["status"] == s for row in cells) for s in _STATUSES}
    return {"n": len(cells) - counts["n_absent"], **counts}


def _describe(values: np.ndarray, draws: np.ndarray, n_patients: int) -> dict[str, float]:
    values = values[np.isfinite(values)]
    low, high = percentile_interval(draws, _LEVEL, n_groups=n_patients)
    return {
        "mean": float(values.mean()) if values.size else math.nan,
        "std": float(values.std(ddof=1)) if values.size > 1 else math.nan,
        "median": float(np.median(values)) if values.size else math.nan,
        "low": low,
        "high": high,
    }


def _nanmean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean ignoring NaN, NaN (and no warning) where nothing is left."""
    present = np.isfinite(values)
    total, count = np.where(present, values, 0.0).sum(axis), present.sum(axis)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6f}".rstrip("0").rstrip(".")
    return value


def _parse(key: str, value: str) -> Any:
    if key in _TEXT_COLUMNS:
        return value
    return int(value) if key == "label" else float(value or "nan")


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _heading(metric: str, summary: Mapping[str, Any]) -> str:
    name, _, rest = metric.partition("_")
    if metric in _VOXEL_METRICS:
        return f"{name.upper()}\nmedpy\nvox"
    if metric == "nsd" and summary["nsd_tolerance"] is not None:
        return f"NSD\n{summary['nsd_tolerance']:g} {summary['unit']}"
    title = {"dice": "Dice", "iou": "IoU"}.get(name, name.upper())
    return f"{title}\n{rest}" if rest else title


def _metric_text(metric: str, entry: Mapping[str, float]) -> str:
    digits = 3 if metric in ("dice", "iou", "nsd") else 2
    mean, low, high = (_number(entry[key], digits) for key in ("mean", "low", "high"))
    return f"{mean}\n[{low} {high}]" if metric == "dice" and low != "-" else mean


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        MedSSLError: the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8", newline="")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise MedSSLError(
            f"the results cannot be written: {_reason(error)}",
            where=path,
            fix="choose an output folder with space that you may write to",
        ) from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
