"""From the rows of all cases to the numbers one reports, and to the files of ``evaluation/``."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medssl.errors import MedSSLError
from medssl.evaluation.case_metrics import POLICY, case_columns
from medssl.evaluation.coverage import coverage_sentence
from medssl.evaluation.failures import count_failures
from medssl.evaluation.statistics import LEVEL, Interval, mean_interval, nanmean, patient_means
from medssl.evaluation.surface_elements import DEFINITION
from medssl.files import reason_of, write_csv
from medssl.settings.recipe import FAILURE_DICE

SHARES = ("dice", "iou", "nsd")
"""Metrics from 0 to 1, of which more is better; the others are distances."""
INTERVAL = (
    f"{LEVEL:.0%} Student's t over patients, n - 1 degrees of freedom, cut off where a score ends; "
    "none where a structure rests on one patient or all have the same value"
)
"""How the intervals of a summary are made; written with it and printed below every table."""
VOXEL_METRICS = ("hd95_medpy_vox", "asd_medpy_vox")
_TEXT_COLUMNS = ("case", "name", "status")
_STATUSES = ("missed", "false_positive", "absent")


def summarize(
    rows: Sequence[Mapping[str, Any]],
    *,
    patients: Mapping[str, str] | None = None,
    nsd_tolerance: float | None = None,
    failure_dice: float = FAILURE_DICE,
) -> dict[str, Any]:
    """Summarize the rows of `evaluate_case` over patients, per structure and overall.

    A patient's value is the mean over its cases, so that each patient counts once. A structure's
    mean runs over the patients that have a value (in a case that is not ``absent``); the overall
    mean is the mean of the structures' means. Standard deviation and median run over cases, overall
    over the cases' own means over structures. Intervals: see
    :mod:`medssl.evaluation.statistics`; the overall mean takes its degrees of freedom from the
    structure that fewest patients have, and has no interval where that is one.

    Args:
        rows: rows of any number of cases, with the same columns.
        patients: patient of each case; by default the row's key ``patient`` if it has one, else
            every case is its own patient.
        nsd_tolerance: the tolerance the rows were made with; recorded and shown, nothing else.
        failure_dice: patients below it are counted as failures.

    Returns:
        A mapping with ``policy``, ``unit``, ``nsd_tolerance``, ``nsd_definition`` (summaries of
        earlier versions, which counted voxels, have none), ``interval`` (how it is made),
        ``coverage`` (how often such intervals held the truth in simulations, in a sentence),
        ``n_cases``, ``n_patients``, ``structures`` (name -> entry) and ``overall`` (an entry). An
        entry has ``n`` (cases with a value), ``n_missed``, ``n_false_positive``, ``n_absent``,
        ``failures`` (see :class:`medssl.evaluation.failures.Failures`) and ``metrics``: per metric
        ``mean``, ``std`` (n - 1), ``median``, ``low`` and ``high``, NaN where undefined, ``n``
        (patients with a value) and ``no_interval`` (why there is none, or empty). A structure's
        entry also has its ``label`` value.

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
    for metric in metrics:
        values = np.array([[row[metric] for row in line] for line in grid], dtype=np.float64)
        own = patient_means(values, groups)
        bounds = (0.0, 1.0 if metric in SHARES else math.inf)
        for index, entry in enumerate(entries.values()):
            interval = mean_interval(own[:, index], bounds=bounds)
            entry["metrics"][metric] = _describe(values[:, index], interval)
            if metric == "dice":
                entry["failures"] = count_failures(own[:, index], failure_dice).as_dict()
        found = mean_over_structures(own, bounds)
        overall["metrics"][metric] = _describe(nanmean(values, axis=1), found)
        if metric == "dice":
            overall["failures"] = count_failures(nanmean(own, axis=1), failure_dice).as_dict()
    return {
        "policy": POLICY,
        "unit": unit,
        "nsd_tolerance": nsd_tolerance,
        "nsd_definition": DEFINITION,
        "interval": INTERVAL,
        "coverage": coverage_sentence(len(set(groups))),
        "n_cases": len(cases),
        "n_patients": len(set(groups)),
        "structures": entries,
        "overall": overall,
    }


def mean_over_structures(values: np.ndarray, bounds: tuple[float, float]) -> Interval:
    """Return the mean of the structures' means over patients, with its interval.

    Where all patients have all structures, that is the mean of the patients' own means. Where some
    lack one, a patient counts by how far it moves the mean of each structure it has, which are the
    jackknife's values (:func:`medssl.evaluation.statistics.jackknife_values`).

    Args:
        values: ``(patients, structures)``, NaN where a patient has no value.
        bounds: smallest and largest possible value.
    """
    counts = np.isfinite(values).sum(0)
    values, counts = values[:, counts > 0], counts[counts > 0]
    values = values[np.isfinite(values).any(1)]
    n = len(values)
    if not n:
        return mean_interval([])
    means = nanmean(values, axis=0)
    fewest = int(counts.min())
    if fewest < 2:
        why = "a structure rests on one patient" if n > 1 else "a value of one patient only"
        return Interval(float(means.mean()), math.nan, math.nan, n, LEVEL, why)
    moved = (n - 1) / (counts - 1) * np.where(np.isfinite(values), values - means, 0.0)
    own = means.mean() + moved.mean(1)
    return mean_interval(own, center=float(means.mean()), freedom=fewest - 1, bounds=bounds)


def write_cases_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the rows to ``cases.csv``, whole or not at all; a missing value is an empty cell.

    Raises:
        ValueError: there is no row.
        MedSSLError: the file cannot be written.
    """
    unit, metrics = _columns_of(rows)
    columns = case_columns(unit, voxel_metrics=VOXEL_METRICS[0] in metrics)
    write_csv(path, rows, columns=columns)


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
        options = [(unit, voxel) for unit in ("mm", "um") for voxel in (False, True)]
        expected = {tuple(case_columns(u, voxel_metrics=v)) for u, v in options}
        if tuple(columns) not in expected:
            raise ValueError(f"its columns are {', '.join(columns[:6]) or 'missing'}")
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise MedSSLError(
            f"this is not a table of per-case results: {reason_of(error)}",
            where=path,
            fix="run `medssl evaluate` again to write it",
        ) from error
    return rows


def _columns_of(rows: Sequence[Mapping[str, Any]]) -> tuple[str, list[str]]:
    """Return the unit and the metric columns of the rows."""
    if not rows:
        raise ValueError("no case was evaluated: there is nothing to summarize")
    unit = next(k[5:] for k in rows[0] if k.startswith("hd95_") and k not in VOXEL_METRICS)
    voxel = VOXEL_METRICS if VOXEL_METRICS[0] in rows[0] else ()
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


def _describe(values: np.ndarray, interval: Interval) -> dict[str, Any]:
    values = values[np.isfinite(values)]
    return {
        "mean": interval.mean,
        "std": float(values.std(ddof=1)) if values.size > 1 else math.nan,
        "median": float(np.median(values)) if values.size else math.nan,
        "low": interval.low,
        "high": interval.high,
        "n": interval.n,
        "no_interval": interval.none,
    }


def _parse(key: str, value: str) -> Any:
    if key in _TEXT_COLUMNS:
        return value
    if key == "label":
        return int(value) if value.isdecimal() else value  # a region: 1+2+3
    return float(value or "nan")
