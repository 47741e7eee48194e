"""What one guided step of `anatomical` costs beside one step of `uamt`.

Both are timed in one process on random patches, taking turns after a warm-up, so that other load on
the machine hits both: student forward and backward, the method's teacher passes, SGD and the moving
average. `uamt` runs with 8 stochastic passes on all patches (the published script `certainty`) and
on the unlabeled ones. Reported: medians, and the median over the rounds of the ratio to
`anatomical`. The autoencoder is not trained here: a weight is a weight, and the cost is the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from medssl.methods import Batch, LabeledBatch, Method, Progress, UnlabeledBatch, get_method
from medssl.networks import build_network

ARMS: dict[str, tuple[str, dict[str, object]]] = {
    "anatomical corrected": ("anatomical", {}),
    "anatomical official": ("anatomical", {"preset": "official"}),
    "uamt corrected, all patches": ("uamt", {"consistency_on": "all"}),
    "uamt official, all patches": ("uamt", {"preset": "official", "consistency_on": "all"}),
    "uamt official, unlabeled": ("uamt", {"preset": "official"}),
    "mean_teacher": ("mean_teacher", {}),
}
TOTAL = 8000


class Arm:
    """A method that takes steps on the same batch."""

    def __init__(self, method: str, settings: dict[str, object], patch: list[int]) -> None:
        cls = get_method(method)
        dims = len(patch)
        if method == "anatomical" and settings:
            settings = {**settings, "grid": [-(-n // 16) for n in patch]}

        def build(**_: object) -> torch.nn.Module:
            return build_network("vnet", spatial_dims=dims, in_channels=1, num_classes=2)

        torch.manual_seed(0)
        self.method: Method = cls(
            cls.Settings(**settings), build, num_classes=2, spatial_dims=dims
        ).train()
        self.stage = self.method.stages(TOTAL)[-1]
        self.method.start_stage(self.stage.name)
        (parameters,) = self.method.trainable(self.stage.name).values()
        self.optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=1e-4)
        # The last iteration: every schedule is over, nothing is skipped.
        self.progress = Progress(self.stage.name, self.stage.iterations - 1, self.stage.iterations)

    def step(self, batch: Batch) -> float:
        """Take a step and return its seconds."""
        started = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        for loss in self.method.training_step(batch, self.progress).losses():
            loss.backward()
        self.optimizer.step()
        self.method.after_step(self.progress)
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patch", type=int, nargs="+", default=[48, 48, 32])
    parser.add_argument("--batch", type=int, default=2, help="labeled, and as many unlabeled")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()

    image = torch.randn(2 * options.batch, 1, *options.patch)
    label = torch.randint(0, 2, (options.batch, *options.patch))
    batch = Batch(
        LabeledBatch(image[: options.batch], label), UnlabeledBatch(image[options.batch :])
    )
    arms = {name: Arm(*which, options.patch) for name, which in ARMS.items()}
    for arm in arms.values():
        arm.step(batch)
    rounds = [{name: arm.step(batch) for name, arm in arms.items()} for _ in range(options.rounds)]
    reference = "anatomical corrected"
    rows = {
        name: {
            "seconds": statistics.median(r[name] for r in rounds),
            "ratio": statistics.median(r[name] / r[reference] for r in rounds),
            "ratio_min": min(r[name] / r[reference] for r in rounds),
        }
        for name in arms
    }
    for name, row in rows.items():
        print(
            f"{name:30} {row['seconds']:7.2f} s  {row['ratio']:5.2f} times {reference} "
            f"(at least {row['ratio_min']:.2f})"
        )
    if options.output:
        threads = torch.get_num_threads()
        record = {"patch": options.patch, "threads": threads, "rounds": options.rounds}
        options.output.write_text(json.dumps({**record, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
