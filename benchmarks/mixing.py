"""What mixing adds: each method that can, with it and without, against labels alone.

The recipes `hippocampus_METHOD` (the small network, half resolution) with 4 labels and 1000
iterations on the development set (see `development.py`): the test cases take no part. Labels alone
first, then method by method; a run that is there is not trained again, and one that was stopped
goes on.

    python benchmarks/mixing.py --data FOLDER --output RUNS [--methods fixmatch ...] [--seeds 0 1]

Prints a verdict for each method and mixing over the patients of the development set. About three
minutes of one core for each run, ten for `uamt`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from development import CASES, development_settings

import medssl
from medssl.progress import Display

METHODS = ("fixmatch", "mean_teacher", "cps", "uamt")
LABELS, ITERATIONS = 4, 1000


def planned(root: Path, methods: Sequence[str], seeds: Sequence[int]) -> Iterator[tuple[str, ...]]:
    """Yield the name of each run, its recipe and what is set in it.

    Args:
        root: the Decathlon folder of the hippocampus.
        methods: beside labels alone.
        seeds: one run each.
    """
    labeled = json.loads(CASES.read_text())["labeled"][:LABELS]
    common = [
        *development_settings(root),
        f"data.labeled=[{', '.join(labeled)}]",
        f"training.iterations={ITERATIONS}",
    ]
    ways = [("supervised", "")] + [(m, way) for m in methods for way in ("none", "cutmix")]
    for seed in seeds:
        for method, mixing in ways:
            more = [f"method.mixing={mixing}"] if mixing else []
            name = "_".join(filter(None, [method, mixing, str(seed)]))
            yield name, f"hippocampus_{method}", *common, f"seed={seed}", *more


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, and print what is known after each run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of Task04_Hippocampus")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--methods", nargs="*", default=METHODS, choices=METHODS)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1])
    asked = parser.parse_args(arguments)
    root, done = (asked.data / "Task04_Hippocampus").resolve(), []
    for name, recipe, *settings in planned(root, asked.methods, asked.seeds):
        done.append(asked.output / name)
        medssl.train(
            recipe, overrides=settings, output=done[-1], resume_or_start=True, display=Display()
        )
        if len(done) > 1:
            found = medssl.compare(done, output=asked.output / "comparison")
            print(*(verdict["sentence"] for verdict in found["verdicts"]), sep="\n", flush=True)


if __name__ == "__main__":
    main()
