"""The page of evidence: what unlabeled scans add, from run folders that this script trains.

    python benchmarks/evidence.py run --data FOLDER --output RUNS [--arms hippocampus-8 ...]
    python benchmarks/evidence.py page

`run` trains what is missing of the table of arms below, one run after the other, and adds the
figures of every finished run to `docs/evidence.json`: Dice of each test patient and structure, time
and budget, no name of a case or file. A second call goes on where the first was stopped; figures of
runs that were made elsewhere stay. `page` makes `docs/evidence.md` and README's table anew from
that file. Arms on the development set (see `development.py`) are where choices were made; those on
the test cases are run once the choice stands.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from development import development_settings
from harness import ROOT

import medssl
from medssl.evaluation.statistics import Interval, paired_interval
from medssl.files.formats import write_text
from medssl.progress import Display
from medssl.runs.folder import open_run

FIGURES, PAGE = ROOT / "docs" / "evidence.json", ROOT / "docs" / "evidence.md"
README = ROOT / "README.md"
ALONE = "supervised"
BEGIN, END = "<!-- evidence: made by benchmarks/evidence.py page -->", "<!-- end of evidence -->"


@dataclass(frozen=True)
class Arm:
    """One recipe with its settings, trained with several seeds.

    Attributes:
        group: what is compared with each other; the twin of a method is the group's `supervised`.
        name: of the arm within its group.
        recipe: shipped recipe.
        settings: ``section.key=value`` beside those of the group.
        seeds: one run each.
        folder: the dataset's folder within ``--data``.
    """

    group: str
    name: str
    recipe: str
    settings: tuple[str, ...] = ()
    seeds: int = 1
    folder: str = "Task04_Hippocampus"


BASE = (
    "network={name: dynunet, filters: [16, 32, 64, 128]}",
    "training.iterations=1500",
    "training.precision=bf16",
    "inference.tta=true",
)
"""A full-resolution U-Net of the small recipes' widths, mirrored as the data spec allows."""

DEEP = "network={name: dynunet, filters: [16, 32, 64, 128], deep_supervision: true}"
SGD = "training.optimizer={name: sgd, lr: 0.01, momentum: 0.99, nesterov: true}"
ADAMW = (
    "training.optimizer={name: adamw, lr: 0.001, weight_decay: 0.01}",
    "training.schedule={name: poly, warmup: 75}",
)
CHOICES: dict[str, tuple[str, ...]] = {
    ALONE: BASE,
    "deep": (*BASE, DEEP),
    "augment": (*BASE, DEEP, "training.augment=nnunet"),
    "deform": (*BASE, DEEP, "training.augment.deform_voxels=2.0"),
    "adamw": (*BASE, DEEP, *ADAMW),
    "sgd": (*BASE, DEEP, SGD),
    "fp32": (*BASE, "training.precision=fp32"),
}
"""What the base was chosen among, on the development set."""


def arms() -> Iterator[Arm]:
    """Yield the arms in the order in which they are trained."""
    for name, settings in CHOICES.items():
        yield Arm("hippocampus-8-development", name, "hippocampus_supervised", settings)
    yield Arm("hippocampus-8-development", "bcp", "hippocampus_bcp", (*BASE, DEEP))
    for labels, seeds in (("8", 3), ("4", 1), ("16", 1)):
        group, some = f"hippocampus-{labels}", (f"data.labeled={labels}",)
        yield Arm(group, ALONE, "hippocampus_supervised", some, seeds)
        yield Arm(group, "bcp", "hippocampus_bcp", some, seeds)
    everything = ("data.labeled=all",)
    yield Arm("hippocampus-all", ALONE, "hippocampus_supervised", everything)


def train_arm(arm: Arm, seed: int, data: Path, runs: Path) -> dict[str, Any]:
    """Train one run where it is not finished, and return its figures."""
    root = (data / arm.folder).resolve()
    where = (f"data.root={root}",)
    if arm.group.endswith("-development"):
        where = tuple(development_settings(root))
    output = runs / f"{arm.group}_{arm.name}_{seed}"
    medssl.train(
        arm.recipe,
        overrides=[*where, *arm.settings, f"seed={seed}", "training.workers=0"],
        output=output,
        resume_or_start=True,
        display=Display(),
    )
    return {"group": arm.group, "arm": arm.name, "seed": seed, **figures_of(output)}


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


# ---------------------------------------------------------------------- the page


def patients(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Return Dice of ``(runs, patients)``: the mean of each patient's structures."""
    return np.array([np.mean(list(row["dice"].values()), axis=0) for row in rows])


def gain(rows: Sequence[Mapping[str, Any]], alone: Sequence[Mapping[str, Any]]) -> Interval:
    """Return the paired gain of some runs over others on the same patients."""
    return paired_interval(patients(rows), patients(alone), bounds=(-1.0, 1.0))


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the rows of one group in Markdown, labels alone first."""
    by_arm: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda r: (r["arm"] != ALONE, r["arm"], r["seed"])):
        by_arm.setdefault(row["arm"], []).append(row)
    lines = [
        "| arm | labels | Dice (seeds) | gain over labels alone | each structure | iterations "
        "| minutes a run |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in by_arm.items():
        each = patients(found).mean(1)
        dice = f"{each.mean():.4f}"
        if len(each) > 1:
            dice += f" ({', '.join(f'{value:.4f}' for value in each)})"
        more, structures = "", _structures(found, None)
        if name != ALONE and ALONE in by_arm:
            found_gain = gain(found, by_arm[ALONE])
            more = f"{found_gain.mean:+.4f} [{found_gain.low:+.4f}, {found_gain.high:+.4f}]"
            structures = _structures(found, by_arm[ALONE])
        minutes = np.mean([row["minutes"] for row in found])
        lines.append(
            f"| `{name}` | {found[0]['labels']} | {dice} | {more} | {structures} "
            f"| {found[0]['iterations']} | {minutes:.0f} ({found[0]['precision']}) |"
        )
    return lines


def _structures(
    rows: Sequence[Mapping[str, Any]], alone: Sequence[Mapping[str, Any]] | None
) -> str:
    means = []
    for name in rows[0]["dice"]:
        value = np.mean([row["dice"][name] for row in rows])
        if alone is not None:
            value -= np.mean([row["dice"][name] for row in alone])
        means.append(f"{name} {value:{'+.3f' if alone is not None else '.3f'}}")
    return ", ".join(means)


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the page of evidence."""
    lines = [
        "# The evidence",
        "",
        "Made by `python benchmarks/evidence.py page` from `evidence.json`, which "
        "`benchmarks/evidence.py run` fills. Dice is the mean over structures on the native grid",
        "of patients whom no run saw; every arm of a table has the same patients, network, "
        "augmentation and last checkpoint. Intervals: 95 %, paired over",
        "patients and, with several seeds, over runs. Groups named development are where "
        "choices were made: no test patient takes part in them. Time is that",
        "of one core unless threads are named.",
        "",
    ]
    for group, found in groupby(sorted(rows, key=lambda r: r["group"]), key=lambda r: r["group"]):
        rows_of_group = list(found)
        count = patients(rows_of_group[:1]).shape[1]
        lines += [f"## {group}", "", f"{count} patients.", "", *table(rows_of_group), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def with_table(readme: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return README with the table between its marks made anew."""
    shown = [r for r in rows if r["group"] == "hippocampus-8"]
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n" + "\n".join(table(shown)) + f"\n{END}{after}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, or make the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("command", choices=("run", "page"))
    parser.add_argument("--data", type=Path, help="folder of the Decathlon datasets")
    parser.add_argument("--output", type=Path, help="run folders")
    parser.add_argument("--arms", nargs="*", default=[], help="groups, or GROUP/ARM")
    asked = parser.parse_args(arguments)
    if asked.command == "run":
        for arm in arms():
            if asked.arms and not {arm.group, f"{arm.group}/{arm.name}"} & set(asked.arms):
                continue
            for seed in range(arm.seeds):
                keep(train_arm(arm, seed, asked.data, asked.output), FIGURES)
    rows = read(FIGURES)
    PAGE.write_text(page(rows), encoding="utf-8")
    readme = README.read_text(encoding="utf-8")
    if BEGIN in readme:
        README.write_text(with_table(readme, rows), encoding="utf-8")


if __name__ == "__main__":
    main()
