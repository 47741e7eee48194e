"""What the engine adds to the passes a training step consists of.

For each method a short real training runs (patches from a warm cache, logging on). Inside each step
three spans are timed: network forwards and backward passes alone; the method's whole step, which is
these and its losses, mixing and pseudo-labels; the optimizers. Reported, within one run: step time
over the passes; over the passes and the optimizers; and over the method's step, which is what the
engine itself adds (data, optimizers, averaging of teachers, guard, logging).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from helpers import small_recipe, write_dataset

from medssl import api
from medssl.methods import REGISTRY
from medssl.training.engine import Engine

clock = time.process_time
"""Time that the process computed: on a shared machine the clock on the wall also counts others'."""


class Stopwatch:
    """Add up the time inside network forwards and backward passes."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0
        self._since = 0.0

    def watch(self, network: torch.nn.Module) -> None:
        network.register_forward_pre_hook(lambda *_: self._enter())
        network.register_forward_hook(lambda *_: self._leave())

    def _enter(self) -> None:
        if self._depth == 0:
            self._since = clock()
        self._depth += 1

    def _leave(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.seconds += clock() - self._since

    def take(self) -> float:
        seconds, self.seconds = self.seconds, 0.0
        return seconds


def measure(method: str, folder: Path, network: dict, iterations: int, patch: list[int]) -> dict:
    """Train ``method`` for a while; return medians over its last stage's steps."""
    watch, updates, own, steps = Stopwatch(), Stopwatch(), Stopwatch(), []
    backward, step, losses = torch.Tensor.backward, Engine._step, Engine._losses
    gradients = torch.autograd.grad

    def timed_backward(self: torch.Tensor, *args: object, **kwargs: object) -> None:
        started = clock()
        backward(self, *args, **kwargs)
        watch.seconds += clock() - started

    def timed_gradients(*args: object, **kwargs: object) -> object:
        started = clock()
        out = gradients(*args, **kwargs)
        watch.seconds += clock() - started
        return out

    def timed_losses(self: Engine, *args: object) -> object:
        own._enter()
        out = losses(self, *args)
        own._leave()
        return out

    def timed_step(self: Engine, stage: object, batches: object) -> None:
        if not getattr(self, "_watched", False):
            for child in self.method.children():
                watch.watch(child)
            self._watched = True
        for optimizer in self.optimizers.values():
            if not getattr(optimizer, "_watched", False):
                optimizer.register_step_pre_hook(lambda *_: updates._enter())
                optimizer.register_step_post_hook(lambda *_: updates._leave())
                optimizer._watched = True
        for stopwatch in (watch, updates, own):
            stopwatch.take()
        started = clock()
        step(self, stage, batches)
        seconds = clock() - started
        steps.append((stage.name, seconds, watch.take(), updates.take(), own.take()))

    recipe = small_recipe(folder / "data", folder / "cache", network=network)
    recipe["network"] = network
    recipe["method"] = {"name": method}
    recipe["data"]["test"] = 0
    recipe["training"] |= {
        "iterations": iterations,
        "patch": patch,
        "labeled_batch": 4,
        "unlabeled_batch": 4,
        "log_every": 10,
        "checkpoint_every": 10_000,
        "validate_every": 10_000,
    }
    file = folder / f"{method}.yaml"
    file.write_text(yaml.safe_dump(recipe))
    torch.Tensor.backward, Engine._step = timed_backward, timed_step
    Engine._losses, torch.autograd.grad = timed_losses, timed_gradients
    try:
        api.train(file, output=folder / f"run-{method}")
    finally:
        torch.Tensor.backward, Engine._step, Engine._losses = backward, step, losses
        torch.autograd.grad = gradients
    last = steps[-1][0]
    kept = [row for name, *row in steps if name == last][3:]
    ratios = [s / p for s, p, _, _ in kept]
    loops = [s / (p + u) for s, p, u, _ in kept]
    added = [s / m for s, _, _, m in kept]
    return {
        "method": method,
        "stage": last,
        "step_ms": 1000 * statistics.median(s for s, _, _, _ in kept),
        "passes_ms": 1000 * statistics.median(p for _, p, _, _ in kept),
        "optimizer_ms": 1000 * statistics.median(u for _, _, u, _ in kept),
        "ratio_min": min(ratios),
        "ratio_median": statistics.median(ratios),
        "with_optimizer_median": statistics.median(loops),
        "over_method_median": statistics.median(added),
        "steps": len(kept),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--network", default="vnet")
    parser.add_argument("--patch", type=int, nargs=3, default=[48, 48, 32])
    parser.add_argument("--methods", nargs="*", default=sorted(REGISTRY))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    network = {"name": options.network}
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dataset(folder / "data", cases=6, shape=(64, 64, 48))
        for method in options.methods:
            rows.append(measure(method, folder, network, options.iterations, options.patch))
            row = rows[-1]
            print(
                f"{row['method']:18} step {row['step_ms']:8.1f} ms  passes {row['passes_ms']:8.1f}"
                f" ms  optimizer {row['optimizer_ms']:6.1f} ms  step / passes"
                f" {row['ratio_median']:.3f} (min {row['ratio_min']:.3f})"
                f"  step / (passes + optimizer) {row['with_optimizer_median']:.3f}"
                f"  step / method's step {row['over_method_median']:.3f}",
                flush=True,
            )
    if options.output:
        threads = torch.get_num_threads()
        options.output.write_text(json.dumps({"threads": threads, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
