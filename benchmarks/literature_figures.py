"""Write what a finished run shows: its curve as a PNG, and its figures as a small JSON.

    python benchmarks/literature_figures.py RUN --output FOLDER

Writes ``NAME_curve.png`` and ``NAME.json``, NAME being the recipe's. No case, file or folder is
named in them, so both can go into public documentation.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import harness
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from medssl.recipe.load import load_recipe
from medssl.reports.figures import COLORS, read_metrics
from medssl.runs.folder import RunFolder, open_run

KEPT = ("method", "protocol", "seed", "precision", "device_name", "medssl", "git", "cases")


def draw_curve(records: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """Draw the total loss and, if there were validations, their Dice over the iterations."""
    keys = [
        (key, name)
        for key, name in (("loss/total", "loss"), ("validation/dice", "validation Dice"))
        if any(key in r for r in records)
    ]
    figure, panels = plt.subplots(
        len(keys), 1, figsize=(7.2, 2.6 * len(keys)), sharex=True, squeeze=False
    )
    starts: dict[str, int] = {}
    for record in records:
        starts.setdefault(record["stage"], record["step"])
    for axes, (key, name), color in zip(panels[:, 0], keys, COLORS, strict=False):
        steps, values = np.array([(r["step"], r[key]) for r in records if key in r], float).T
        width = max(1, len(values) // 100)
        smooth = np.convolve(values, np.ones(width) / width, "valid")
        axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
        axes.plot(steps[width - 1 :], smooth, color=color, linewidth=1.6)
        axes.set_ylabel(name)
        axes.grid(alpha=0.25)
        for stage, step in starts.items():
            axes.axvline(step, color="#999999", linewidth=0.8, linestyle=":")
            place = axes.get_xaxis_transform()
            axes.text(step, 1.01, f" {stage}", transform=place, fontsize=8, color="#666666")
    panels[0, 0].set_title(title, pad=16)
    panels[-1, 0].set_xlabel("iteration")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def figures_of(run: RunFolder) -> dict[str, Any]:
    """Return what is worth quoting: how it was trained, what it took, and what it reached."""
    manifest, recipe = run.read_manifest(), load_recipe(run.recipe).recipe
    evaluations = {}
    for path in sorted(run.path.glob("evaluation/*/summary.json")):
        summary = json.loads(path.read_text())
        kept = ("split", "checkpoint", "n_cases", "n_patients", "unit", "overall", "structures")
        evaluations[path.parent.name] = {key: summary[key] for key in kept if key in summary}
    training = recipe.training
    return {
        "recipe": recipe.name,
        **{key: manifest[key] for key in KEPT if key in manifest},
        "torch": manifest["versions"]["torch"],
        "iterations": manifest["iterations_done"],
        "patch": training.patch,
        "batch": [training.labeled_batch, training.unlabeled_batch],
        "training_hours": round(manifest["training_seconds"] / 3600, 3),
        "peak_memory_gib": {
            key: round(value / 2**30, 2) for key, value in manifest["peak_memory_bytes"].items()
        },
        "evaluation": evaluations,
    }


def main() -> None:
    """Write both files and print the Dice."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--output", type=Path, default=Path("docs"))
    options = parser.parse_args()
    run = open_run(options.run)
    figures = figures_of(run)
    name = figures["recipe"]
    title = f"{name}: {figures['iterations']} iterations on {figures['device_name']}"
    draw_curve(read_metrics(run.metrics), title, options.output / f"{name}_curve.png")
    harness.write_json(options.output / f"{name}.json", figures)
    for place, summary in figures["evaluation"].items():
        dice = summary["overall"]["metrics"]["dice"]
        print(
            f"{place} ({summary['checkpoint']}): Dice {dice['mean']:.4f} "
            f"[{dice['low']:.4f}, {dice['high']:.4f}], {summary['n_patients']} patients"
        )
    print(f"{options.output / name}_curve.png, {options.output / name}.json")


if __name__ == "__main__":
    main()
