"""kill -9 at random moments: the run that was put together from the pieces is the whole one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import same_bits, small_recipe, write_dataset, write_recipe

from medssl.runs.checkpoint import load_checkpoint

KILLS = 20
LOOP = Path(__file__).resolve().parents[1] / "support" / "kill_loop.py"


def loop(recipe: Path, runs: Path, *, seed: int) -> list[dict[str, Any]]:
    """Train ``runs/whole`` and, in pieces, ``runs/pieces``; return what became of each start."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(LOOP), str(recipe), str(runs), str(seed), str(KILLS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"place"')]


def metrics(run: Path) -> list[dict[str, Any]]:
    """Return metrics.jsonl without what the clock says."""
    clock = ("iterations_per_second", "validation/seconds")
    lines = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in clock} for line in lines]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks and timers as on Linux")
def test_twenty_kills_change_nothing(tmp_path: Path) -> None:
    changes = {
        "data": {"labeled": 4, "validation": 1},
        "training": {
            "iterations": 300,
            "validate_every": 4,
            "checkpoint_every": 2,
        },
    }
    content = small_recipe(write_dataset(tmp_path / "data"), tmp_path / "cache", **changes)
    recipe = write_recipe(tmp_path / "recipe.yaml", content)
    first, *starts = loop(recipe, tmp_path, seed=11)
    print(*starts, sep="\n")
    assert first["ended"] == 0
    assert [s["place"] for s in starts if s["ended"] != signal.SIGKILL] == [None], starts
    assert (len(starts), starts[-1]["ended"]) == (KILLS + 2, 0)
    steps = [s["step"] for s in starts]
    assert steps == sorted(steps), "no checkpoint was lost"
    runs = whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    names = sorted(p.name for p in (whole / "checkpoints").iterdir())
    assert sorted(p.name for p in (pieces / "checkpoints").iterdir()) == names
    assert {"last.pt", "best.pt", "best-pretrain.pt", "pretrain.pt"} <= set(names)
    for name in names:
        one, other = (load_checkpoint(run / "checkpoints" / name) for run in runs)
        same_bits(one, other, name)
    assert metrics(whole) == metrics(pieces)
    for file in ("evaluation/test/cases.csv", "splits.json"):
        assert (whole / file).read_bytes() == (pieces / file).read_bytes()
    assert json.loads((pieces / "manifest.json").read_text())["status"] == "finished"
