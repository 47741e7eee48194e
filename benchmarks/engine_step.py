"""What the engine adds to the passes a training step consists of.

For each method a short real training runs (patches from a warm cache, logging on). Inside each step
three spans are timed: network forwards and backward passes alone; the method's whole step, which is
these and its losses, mixing and pseudo-labels; the optimizers. Reported, within one run: step time
over the passes; over passes and optimizers; and over the method's step, which is what the engine
itself adds (data, optimizers, averaging of teachers, guard, logging). Times are of the processor on
a CPU, of finished work on a card, whose passes are waited for.
"""

from __future__ import annotations

import statistics
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from harness import Row, left_of, options_of, run_part
from helpers import small_recipe, write_dataset, write_recipe
from measuring import NEVER, by_name, clock_of, train

from medssl.device import resolve_device
from medssl.methods.registry import list_methods
from medssl.training.engine import Engine
from medssl.training.step import Stepper


class Stopwatch:
    """Add up the time inside network forwards and backward passes."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.seconds = 0.0
        self._depth = 0
        self._since = 0.0

    def watch(self, network: torch.nn.Module) -> None:
        """Count a network's forward passes."""
        network.register_forward_pre_hook(lambda *_: self.enter())
        network.register_forward_hook(lambda *_: self.leave())

    def enter(self) -> None:
        """Begin to count."""
        if self._depth == 0:
            self._since = self.clock()
        self._depth += 1

    def leave(self) -> None:
        """End what was begun."""
        self._depth -= 1
        if self._depth == 0:
            self.seconds += self.clock() - self._since

    def take(self) -> float:
        """Return the seconds since the last call."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds


def steps_of(
    method: str, folder: Path, device: torch.device, changes: dict[str, Any], network: str
) -> list[tuple[str, float, float, float, float]]:
    """Train; return of each step its stage, and seconds of all, passes, updates, method's step."""
    clock = clock_of(device)
    watch, updates, own, steps = Stopwatch(clock), Stopwatch(clock), Stopwatch(clock), []
    backward, gradients, losses = torch.Tensor.backward, torch.autograd.grad, Stepper.back_propagate
    seen: dict[int, Any] = {}  # and kept, so that no number is given away twice

    def timed_backward(self: torch.Tensor, *args: object, **kwargs: object) -> None:
        started = clock()
        backward(self, *args, **kwargs)
        watch.seconds += clock() - started

    def timed_gradients(*args: object, **kwargs: object) -> object:
        started = clock()
        out = gradients(*args, **kwargs)
        watch.seconds += clock() - started
        return out

    def timed_losses(self: Stepper, *args: Any) -> Any:
        own.enter()
        out = losses(self, *args)
        own.leave()
        return out

    def around(engine: Engine, stage: Any, step: Callable[[], None]) -> None:
        networks = [
            network
            for child in engine.method.children()
            for network in (child if isinstance(child, torch.nn.ModuleList) else (child,))
        ]
        for thing in (*networks, *engine.optimizers.values()):
            if id(thing) in seen:
                continue
            seen[id(thing)] = thing
            if isinstance(thing, torch.optim.Optimizer):
                thing.register_step_pre_hook(lambda *_: updates.enter())
                thing.register_step_post_hook(lambda *_: updates.leave())
            else:
                watch.watch(thing)
        for stopwatch in (watch, updates, own):
            stopwatch.take()
        started = clock()
        step()
        seconds = clock() - started
        steps.append((stage.name, seconds, watch.take(), updates.take(), own.take()))

    recipe = small_recipe(folder / "data", folder / "cache", method=by_name(method))
    recipe["network"] = {"name": network}
    recipe["data"]["test"] = 0
    path = write_recipe(folder / f"{method}.yaml", recipe)
    torch.Tensor.backward = timed_backward  # type: ignore[method-assign]
    torch.autograd.grad, Stepper.back_propagate = timed_gradients, timed_losses  # type: ignore[assignment]
    try:
        train(path, changes, folder=folder, device=str(device), around=around)
    finally:
        torch.Tensor.backward = backward  # type: ignore[method-assign]
        torch.autograd.grad, Stepper.back_propagate = gradients, losses  # type: ignore[method-assign]
    return steps


def row_of(method: str, steps: list[tuple[str, float, float, float, float]]) -> Row:
    """Return medians over the steps of the last stage."""
    last = steps[-1][0]
    kept = [row for name, *row in steps if name == last]
    kept = kept[min(3, len(kept) // 2) :]
    step, passes, optimizer, own = (1000 * statistics.median(x) for x in zip(*kept, strict=True))
    ratios = [s / p for s, p, _, _ in kept]
    loop = statistics.median(s / (p + u) for s, p, u, _ in kept)
    added = statistics.median(s / m for s, _, _, m in kept)
    return Row(
        method,
        statistics.median(ratios),
        target="<= 1.03",
        note=f"step {step:.1f} ms, passes {passes:.1f}, optimizer {optimizer:.1f}; "
        f"over both {loop:.3f}, over the method's step {added:.3f}",
        details={
            "stage": last,
            "step_ms": step,
            "passes_ms": passes,
            "optimizer_ms": optimizer,
            "ratio_min": min(ratios),
            "with_optimizer_median": loop,
            "method_ms": own,
            "over_method_median": added,
            "steps": len(kept),
        },
    )


def measure(options: Namespace, known: Mapping[str, Row]) -> Iterator[Row]:
    """Yield for each method the step over its passes."""
    device = resolve_device(options.device)
    patch = [32, 16, 16] if options.quick else options.patch
    changes = {
        "training.iterations": 16 if options.quick else options.iterations,
        "training.patch": patch,
        "training.labeled_batch": 4,
        "training.unlabeled_batch": 4,
        "training.log_every": 10,
        "training.checkpoint_every": NEVER,
        "training.validate_every": NEVER,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shape = (40, 24, 24) if options.quick else (64, 64, 48)
        write_dataset(folder / "data", cases=6, shape=shape)
        for method in options.methods:
            if left_of(known, method):
                yield from left_of(known, method)
                continue
            steps = steps_of(method, folder, device, changes, options.network)
            yield row_of(method, steps)


if __name__ == "__main__":
    parser = options_of(__doc__)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--network", default="vnet")
    parser.add_argument("--patch", type=int, nargs=3, default=[64, 64, 48])
    parser.add_argument("--methods", nargs="*", default=list_methods())
    run_part(parser, measure)
