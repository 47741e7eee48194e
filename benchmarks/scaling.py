"""Training in two processes against one, with the same whole batch, and what they exchange.

`torchrun` starts one and then two processes (gloo on a CPU, nccl on cards). Reported: iterations
per second on the clock, two over one; on a CPU the same by processor time, which other work on the
machine disturbs less; and the bytes each process hands to the others in a step.

    python benchmarks/scaling.py [--methods bcp] [--quick] [--output FILE.json]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from harness import Row, SkipPart, left_of, options_of, run_part
from helpers import small_recipe, write_dataset, write_recipe
from measuring import NEVER, around_steps, by_name, child_environment
from torch import distributed as dist

import medssl
from medssl.device import resolve_device

WARM = 3


class Sent:
    """Count the bytes that this process hands to collectives."""

    def __init__(self) -> None:
        self.bytes = 0
        for name in ("all_reduce", "all_gather"):
            setattr(dist, name, self._counted(getattr(dist, name)))

    def _counted(self, collective: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            tensor = next(a for a in reversed(arguments) if isinstance(a, torch.Tensor))
            self.bytes += tensor.numel() * tensor.element_size()
            return collective(*arguments, **options)

        return call


def train_here(options: Namespace) -> None:
    """Train in this process of several; write what was measured."""
    torch.set_num_threads(1)
    sent, marks = Sent(), []

    def around(engine: Any, stage: Any, step: Callable[[], None]) -> None:
        step()
        if engine.device.type == "cuda":
            torch.cuda.synchronize(engine.device)
        marks.append((time.perf_counter(), time.process_time(), sent.bytes))

    rank = int(os.environ.get("RANK", 0))
    with around_steps(around):
        medssl.train(options.recipe, output=options.folder / "run", device=options.device)
    marks = marks[len(marks) // 2 + WARM :]  # the last stage, where there are two
    steps = len(marks) - 1
    wall, processor, exchanged = ((b - a) / steps for a, b in zip(marks[0], marks[-1], strict=True))
    found = {"wall": wall, "processor": processor, "bytes": exchanged}
    (options.folder / f"rank{rank}.json").write_text(json.dumps(found))


def launch(recipe: Path, folder: Path, processes: int, device: str) -> list[dict[str, float]]:
    """Train in some processes; return what each has measured."""
    folder.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), __file__, "--device", device]
    command += ["--recipe", str(recipe), "--folder", str(folder)]
    subprocess.run(command, env=child_environment(), check=True, stdout=subprocess.DEVNULL)
    return [json.loads(path.read_text()) for path in sorted(folder.glob("rank*.json"))]


def measure(options: Namespace, known: Mapping[str, Row]) -> Iterator[Row]:
    """Yield speed, processor time and exchange of two processes."""
    device = resolve_device(options.device).type
    if device == "cuda" and torch.cuda.device_count() < 2:
        raise SkipPart("two processes need two cards, and there is one")
    steps = 2 * (WARM + (3 if options.quick else 20))
    patch = [16, 16, 8] if options.quick else options.patch
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dataset(folder / "data", cases=8, shape=tuple(n + 8 for n in patch))
        for method in options.methods:
            if left_of(known, method):
                yield from left_of(known, method)
                continue
            recipe = small_recipe(folder / "data", folder / "cache", method=by_name(method))
            recipe["network"] = {
                "name": "unet",
                "channels": [16, 32, 64],
                "strides": [2, 2],
                "dropout": 0.1,  # umct's uncertainty is that of dropout
            }
            recipe["data"]["test"] = 0
            recipe["training"] |= {
                "iterations": steps,
                "patch": patch,
                "labeled_batch": 4,
                "unlabeled_batch": 4,
                "validate_every": NEVER,
                "checkpoint_every": NEVER,
                "precision": "auto",
            }
            if method == "bcp":
                recipe["method"]["pretrain_fraction"] = 0
            path = write_recipe(folder / f"{method}.yaml", recipe)
            (one,), two = (
                launch(path, folder / f"{method}-{count}", count, device) for count in (1, 2)
            )
            both = sum(r["processor"] for r in two) / one["processor"]
            yield Row(
                f"{method}, 2 processes over 1",
                one["wall"] / max(r["wall"] for r in two),
                "times as fast",
                note=f"{1 / one['wall']:.3g} it/s in 1; "
                f"{two[0]['bytes'] / 2**20:.2f} MiB exchanged per step",
                details={"one": one, "two": two},
            )
            if device == "cpu":
                yield Row(
                    f"{method}, the same by processor time",
                    one["processor"] / max(r["processor"] for r in two),
                    "times as fast",
                    note=f"both together take {both:.2f} times the processor time of one",
                )


if __name__ == "__main__":
    parser = options_of(__doc__)
    parser.add_argument("--methods", nargs="*", default=["supervised", "bcp", "rail"])
    parser.add_argument("--patch", type=int, nargs=3, default=[48, 48, 32])
    parser.add_argument("--recipe", type=Path, help="train this, in this process of several")
    parser.add_argument("--folder", type=Path, help="where it goes")
    given = parser.parse_args()
    if given.recipe:
        train_here(given)
    else:
        run_part(parser, measure)
