"""A run folder that predicts, written without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from helpers import small_recipe

from medssl.models.create import create_method
from medssl.recipe.load import load_recipe
from medssl.runs.checkpoint import save_checkpoint


def write_small_run(path: Path, *, seed: int = 3, **changes: Any) -> Path:
    """Write a run of three labels, 0, 11 and 48, with fresh weights and one figure.

    Args:
        changes: as of `small_recipe`.
    """
    path.mkdir(parents=True)
    recipe = small_recipe(path / "secret_hospital", path / "cache", seed=seed, **changes)
    (path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    loaded = load_recipe(path / "recipe.yaml")
    channels = 1
    method = create_method(loaded.recipe, loaded.settings, num_classes=3, channels=channels)
    labels = {"values": [0, 11, 48], "names": ["background", "bright", "dim"], "ignore_value": 255}
    manifest = {
        "status": "finished",
        "dataset": str(path / "secret_hospital"),
        "labels": labels,
        "channels": channels,
        "cases": {"labeled": 3, "unlabeled": 5, "validation": 0, "test": 2},
    }
    (path / "manifest.json").write_text(json.dumps(manifest))
    (path / "splits.json").write_text(json.dumps({"labeled": ["case_00"], "test": ["case_07"]}))
    save_checkpoint(
        {
            "method": recipe["method"]["name"],
            "network": "unet",
            "seed": seed,
            "step": 8,
            "method_state": method.state_dict(),
        },
        path / "checkpoints" / "last.pt",
    )
    entry = {"n": 2, "metrics": {"dice": {"mean": 0.5, "low": 0.25, "high": None}}}
    summary = {
        "split": "test",
        "unit": "mm",
        "n_cases": 2,
        "n_patients": 2,
        "interval": "none",
        "policy": "missed counts 0",
        "structures": {"bright": entry, "dim": entry},
        "overall": entry,
        "worst": "case_07",
    }
    folder = path / "evaluation" / "test"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    return path
