"""A self-training that is killed again and again ends as if it never was."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import kill_crossval
import pytest
from crossval_folders import same_weights
from helpers import small_recipe, write_dataset, write_recipe


@pytest.mark.slow
def test_killed_at_many_moments_is_uninterrupted(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", cases=4, unlabeled=2)
    content = small_recipe(
        tmp_path / "data",
        tmp_path / "cache",
        data={"labeled": None, "test": 0},
        method={"name": "supervised"},
        training={"iterations": 6},
    )
    recipe = write_recipe(tmp_path / "small.yaml", content)
    words = ["selftrain", str(recipe), "--members", "seeds:2", "--rounds", "2", "--whole"]
    command = [sys.executable, kill_crossval.__file__, str(recipe), str(tmp_path), "7", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    children = [json.loads(x) for x in done.stdout.splitlines() if x.startswith("{")]
    assert children[0]["ended"] == children[-1]["ended"] == 0
    assert sum(c["ended"] == signal.SIGKILL for c in children) >= 5, children
    same_weights(tmp_path / "whole", tmp_path / "pieces")
    record = [
        json.loads((tmp_path / f / "selftrain.json").read_text()) for f in ("whole", "pieces")
    ]
    assert record[0] == record[1]
    assert [entry["round"] for entry in record[0]["rounds"]] == [1, 2]
    assert record[0]["rounds"][1]["labels_alike"] < 0.98
