"""What was measured, from run folders that this script trains: evidence, ablation, unlike scans.

    python benchmarks/evidence.py run --data FOLDER --output RUNS [--arms hippocampus-8 ...]
    python benchmarks/evidence.py run --table ablation --data FOLDER --output RUNS
    python benchmarks/evidence.py run --table ablation --toy      # seconds a run, no data
    python benchmarks/evidence.py run --table poison --output RUNS
    python benchmarks/evidence.py page

`run` trains what is missing of a table of `arms.py`, the first seed of all arms first, and adds the
figures of every finished run to a file of `docs/`: Dice of each test patient and structure, time
and budget, no name of a case or file. A second call goes on where the first was stopped; figures of
runs that were made elsewhere stay. `page` makes the pages and README's table anew from those files.
Arms on the development set (see `development.py`) are where choices were made; those on the test
cases are run once the choice stands. A run is `RUNS/GROUP_ARM_SEED`; finished ones that are put
there under these names are read and not trained.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml
from arms import ALONE, TABLES, TOY, Arm, Table, chosen
from evidence_page import Rows, between, groups, table, whole_page
from harness import ROOT
from poison import wrong_cases

import medssl
from medssl.files.formats import write_text
from medssl.progress import Display
from medssl.runs.folder import RunFolder, open_run

DOCS, README = ROOT / "docs", ROOT / "README.md"
TABLED = "hippocampus-8"
"""Group of README's table."""


def folder_of(arm: Arm, seed: int, runs: Path) -> Path:
    """Return the folder of a run."""
    return runs / f"{arm.group}_{re.sub('[^a-z0-9_.-]+', '-', arm.name)}_{seed}"


def train_arm(arm: Arm, seed: int, data: Path, runs: Path) -> dict[str, Any]:
    """Train one run where it is not finished, and return its figures."""
    named = {"group": arm.group, "arm": arm.name, "seed": seed}
    if arm.recipe == TOY:
        return named | play(arm, seed)
    output = folder_of(arm, seed, runs)
    if not RunFolder(output).is_finished():
        medssl.train(
            arm.recipe,
            overrides=[
                *arm.place(data, runs),
                *arm.settings,
                f"seed={seed}",
                "training.workers=0",
            ],
            output=output,
            resume_or_start=True,
            display=Display(),
        )
    found = named | figures_of(output)
    if arm.poison and (output / "unlabeled.csv").is_file():
        found["auroc"] = round(auroc(output, wrong_cases(arm.poison)), 4)
    return found


def figures_of(run: Path) -> dict[str, Any]:
    """Return what is kept of a finished run: budget, time, and Dice of each test patient.

    Args:
        run: its folder. Patients stand in the order of their names, which are not kept.
    """
    folder = open_run(run)
    manifest = json.loads((folder.path / "manifest.json").read_text(encoding="utf-8"))
    with (folder.path / "evaluation" / "test" / "cases.csv").open(encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: (row["name"], row["case"]))
    dice = {
        name: [round(float(row["dice"]), 6) for row in found]
        for name, found in groupby(rows, key=lambda row: row["name"])
    }
    return {
        "method": manifest["method"],
        "labels": manifest["cases"]["labeled"],
        "unlabeled": manifest["cases"]["unlabeled"],
        "iterations": manifest["iterations_done"],
        "minutes": round(manifest["training_seconds"] / 60, 1),
        "threads": manifest["threads"],
        "precision": manifest["precision"],
        "parameters": manifest["parameters"],
        "medssl": manifest["git"],
        "dice": dice,
    }


def auroc(run: Path, wrong: Sequence[str]) -> float:
    """Return how often ``unlabeled.csv`` has a wrong scan below a good one."""
    with (run / "unlabeled.csv").open(encoding="utf-8") as file:
        scores = {row["case"]: float(row["score"]) for row in csv.DictReader(file)}
    bad = [scores[case] for case in wrong]
    good = [value for case, value in scores.items() if case not in wrong]
    pairs = [(b < g) + 0.5 * (b == g) for b in bad for g in good]
    return sum(pairs) / len(pairs)


def play(arm: Arm, seed: int) -> dict[str, Any]:
    """Train on the toy task, and return the figures."""
    if (support := str(ROOT / "tests" / "support")) not in sys.path:
        sys.path.insert(0, support)
    import toy_task as task

    started, given = time.monotonic(), dict[str, Any]()
    for line in arm.settings:
        key, _, value = line.partition("=")
        given[key.removeprefix("method.")] = yaml.safe_load(value)
    method = given.pop("method", "self_training")
    labeled = task.draw_images(1000 + seed, task.LABELED, task.LABELED_HARDNESS)
    unlabeled = task.draw_images(2000 + seed, task.UNLABELED, 1)[0]
    predictor = task.train(method, seed, labeled, unlabeled, given=given)
    dice = task.foreground_dice(predictor, *task.draw_images(3000, task.HELD_OUT, 1))
    return {
        "method": method,
        "labels": task.LABELED,
        "unlabeled": task.UNLABELED,
        "iterations": task.ITERATIONS,
        "minutes": round((time.monotonic() - started) / 60, 2),
        "precision": "fp32",
        "dice": {"both": [round(float(value), 6) for value in dice]},
    }


def keep(row: Mapping[str, Any], path: Path) -> None:
    """Add a run's figures to the file, in the place of the same run's earlier ones."""
    same = ("group", "arm", "seed")
    rows = [r for r in read(path) if any(r[key] != row[key] for key in same)]
    rows = sorted([*rows, dict(row)], key=lambda r: tuple(str(r[k]) for k in same))
    lines = ",\n".join(json.dumps(row) for row in rows)  # a run a line
    write_text(path, f"[\n{lines}\n]\n")


def read(path: Path) -> list[dict[str, Any]]:
    """Return the figures of all runs."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def page(made: Table, rows: Rows, before: str) -> str:
    """Return the page of a table: of evidence all of it, of others what stands between marks."""
    if made.reference == ALONE:
        return whole_page(rows)
    lines = [line.replace("## ", "### ", 1) for line in groups(rows, made.reference)]
    return between(before, "figures", lines)


def write_pages() -> None:
    """Make the pages whose figures there are, and README's table."""
    for made in TABLES.values():
        if rows := read(DOCS / made.figures):
            path = DOCS / made.page
            before = path.read_text(encoding="utf-8") if path.is_file() else ""
            write_text(path, page(made, rows, before))
    readme = README.read_text(encoding="utf-8")
    shown = [r for r in read(DOCS / TABLES["evidence"].figures) if r["group"] == TABLED]
    if shown:
        write_text(README, between(readme, "evidence", table(shown)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, or make the pages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("command", choices=("run", "page"))
    parser.add_argument("--table", choices=sorted(TABLES), default="evidence")
    parser.add_argument("--data", type=Path, help="folder of the Decathlon datasets")
    parser.add_argument("--output", type=Path, default=Path("runs"), help="run folders")
    parser.add_argument("--arms", nargs="*", default=[], help="groups, or GROUP/ARM")
    parser.add_argument("--toy", action="store_true", help="the arms of the toy task alone")
    asked = parser.parse_args(arguments)
    if asked.command == "run":
        made = TABLES[asked.table]
        figures = DOCS / made.figures
        known = {(r["group"], r["arm"], r["seed"]) for r in read(figures)}
        arms = list(chosen(made, asked.arms, asked.toy))
        for seed in range(max((arm.seeds for arm in arms), default=0)):
            for arm in (a for a in arms if seed < a.seeds):
                if arm.recipe == TOY and (arm.group, arm.name, seed) in known:
                    continue
                keep(train_arm(arm, seed, asked.data, asked.output), figures)
    write_pages()


if __name__ == "__main__":
    main()
