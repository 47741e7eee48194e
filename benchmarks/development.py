"""Train on the development set of the hippocampus: where choices are made, and not on test cases.

`development_cases.json` names four parts of the dataset's 200 cases with labels: the 8 `labeled`
and the 40 `test` cases of `recipes/hippocampus_*.yaml` with `data.labeled=8`, and of the 152 whose
labels stay hidden 40 for `development`. The recipe is trained with the same labels, the other 112
as unlabeled scans, and is measured on the development cases; the test cases take no part at all.

    python benchmarks/development.py RECIPE --data FOLDER --output RUN [--set section.key=value ...]

A second call with the same `--output` goes on where the first was stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import medssl
from medssl.progress import Display

CASES = Path(__file__).with_name("development_cases.json")


AT_FULL_RESOLUTION = ("supervised", "bcp")
"""Methods whose recipe has the network that a plan chooses; the others have a small one."""


def on_small_network(method: str) -> tuple[str, list[str]]:
    """Return a method's recipe with the small network (half resolution), and what to set in it."""
    if method not in AT_FULL_RESOLUTION:
        return f"hippocampus_{method}", []
    return "hippocampus_mean_teacher", [f"method={method}"]


def development_settings(root: Path) -> list[str]:
    """Return the settings of a recipe's section `data` that hold the development set apart.

    Args:
        root: the Decathlon folder of the hippocampus.
    """
    held_back = json.loads(CASES.read_text())["test"]
    return [
        f"data.root={root}",
        f"data.labeled={{file: {CASES}, key: labeled}}",
        f"data.test={{file: {CASES}, key: development}}",
        f"data.excluded=[{', '.join(held_back)}]",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and print Dice on the development set."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("recipe")
    parser.add_argument("--data", type=Path, required=True, help="folder of Task04_Hippocampus")
    parser.add_argument("--output", type=Path, required=True, help="run folder")
    parser.add_argument("--set", nargs="*", default=[], help="section.key=value, after the others")
    asked = parser.parse_args(arguments)
    root = (asked.data / "Task04_Hippocampus").resolve()
    result = medssl.train(
        asked.recipe,
        overrides=[*development_settings(root), *asked.set],
        output=asked.output,
        resume_or_start=True,
        display=Display(),
    )
    print(f"development: Dice {result.summaries['test']['overall']['metrics']['dice']['mean']}")


if __name__ == "__main__":
    main()
