"""Does memory grow while the engine trains? It must not, over 2000 iterations.

A tiny network trains; every 100 iterations the resident memory is read (on a card, what is
allocated there too). Growth is between iteration 200, when caches are full, and the last.

    python benchmarks/resident_memory.py [--methods bcp uamt | --methods all] [--output FILE.json]
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from harness import Row, left_of, options_of, run_part
from helpers import small_recipe, write_dataset, write_recipe
from measuring import MIB, NEVER, by_name, device_of, resident_mib, train

from medssl.methods.registry import list_methods

EVERY = 100


def curve_of(method: str, folder: Path, device: torch.device, iterations: int) -> dict[str, Any]:
    """Train; return the iterations at which memory was read, and the MiB there."""
    found: dict[str, list[float]] = {"iteration": [], "resident_mib": []}
    if device.type == "cuda":
        found["card_mib"] = []
    count = 0

    def around(engine: Any, stage: Any, step: Any) -> None:
        nonlocal count
        step()
        count += 1
        if count % EVERY == 0:
            found["iteration"].append(count)
            found["resident_mib"].append(resident_mib())
            if device.type == "cuda":
                torch.cuda.synchronize(device)
                found["card_mib"].append(torch.cuda.memory_allocated(device) / MIB)

    recipe = small_recipe(folder / "data", folder / "cache", method=by_name(method))
    recipe["network"]["dropout"] = 0.1  # umct's uncertainty is that of dropout
    recipe["data"]["test"] = 0
    path = write_recipe(folder / f"{method}.yaml", recipe)
    changes = {
        "training.iterations": iterations,
        "training.log_every": 10,
        "training.validate_every": NEVER,
        "training.checkpoint_every": 500,
    }
    train(path, changes, folder=folder, device=str(device), around=around)
    return found


def measure(options: Namespace, known: Mapping[str, Row]) -> Iterator[Row]:
    """Yield the growth of memory for each method, in percent."""
    device = device_of(options)
    iterations, start = (300, 100) if options.quick else (2000, 200)
    methods = list_methods() if options.methods == ["all"] else options.methods
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dataset(folder / "data", cases=6)
        # Imports that the first training makes, and its allocator's arenas, are nobody's growth.
        curve_of(methods[0], folder, device, EVERY)
        for method in methods:
            if left_of(known, method):
                yield from left_of(known, method)
                continue
            curve = curve_of(method, folder, device, iterations)
            first = curve["iteration"].index(start)
            for key in [k for k in curve if k != "iteration"]:
                before, after = curve[key][first], curve[key][-1]
                yield Row(
                    f"{method}, {key.partition('_')[0]}",
                    100 * (after / before - 1),
                    "%",
                    "<= 2" if not options.quick else "",
                    f"{before:.1f} to {after:.1f} MiB, iteration {start} to {iterations}",
                    {"iteration": curve["iteration"], "mib": curve[key]},
                )


if __name__ == "__main__":
    parser = options_of(__doc__)
    default = ["supervised", "mean_teacher", "bcp"]
    parser.add_argument("--methods", nargs="*", default=default, help="or: all")
    run_part(parser, measure)
