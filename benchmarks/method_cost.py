"""What each method costs per iteration, relative to labels alone.

Trains every shipped ``hippocampus_METHOD`` recipe for a few iterations, all stages in their
proportion, on synthetic volumes of hippocampus size, and compares processor time per iteration of
the training loop (data, passes, optimizer, logging) with that of ``supervised`` in the same run.
Processor time, not wall time: other work on the machine moves it little. The rounds go over all
methods in turn; the smallest time of each counts.

    python benchmarks/method_cost.py [--iterations 60] [--rounds 2] [--output FILE.json]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from helpers import write_dataset

from medssl import api
from medssl.recipe import list_recipes
from medssl.training.engine import Engine

BASE = "supervised"


def cost(method: str, folder: Path, iterations: int, round_number: int) -> dict[str, float]:
    """Train a recipe; return processor and wall seconds per iteration and the peak of memory."""
    taken: dict[str, float] = {}
    fit = Engine.fit

    def timed(self: Engine, *args: Any, **kwargs: Any) -> Any:
        processor, wall = time.process_time(), time.perf_counter()
        result = fit(self, *args, **kwargs)
        taken["processor_ms"] = 1000 * (time.process_time() - processor) / iterations
        taken["wall_ms"] = 1000 * (time.perf_counter() - wall) / iterations
        return result

    overrides = {
        "data.root": folder / "data",
        "data.labeled": 4,
        "data.test": 0,
        "data.cache": folder / "cache",
        "training.iterations": iterations,
    }
    Engine.fit = timed  # type: ignore[method-assign]
    try:
        api.train(
            list_recipes()[f"hippocampus_{method}"],
            overrides=[f"{key}={value}" for key, value in overrides.items()],
            output=folder / f"{method}-{round_number}",
            device="cpu",
        )
    finally:
        Engine.fit = fit  # type: ignore[method-assign]
    return taken


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    methods = [name.partition("_")[2] for name in list_recipes() if name.startswith("hippocampus_")]
    best: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dataset(folder / "data", cases=8, shape=(36, 52, 36))
        for number in range(options.rounds):
            for method in methods:
                row = cost(method, folder, options.iterations, number)
                old = best.setdefault(method, row)
                best[method] = {k: min(v, old[k]) for k, v in row.items()}
    base = best[BASE]["processor_ms"]
    rows = [
        {
            "method": m,
            **{k: round(v, 1) for k, v in row.items()},
            "cost": row["processor_ms"] / base,
        }
        for m, row in sorted(best.items(), key=lambda item: item[1]["processor_ms"])
    ]
    for row in rows:
        print(
            f"{row['method']:18} {row['processor_ms']:8.1f} ms of one core per iteration"
            f"  {row['cost']:5.2f} times {BASE}"
        )
    if options.output:
        options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
