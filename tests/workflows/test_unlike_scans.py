"""Unlabeled scans of another kind are found during training, and written down the worst first."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from helpers import AFFINE, small_recipe, write_dataset, write_recipe

import medssl

SHAPE = (24, 24, 12)
LABELED, UNLABELED = 4, 20
KINDS = ("noise", "modality", "organ")
POISONED = {f"case_{LABELED + 1 + 3 * k + 1:02d}": KINDS[k % 3] for k in range(6)}
"""Six of twenty."""


def poisoned(kind: str, seed: int) -> np.ndarray:
    """Return a scan that is noise, has another contrast, or shows something else."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 12, SHAPE)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), -1)
    if kind == "noise":
        return 100 + 5 * noise
    if kind == "modality":
        inside = sum(
            (((grid - np.array(SHAPE) * s) / [4, 4, 2.5]) ** 2).sum(-1) <= 1 for s in (0.3, 0.68)
        )
        return 250 - 200 * inside - 100 * (grid[..., 0] > 14) + noise
    middle = np.abs(grid - np.array(SHAPE) / 2)
    return 100 + 150 * ((middle[..., 0] < 10) & (middle[..., 1] < 3)) + noise


def auroc(scores: dict[str, float], wrong: set[str]) -> float:
    """Return how often a scan of another kind scores below a good one."""
    bad = [scores[c] for c in scores if c in wrong]
    good = [scores[c] for c in scores if c not in wrong]
    return float(np.mean([(b < g) + 0.5 * (b == g) for b in bad for g in good]))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unlike")
    data = write_dataset(folder / "data", cases=LABELED + 1, unlabeled=UNLABELED, shape=SHAPE)
    for number, (case, kind) in enumerate(POISONED.items()):
        image = nib.Nifti1Image(poisoned(kind, number).astype(np.int16), AFFINE)
        nib.save(image, data / "imagesUn" / f"{case}.nii.gz")
    recipe = small_recipe(
        data,
        folder / "cache",
        data={"labeled": LABELED, "test": 1},
        method={"name": "self_training", "weight": ["case"]},
        training={
            "iterations": 160,
            "patch": [16, 16, 8],
            "labeled_batch": 4,
            "unlabeled_batch": 8,
            "optimizer": {"name": "adam", "lr": 0.01},
            "log_every": 40,
            "validate_every": 500,
            "checkpoint_every": 500,
        },
    )
    recipe["network"] = {"name": "unet", "channels": [8, 16], "strides": [2], "norm": "batch"}
    return medssl.train(write_recipe(folder / "r.yaml", recipe), output=folder / "run").path


def table(run: Path) -> list[dict[str, Any]]:
    with (run / "unlabeled.csv").open() as file:
        return list(csv.DictReader(file))


pytestmark = pytest.mark.slow


def test_scans_of_another_kind_are_the_first_of_the_table(run: Path) -> None:
    rows = table(run)
    assert len(rows) == UNLABELED
    scores = {row["case"]: float(row["score"]) for row in rows}
    assert list(scores.values()) == sorted(scores.values())
    for kind in KINDS:
        others = {case for case, its in POISONED.items() if its != kind}
        mine = {c: s for c, s in scores.items() if c not in others}
        assert auroc(mine, set(POISONED)) >= 0.95, kind


def test_the_report_shows_ten_of_them(run: Path, tmp_path: Path) -> None:
    page = medssl.report(run, output=tmp_path / "report.html", device="cpu").read_text()
    part = page[page.index("believed least") : page.index("<h2>Training")]
    assert part.count("<figure><img") == 10
    first = table(run)[0]["case"]
    assert part.index(f"<figcaption>{first}: weight 0") < part.index(table(run)[1]["case"] + ":")
    assert len([c for c in POISONED if f"<figcaption>{c}:" in part]) == len(POISONED)
