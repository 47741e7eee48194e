"""What RAIL saves by predicting with the inactive students without gradients.

Variants of one step (forward, backward, SGD, EMA) with V-Net and ResV-Net, after the first term:
``published`` keeps autograd graphs of all four students and runs the teacher twice in train mode on
the whole batch; ``no_grad`` is the preset official (same numbers, no graphs of inactive students);
``corrected`` is the default. Each runs in its own process, in turns. Reported: median seconds per
step (on a CPU those the process computed, which a busy machine disturbs less) and peak memory above
that before the first step (on a CPU the resident memory).
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from medssl.methods import Batch, LabeledBatch, Progress, UnlabeledBatch
from medssl.methods.rail import Rail
from medssl.methods.rail_presets import RailSettings
from medssl.networks import build_network

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


def memory(device: torch.device) -> float:
    """Return the peak memory so far in MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(variant: str, options: argparse.Namespace) -> dict[str, float]:
    """Run ``options.steps`` steps of a variant after two to warm up."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)

    def build(network: str = "vnet", **_: Any) -> nn.Module:
        return build_network(
            network,
            spatial_dims=3,
            in_channels=1,
            num_classes=2,
            options={"filters": options.filters},
        )

    preset = "corrected" if variant == "corrected" else "official"
    settings = RailSettings(preset=preset, turn_length=1)
    kind = Published if variant == "published" else Rail
    method = kind(settings, build, num_classes=2, spatial_dims=3).to(device).train()
    optimizers = [
        torch.optim.SGD(p, lr=0.01, momentum=0.9) for p in method.trainable("train").values()
    ]
    image = torch.randn(2 * options.batch, 1, *options.patch, device=device)
    label = (image[: options.batch, 0] > 0.5).long()
    batch = Batch(
        LabeledBatch(image[: options.batch], label), UnlabeledBatch(image[options.batch :])
    )
    before, seconds = memory(device), []
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    for step in range(options.steps + 2):
        started = clock()
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        progress = Progress("train", 500 + step, 1000)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=options.bf16):
            losses = iter(method.training_step(batch, progress).losses())
        while (loss := next(losses, None)) is not None:
            loss.backward()
        for optimizer in optimizers:
            if any(p.grad is not None for g in optimizer.param_groups for p in g["params"]):
                optimizer.step()
        method.after_step(progress)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(clock() - started)
    return {"seconds": statistics.median(seconds[2:]), "peak_mib": memory(device) - before}


def main() -> None:
    """Measure every variant and write a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--patch", type=int, nargs=3, default=[48, 48, 32])
    parser.add_argument("--batch", type=int, default=2, help="labeled, and as many unlabeled")
    parser.add_argument("--filters", type=int, default=16)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=1, help="processes per variant")
    parser.add_argument("--variant", choices=VARIANTS, help="measure this one in this process")
    options = parser.parse_args()
    if options.variant:
        print(json.dumps(measure(options.variant, options)))
        return
    found: dict[str, list[dict[str, float]]] = {v: [] for v in VARIANTS}
    for _ in range(options.repeats):
        for variant in VARIANTS:
            command = [sys.executable, __file__, *sys.argv[1:], "--variant", variant]
            text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[variant].append(json.loads(text))
    print(f"{'variant':12s} {'s/step':>8s} {'ratio':>6s} {'peak MiB':>9s} {'ratio':>6s}")
    base: dict[str, float] = {}
    for variant, runs in found.items():
        best = {k: min(r[k] for r in runs) for k in runs[0]}
        base = base or best
        ratios = {k: v / base[k] for k, v in best.items()}
        print(
            f"{variant:12s} {best['seconds']:8.3f} {ratios['seconds']:6.2f} "
            f"{best['peak_mib']:9.0f} {ratios['peak_mib']:6.2f}"
        )


if __name__ == "__main__":
    main()
