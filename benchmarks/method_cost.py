"""What each method costs per iteration, relative to labels alone.

Trains every method that has a recipe ``hippocampus_METHOD``, on the small network, for a few
iterations, all stages in their proportion, on synthetic volumes of hippocampus size, and compares
the time per iteration of the training loop (data, passes, optimizer, logging) with that of
``supervised`` in the same run. On a CPU it is processor time, not wall time: other work on the
machine moves it little. The rounds go over all methods in turn; the smallest time of each counts.

    python benchmarks/method_cost.py [--iterations 60] [--rounds 2] [--output FILE.json]
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from development import on_small_network
from harness import Row, options_of, run_part
from helpers import write_dataset
from measuring import clock_of, device_of, train

from medssl.recipe.find import list_recipes
from medssl.training.engine import Engine

BASE = "supervised"


def milliseconds(method: str, folder: Path, iterations: int, device: torch.device) -> float:
    """Train a recipe; return the time of its loop per iteration."""
    clock, fit, taken = clock_of(device), Engine.fit, 0.0

    def timed(self: Engine, *args: Any, **kwargs: Any) -> Any:
        nonlocal taken
        started = clock()
        result = fit(self, *args, **kwargs)
        taken = clock() - started
        return result

    changes = {
        "data.root": folder / "data",
        "data.labeled": 4,
        "data.test": 0,
        "data.cache": folder / "cache",
        "training.iterations": iterations,
    }
    Engine.fit = timed  # type: ignore[method-assign]
    try:
        recipe, own = on_small_network(method)
        changes |= dict(setting.split("=") for setting in own)
        where: Any = {"folder": folder, "device": str(device)}
        train(list_recipes()[recipe], changes, **where, around=lambda _, __, step: step())
    finally:
        Engine.fit = fit  # type: ignore[method-assign]
    return 1000 * taken / iterations


def measure(options: Namespace, known: Mapping[str, Row]) -> Iterator[Row]:
    """Yield each method's cost over that of labels alone, the cheapest first."""
    device = device_of(options)
    iterations, rounds = (4, 1) if options.quick else (options.iterations, options.rounds)
    methods = [name.partition("_")[2] for name in list_recipes() if name.startswith("hippocampus_")]
    best: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dataset(folder / "data", cases=8, shape=(36, 52, 36))
        for _ in range(rounds):
            for method in methods:
                taken = milliseconds(method, folder, iterations, device)
                best[method] = min(taken, best.get(method, taken))
    for method, taken in sorted(best.items(), key=lambda item: item[1]):
        note = f"{taken:.1f} ms per iteration"
        yield Row(method, taken / best[BASE], f"times {BASE}", note=note, details={"ms": taken})


if __name__ == "__main__":
    parser = options_of(__doc__)
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=2)
    run_part(parser, measure)
