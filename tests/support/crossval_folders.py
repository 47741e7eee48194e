"""Finished cross-validations held against each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from helpers import same_bits


def same_folders(one: Path, other: Path) -> None:
    """Compare two finished cross-validations: weights, scores and verdict, apart from the clock."""
    runs = sorted(p.parent.relative_to(one) for p in one.rglob("recipe.yaml"))
    assert runs == sorted(p.parent.relative_to(other) for p in other.rglob("recipe.yaml"))
    for name in runs:
        a, b = (
            torch.load(folder / name / "checkpoints" / "last.pt", weights_only=True)
            for folder in (one, other)
        )
        same_bits(a, b, str(name))
        for file in ("splits.json", "lineage.json", "evaluation/test/cases.csv"):
            assert (one / name / file).read_bytes() == (other / name / file).read_bytes()
    a, b = (json.loads((folder / "crossval.json").read_text()) for folder in (one, other))
    for key in ("folds", "patients", "experiments", "comparisons", "warnings"):
        assert without_times(a[key]) == without_times(b[key]), key
    for file in ("cases.csv", "summary.json"):
        path = Path("evaluation") / "out_of_fold" / file
        assert (one / path).read_bytes() == (other / path).read_bytes()


def same_weights(one: Path, other: Path) -> None:
    """Compare the runs below two folders: weights, cases and scores, bit for bit."""
    runs = sorted(p.parent.relative_to(one) for p in one.rglob("manifest.json"))
    assert runs == sorted(p.parent.relative_to(other) for p in other.rglob("manifest.json"))
    for name in runs:
        a, b = (
            torch.load(folder / name / "checkpoints" / "last.pt", weights_only=True)
            for folder in (one, other)
        )
        same_bits(a, b, str(name))
        for file in ("splits.json", "evaluation/test/cases.csv"):
            if (one / name / file).is_file():
                assert (one / name / file).read_bytes() == (other / name / file).read_bytes()


def without_times(value: Any) -> Any:
    """Return plain data without what depends on clock, memory or folder."""
    timed = ("cost", "training_time_ratio", "sentence", "runs")
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in timed}
    return [without_times(v) for v in value] if isinstance(value, list) else value
