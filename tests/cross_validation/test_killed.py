"""A cross-validation that is killed again and again ends as if it never was."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import kill_crossval
import pytest
from crossval_folders import same_folders
from helpers import small_recipe, write_dataset, write_recipe


@pytest.mark.slow
def test_killed_at_many_moments_is_uninterrupted(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", cases=4, unlabeled=2)
    content = small_recipe(
        tmp_path / "data",
        tmp_path / "cache",
        data={"labeled": None, "test": 0},
        method={"name": "mean_teacher"},
        training={"iterations": 6},
    )
    recipe = write_recipe(tmp_path / "small.yaml", content)
    command = [sys.executable, kill_crossval.__file__, str(recipe), str(tmp_path), "7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]  # beside tables
    children = [json.loads(line) for line in lines]
    assert children[0]["ended"] == children[-1]["ended"] == 0
    killed = [c for c in children if c["ended"] == signal.SIGKILL]
    assert len(killed) >= 6, children
    assert {"batch", "optimizer", "figures"} <= {c["place"] for c in killed}, children
    assert len({c["finished"] for c in killed}) >= 2, "killed in several folds"
    same_folders(tmp_path / "whole", tmp_path / "pieces")
