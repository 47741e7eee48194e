"""Run folders written by hand, with results of known differences."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from medssl.evaluation.case_metrics import case_columns
from medssl.evaluation.summary import write_cases_csv

NAMES = {"left": 1, "right": 2}


def case_names(number: int) -> list[str]:
    """Return ``c00``, ``c01``, ..."""
    return [f"c{i:02d}" for i in range(number)]


def result_row(case: str, name: str, dice: float | None, unit: str = "mm", **more: Any) -> dict:
    """Return a row of cases.csv; ``dice`` None is a structure that is rightly left out."""
    values: dict[str, Any] = {
        "case": case,
        "label": NAMES[name],
        "name": name,
        "dice": float("nan") if dice is None else dice,
        "iou": float("nan") if dice is None else dice / (2 - dice),
        f"hd95_{unit}": float("nan") if dice is None else 10 * (1 - dice),
        f"assd_{unit}": float("nan") if dice is None else 5 * (1 - dice),
        "nsd": float("nan") if dice is None else dice,
        f"volume_reference_{unit}3": 0.0 if dice is None else 1000.0,
        f"volume_prediction_{unit}3": 0.0 if dice is None else 900.0,
        "status": "absent" if dice is None else "ok",
    }
    return {k: {**values, **more}[k] for k in case_columns(unit)}


def write_run(
    path: Path,
    dice: Mapping[str, Sequence[float | None]],
    *,
    method: str = "supervised",
    seed: int = 0,
    labeled: Sequence[str] = ("l0", "l1"),
    unlabeled: Sequence[str] = ("u0", "u1", "u2"),
    changes: Mapping[str, Any] | None = None,
    rows: Sequence[dict[str, Any]] = (),
    cases: Sequence[str] | None = None,
    unit: str = "mm",
    summary: Mapping[str, Any] | None = None,
    **manifest: Any,
) -> Path:
    """Write a finished run whose test Dice per structure and case is given.

    Args:
        changes: sections laid over the recipe.
        rows: rows that replace those of the same case and structure.
        manifest: fields of manifest.json.
    """
    recipe: dict[str, Any] = {
        "name": path.name,
        "seed": seed,
        "data": {"root": "nowhere", "labeled": len(labeled), "test": 3},
        "network": {"name": "unet", "channels": [4, 8], "strides": [2]},
        "method": {"name": method},
        "training": {"iterations": 100, "patch": [16, 16, 8]},
    }
    for key, value in (changes or {}).items():
        recipe[key] = {**recipe.get(key, {}), **value}
    folder = path / "evaluation" / "test"
    folder.mkdir(parents=True)
    (path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    cases = cases or case_names(len(next(iter(dice.values()))))
    table = {
        (case, name): result_row(case, name, value, unit)
        for name, values in dice.items()
        for case, value in zip(cases, values, strict=True)
    }
    table |= {(row["case"], row["name"]): row for row in rows}
    write_cases_csv([table[c, n] for c in cases for n in dice], folder / "cases.csv")
    fields = {"n_cases": len(cases), "n_patients": len(cases), "nsd_tolerance": 1.0}
    fields |= {"checkpoint": "last", "unit": unit, **(summary or {})}
    (folder / "summary.json").write_text(json.dumps(fields))
    splits = {"labeled": list(labeled), "unlabeled": list(unlabeled), "validation": []}
    (path / "splits.json").write_text(json.dumps(splits))
    facts = {
        "status": "finished",
        "dataset_name": "toy",
        "training_seconds": 50.0,
        "iterations_done": 100,
        "parameters": 2_000_000,
        "peak_memory_bytes": {"host": 3_000_000_000},
        "precision": "fp32",
        "threads": 1,
    }
    (path / "manifest.json").write_text(json.dumps({**facts, **manifest}))
    return path
