"""What one guided step of `anatomical` costs beside one step of `uamt`.

Both are timed in one process on random patches, taking turns after a warm-up, so that other load on
the machine hits both: student forward and backward, the method's teacher passes, SGD and the moving
average. `uamt` runs with 8 stochastic passes on all patches (the published script `certainty`) and
on the unlabeled ones. Reported: the median over the rounds of the ratio to `anatomical`. The
autoencoder is not trained here: a weight is a weight, and the cost is the same.
"""

from __future__ import annotations

import statistics
from argparse import Namespace
from collections.abc import Iterator, Mapping
from typing import Any

from harness import Row, options_of, run_part
from method_steps import SteppedMethod, random_batch

from medssl.device import resolve_device

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "anatomical corrected": ("anatomical", {}),
    "anatomical official": ("anatomical", {"preset": "official"}),
    "uamt corrected, all patches": ("uamt", {"consistency_on": "all"}),
    "uamt official, all patches": ("uamt", {"preset": "official", "consistency_on": "all"}),
    "uamt official, unlabeled": ("uamt", {"preset": "official"}),
    "mean_teacher": ("mean_teacher", {}),
}
REFERENCE = "anatomical corrected"


def make_method(name: str, patch: list[int], device: Any) -> SteppedMethod:
    """Build one of `METHODS`."""
    method, settings = METHODS[name]
    if method == "anatomical" and settings:
        settings = {**settings, "grid": [-(-n // 16) for n in patch]}
    return SteppedMethod(method, settings, patch=patch, device=device)


def measure(options: Namespace, known: Mapping[str, Row]) -> Iterator[Row]:
    """Yield each method's time over the reference's."""
    device = resolve_device(options.device)
    patch = [16] * len(options.patch) if options.quick else options.patch
    batch = random_batch(patch, options.batch, device=device)
    methods = {name: make_method(name, patch, device) for name in METHODS}
    for stepped in methods.values():
        stepped.step(batch)
    rounds = [
        {name: stepped.step(batch) for name, stepped in methods.items()}
        for _ in range(2 if options.quick else options.rounds)
    ]
    for name in methods:
        ratios = [r[name] / r[REFERENCE] for r in rounds]
        seconds = statistics.median(r[name] for r in rounds)
        yield Row(
            name,
            statistics.median(ratios),
            note=f"{seconds:.2f} s; at least {min(ratios):.2f} times {REFERENCE}",
            details={"seconds": seconds, "ratio_min": min(ratios), "patch": patch},
        )


if __name__ == "__main__":
    parser = options_of(__doc__)
    parser.add_argument("--patch", type=int, nargs="+", default=[48, 48, 32])
    parser.add_argument("--batch", type=int, default=2, help="labeled, and as many unlabeled")
    parser.add_argument("--rounds", type=int, default=5)
    run_part(parser, measure)
