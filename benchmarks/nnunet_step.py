"""A training step of medssl beside one of nnU-Net: labels alone, one thread, fp32.

    python benchmarks/nnunet_step.py FOLDER_OF_DATASET --output WORK [--rounds 3] [--python PYTHON]

Both train a U-Net of the same stages and widths (nnU-Net's own plan at half of them) with deep
supervision on patches and batches of that plan, with nnU-Net's kinds of augmentation, SGD with
Nesterov momentum and clipped gradients. Processes take turns, so that what else the machine does
falls on all. Times are of the processor: of drawing a batch, and of the rest of the step. nnU-Net
runs as it is, and with a C library that keeps freed memory, as medssl lets it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from measuring import NEVER, child_environment, train
from nnunet import CASES, Cases, call_side, convert
from nnunet_side import CONFIGURATION, NAME

from medssl.data.patches.sampling import PatchSampler
from medssl.training.engine import Engine

OURS, THEIRS, KEPT = "medssl", "nnU-Net", "nnU-Net, freed memory kept"
WARM = 3


def recipe_of(plans: Mapping[str, Any], iterations: int) -> dict[str, Any]:
    """Return the changes of a recipe that make medssl train as nnU-Net plans."""
    planned = plans["configurations"][CONFIGURATION]
    network = planned["architecture"]["arch_kwargs"]
    return {
        "network": {
            "name": "dynunet",
            "filters": network["features_per_stage"],
            "deep_supervision": True,
        },
        "method": "supervised",
        "training.patch": planned["patch_size"],
        "training.labeled_batch": planned["batch_size"],
        "training.iterations": WARM + iterations,
        "training.augment": "nnunet",
        "training.optimizer": {"name": "sgd", "lr": 0.01, "momentum": 0.99, "nesterov": True},
        "training.gradient_clip": 12.0,
        "training.precision": "fp32",
        "training.workers": 0,
        "training.log_every": 10,
        "training.checkpoint_every": NEVER,
        "training.validate_every": NEVER,
    }


def pace(changes: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Train with medssl; return the processor seconds of batches and of the rest of steps."""
    data, step, clock = [], [], time.process_time
    drawn, counted = PatchSampler.batch, []

    def timed(self: PatchSampler, *args: Any, **kwargs: Any) -> Any:
        began = clock()
        out = drawn(self, *args, **kwargs)
        data.append(clock() - began)
        return out

    def around(engine: Engine, stage: Any, take: Callable[[], None]) -> None:
        before, began = sum(data), clock()
        take()
        step.append(clock() - began - (sum(data) - before))
        counted.append(sum(p.numel() for p in engine.method.parameters()))

    PatchSampler.batch = timed  # type: ignore[method-assign]
    try:
        train("hippocampus_supervised", changes, folder=folder, device="cpu", around=around)
    finally:
        PatchSampler.batch = drawn  # type: ignore[method-assign]
    return {"data": data[WARM : len(step)], "step": step[WARM:], "parameters": counted[0]}


def measure(asked: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Let the three take turns; return what each measured in all rounds."""
    folder, cases = asked.output.resolve(), Cases.read(CASES, test=False)
    raw = folder / "nnUNet_raw" / NAME
    if not (raw / "dataset.json").is_file():
        convert(asked.dataset, cases, raw)
    if not (folder / "planned").is_file():
        call_side(asked.python, folder, "plan", "--widths", "0.5")
        (folder / "planned").touch()
    plans = json.loads((folder / "nnUNet_preprocessed" / NAME / "nnUNetPlans.json").read_text())
    changes = {
        "data.root": str(asked.dataset.resolve()),
        "data.labeled": list(cases.labeled),
        "data.test": 0,
        "data.cache": str(folder / "cache"),
        **recipe_of(plans, asked.iterations),
    }
    (folder / "changes.json").write_text(json.dumps(changes))
    found: dict[str, dict[str, Any]] = {}
    side = partial(call_side, asked.python, folder, "pace", "--iterations", asked.iterations)
    for _ in range(asked.rounds):
        said = {OURS: own_process(folder), THEIRS: side(), KEPT: side("--keep-memory")}
        for name, text in said.items():
            new = json.loads(text.splitlines()[-1])
            old = found.setdefault(name, {"data": [], "step": []})
            found[name] = new | {key: old[key] + new[key] for key in ("data", "step")}
    return found


def own_process(folder: Path) -> str:
    """Measure medssl in a process of its own, and return what it printed."""
    command = [sys.executable, __file__, "--own", str(folder)]
    return subprocess.run(
        command, env=child_environment(), check=True, capture_output=True, text=True
    ).stdout


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the medians and medssl's over nnU-Net's as Markdown."""
    lines = ["| | parameters | batch, ms | step, ms |", "|---|---|---|---|"]
    middle = {
        name: {key: 1000 * statistics.median(row[key]) for key in ("data", "step")}
        for name, row in found.items()
    }
    for name, row in middle.items():
        count = found[name]["parameters"]
        lines.append(f"| {name} | {count:,} | {row['data']:.1f} | {row['step']:.0f} |")
    ours = middle[OURS]
    for name in (THEIRS, KEPT):
        data, step = (ours[key] / middle[name][key] for key in ("data", "step"))
        lines.append(f"\nmedssl over {name}: batch {data:.2f}, step {step:.3f}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path, nargs="?", help="a Decathlon folder")
    parser.add_argument("--output", type=Path, help="work folder")
    parser.add_argument("--iterations", type=int, default=12, help="of each process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--python", default=sys.executable, help="of nnU-Net's environment")
    parser.add_argument("--own", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.own:
        changes = json.loads((asked.own / "changes.json").read_text())
        print(json.dumps(pace(changes, asked.own)))
        return
    if not (asked.dataset and asked.output):
        parser.error("give the dataset's folder and --output")
    print(table(measure(asked)))


if __name__ == "__main__":
    main()
