"""Test Dice against the number of labels, with and without unlabeled images: table, JSON and plot.

Trains every method for every number of labels and seed, all else equal, and pairs each method with
``supervised`` case by case. Finished runs are not repeated, so it can be stopped and started.

    python benchmarks/label_efficiency.py --data Task04_Hippocampus --runs runs/hippocampus \\
        --labeled 4 8 16 all --seeds 3 --output docs/hippocampus

writes docs/hippocampus.json, docs/hippocampus.png and docs/hippocampus_table.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from medssl.evaluation.statistics import paired_bootstrap
from medssl.evaluation.summary import read_cases_csv


def train(job: dict[str, Any], options: argparse.Namespace) -> Path:
    """Train one combination unless it is finished."""
    run = options.runs / f"{job['method']}-{job['labeled']}-{job['seed']}"
    manifest = run / "manifest.json"
    if manifest.is_file() and json.loads(manifest.read_text()).get("status") == "finished":
        return run
    recipe = f"{options.recipe}_{job['method']}"
    labeled = "null" if job["labeled"] == "all" else job["labeled"]
    settings = [f"seed={job['seed']}", f"data.labeled={labeled}", *options.set]
    if options.data:
        settings.append(f"data.root={options.data}")
    command = [sys.executable, "-m", "medssl", "--quiet", "train", recipe, "--output", str(run)]
    command += [word for s in settings for word in ("--set", s)]
    if run.exists():
        command.append("--resume")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{run.name}: {done.stderr.strip()}")
    print(f"{run.name} finished", flush=True)
    return run


def case_dice(run: Path) -> dict[str, float]:
    """Return the mean Dice over structures of each test case."""
    scores: dict[str, list[float]] = {}
    for row in read_cases_csv(run / "evaluation" / "test" / "cases.csv"):
        if row["status"] != "absent":
            scores.setdefault(row["case"], []).append(row["dice"])
    return {case: float(np.mean(values)) for case, values in scores.items()}


def collect(runs: dict[tuple[str, str, int], Path]) -> list[dict[str, Any]]:
    """Return one row per method and number of labels."""
    rows = []
    for method, labeled in dict.fromkeys((m, n) for m, n, _ in runs):
        own = {s: case_dice(p) for (m, n, s), p in runs.items() if (m, n) == (method, labeled)}
        base = {
            s: case_dice(p) for (m, n, s), p in runs.items() if (m, n) == ("supervised", labeled)
        }
        cases = sorted(next(iter(own.values())))
        values = np.array([[own[s][c] for c in cases] for s in sorted(own)])
        manifests = [
            json.loads((p / "manifest.json").read_text())
            for (m, n, _), p in runs.items()
            if (m, n) == (method, labeled)
        ]
        row = {
            "method": method,
            "labeled": labeled,
            "dice": float(values.mean()),
            "dice_per_seed": [float(v.mean()) for v in values],
            "test_cases": len(cases),
            "minutes": float(np.mean([m["wall_seconds"] for m in manifests])) / 60,
            "iterations": manifests[0]["iterations_done"],
            "threads": manifests[0]["threads"],
        }
        if method != "supervised" and base:
            other = np.array([[base[s][c] for c in cases] for s in sorted(base)])
            result = paired_bootstrap(values, other, paired_seeds=values.shape == other.shape)
            row |= {
                "gain": result.mean_difference,
                "gain_low": result.low,
                "gain_high": result.high,
            }
            over_cases = paired_bootstrap(values.mean(0), other.mean(0))
            row |= {"gain_low_cases": over_cases.low, "gain_high_cases": over_cases.high}
        rows.append(row)
    return rows


def write_table(rows: list[dict[str, Any]], path: Path) -> None:
    """Write the rows as Markdown."""
    lines = [
        "| labels | method | test Dice, mean (seeds) | gain over labels alone, 95 % interval over "
        "cases | over cases and seeds | minutes |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        seeds = ", ".join(f"{v:.3f}" for v in row["dice_per_seed"])
        gain = both = ""
        if "gain" in row:
            gain = (
                f"{row['gain']:+.4f} [{row['gain_low_cases']:+.4f}, {row['gain_high_cases']:+.4f}]"
            )
            both = f"[{row['gain_low']:+.4f}, {row['gain_high']:+.4f}]"
        score = f"{row['dice']:.3f} ({seeds})"
        cells = (row["labeled"], f"`{row['method']}`", score, gain, both, f"{row['minutes']:.1f}")
        lines.append("| " + " | ".join(str(c) for c in cells) + " |")
    path.write_text("\n".join(lines) + "\n")


def plot(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """Draw Dice against the number of labels, one line per method, a dot per seed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels = list(dict.fromkeys(r["labeled"] for r in rows))
    figure = Figure(figsize=(6.4, 4), dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for method, color in zip(
        dict.fromkeys(r["method"] for r in rows), ("#555555", "#00a08a", "#d1495b"), strict=False
    ):
        own = [r for r in rows if r["method"] == method]
        x = [labels.index(r["labeled"]) for r in own]
        axes.plot(x, [r["dice"] for r in own], "-", color=color, label=method)
        for i, r in zip(x, own, strict=True):
            axes.plot(
                [i] * len(r["dice_per_seed"]), r["dice_per_seed"], ".", color=color, alpha=0.6
            )
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlabel("labeled patients")
    axes.set_ylabel(f"mean test Dice, {rows[0]['test_cases']} cases")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recipe", default="hippocampus", help="recipes are NAME_METHOD")
    parser.add_argument("--data", help="dataset folder")
    parser.add_argument("--methods", nargs="+", default=["supervised", "bcp"])
    parser.add_argument("--labeled", nargs="+", default=["4", "8", "16", "all"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", nargs="*", default=[], help="overrides for every run")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="stem of the files to write")
    options = parser.parse_args()
    jobs = [
        {"method": m, "labeled": n, "seed": s}
        for n in options.labeled
        for s in range(options.seeds)
        for m in options.methods
        if n != "all" or m == "supervised"  # without unlabeled cases there is nothing to compare
    ]
    options.runs.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        paths = list(pool.map(lambda job: train(job, options), jobs))
    runs = {(j["method"], j["labeled"], j["seed"]): p for j, p in zip(jobs, paths, strict=True)}
    rows = collect(runs)
    options.output.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
    write_table(rows, options.output.parent / f"{options.output.name}_table.md")
    plot(rows, options.output.with_suffix(".png"), f"{options.recipe}, {options.seeds} seeds")
    print((options.output.parent / f"{options.output.name}_table.md").read_text())


if __name__ == "__main__":
    main()
