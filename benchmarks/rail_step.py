"""What RAIL saves by predicting with the inactive students without gradients.

Variants of one step (forward, backward, SGD, EMA) with V-Net and ResV-Net, after the first term:
``published`` keeps autograd graphs of all four students and runs the teacher twice in train mode on
the whole batch; ``no_grad`` is the preset official (same numbers, no graphs of inactive students);
``corrected`` is the default. Each runs in its own process, in turns. Reported: time and peak memory
above that before the first step (on a CPU the resident memory), as ratios to ``published``.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from harness import Row, options_of, run_part
from measuring import PeakMemory
from method_steps import SteppedMethod, random_batch
from torch import Tensor

from medssl.device import resolve_device
from medssl.methods.base import Batch, Progress
from medssl.methods.rail import Rail
from medssl.methods.registry import register_method

VARIANTS = ("published", "no_grad", "corrected")


class Published(Rail):
    """Keep the graphs of the inactive students until the next step, as the published code does."""

    def without_gradients(self) -> AbstractContextManager[Any]:
        """Build graphs."""
        return torch.enable_grad()

    def training_step(self, batch: Batch, progress: Progress) -> Any:
        """Hold on to all outputs."""
        self.kept: list[Tensor] = []
        if not hasattr(self, "hooks"):
            self.hooks = [
                s.register_forward_hook(lambda _m, _i, out: self.kept.append(out))
                for s in self.students
            ]
        return super().training_step(batch, progress)


register_method("rail_published", settings=Rail.Settings, method=Published)


def measure_here(variant: str, options: Namespace) -> dict[str, float]:
    """Run ``options.steps`` steps of a variant after two to warm up."""
    torch.set_num_threads(options.threads)
    device = resolve_device(options.device)
    patch = [32, 16, 16] if options.quick else options.patch
    stepped = SteppedMethod(
        "rail_published" if variant == "published" else "rail",
        {
            "preset": "corrected" if variant == "corrected" else "official",
            "turn_length": 1,
            "partner_options": {"filters": options.filters},
        },
        patch=patch,
        network={"name": "vnet", "filters": options.filters},
        device=device,
        precision="bf16" if options.bf16 else "fp32",
    )
    batch = random_batch(patch, options.batch, device=device)
    peak = PeakMemory(device)
    before = peak.mib()
    seconds = [
        stepped.step(batch, Progress("train", 500 + n, 1000)) for n in range(options.steps + 2)
    ]
    return {"seconds": statistics.median(seconds[2:]), "peak_mib": peak.mib() - before}


def measure(options: Namespace, known: Mapping[str, Row]) -> Iterator[Row]:
    """Yield time and memory of each variant over those of the published style."""
    found: dict[str, list[dict[str, float]]] = {v: [] for v in VARIANTS}
    for _ in range(options.repeats):
        for variant in VARIANTS:
            command = [sys.executable, __file__, *sys.argv[1:], "--variant", variant]
            text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[variant].append(json.loads(text))
    best = {v: {k: min(r[k] for r in runs) for k in runs[0]} for v, runs in found.items()}
    for variant in VARIANTS[1:]:
        for key, unit in (("seconds", "s"), ("peak_mib", "MiB")):
            value, base = best[variant][key], best["published"][key]
            yield Row(
                f"{variant}, {'time' if unit == 's' else 'memory'}",
                value / base,
                note=f"{value:.3g} {unit}, published {base:.3g} {unit}",
                details={key: value, f"published_{key}": base},
            )


if __name__ == "__main__":
    parser = options_of(__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--patch", type=int, nargs=3, default=[80, 80, 64])
    parser.add_argument("--batch", type=int, default=2, help="labeled, and as many unlabeled")
    parser.add_argument("--filters", type=int, default=16)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=1, help="processes per variant")
    parser.add_argument("--variant", choices=VARIANTS, help="measure this one in this process")
    given = parser.parse_args()
    if given.variant:
        print(json.dumps(measure_here(given.variant, given)))
    else:
        run_part(parser, measure)
