"""Does a cross-validation of 8 labels tell the truth? Hippocampus, 40 cases that no run ever sees.

    python benchmarks/crossval_truth.py /path/to/Task04_Hippocampus --output FOLDER
    python benchmarks/crossval_truth.py /path/to/Task04_Hippocampus --output FOLDER --table

For each of five choices of 8 labeled patients, 152 others unlabeled and 40 in neither:

* `medssl crossval`, four folds, the method and its labeled-only twin: the out-of-fold estimate;
* the truth it estimates: the mean of the fold models over the 40 cases, one model at a time;
* what a user would do with it: the folds as one ensemble, a model of all 8 labels, and, at the
  ensemble's cost, four seeds on all 8, one at a time and as an ensemble.

Everything is made by the public functions, one after the other, so that an interrupted study goes
on where it stopped. ``figures.csv`` has a row per choice; the table is made from it.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from development import on_small_network

import medssl
from medssl.evaluation.statistics import paired_interval

RECIPE, METHOD = on_small_network("bcp")
TEST, LABELS, FOLDS, SEEDS, CHOICES = 40, 8, 4, 4, 5
ITERATIONS = 1000
FIGURES = "figures.csv"


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--iterations", type=int, default=ITERATIONS)
    parser.add_argument("--choices", type=int, default=CHOICES)
    parser.add_argument("--table", action="store_true", help="only print what is there")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if not args.table:
        study = Study(args.dataset.resolve(), args.output, args.iterations)
        for choice in range(args.choices):
            study.run(choice)
            print(f"choice {choice} is done", flush=True)
    print(table(args.output))


class Study:
    """The runs of one folder.

    Args:
        dataset: Decathlon folder of the hippocampus.
        folder: where everything is written.
        iterations: of every run.
    """

    def __init__(self, dataset: Path, folder: Path, iterations: int) -> None:
        self.dataset, self.folder, self.iterations = dataset, folder, iterations
        listed = json.loads((dataset / "dataset.json").read_text(encoding="utf-8"))["training"]
        ids = sorted(Path(entry["image"]).name.removesuffix(".nii.gz") for entry in listed)
        order = np.random.default_rng(0).permutation(ids)
        self.test, self.pool = sorted(order[:TEST]), sorted(order[TEST:])
        for part in ("images", "labels"):
            (folder / part).mkdir(parents=True, exist_ok=True)
            for case in self.test:
                to = folder / part / f"{case}.nii.gz"
                if not to.exists():
                    shutil.copy(dataset / f"{part}Tr" / to.name, to)

    def run(self, choice: int) -> None:
        """Make the runs of one choice of labels, and its row of figures."""
        path = self.folder / FIGURES
        rows = read_rows(path)
        if any(int(float(row["choice"])) == choice for row in rows):
            return
        row = {"choice": float(choice), **self._figures(choice)}
        rows.append({name: str(value) for name, value in row.items()})
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def _figures(self, choice: int) -> dict[str, float]:
        labeled = sorted(np.random.default_rng(choice + 1).choice(self.pool, LABELS, replace=False))
        common = (
            f"data.root={self.dataset}",
            f"data.labeled={json.dumps([str(case) for case in labeled])}",
            f"data.test={json.dumps([str(case) for case in self.test])}",
            f"training.iterations={self.iterations}",
        )
        settings = (*common, *METHOD)
        here = self.folder / f"choice_{choice}"
        folds = here / "crossval"
        found = medssl.crossval(
            RECIPE, folds=FOLDS, overrides=settings, output=folds, pictures=False
        )
        if found.stopped is not None:
            raise SystemExit("stopped: the same command goes on")
        judged = found.summary
        ours = np.array([[patient["dice"] for patient in judged["patients"]]])
        alone = np.array([[patient["baseline"] for patient in judged["patients"]]])
        gain = paired_interval(ours, alone, bounds=(-1.0, 1.0))
        truth = [self._judge(folds / f"fold_{k}", here / f"fold_{k}") for k in range(FOLDS)]
        twins = [
            self._judge(folds / "baseline" / f"fold_{k}", here / f"twin_{k}") for k in range(FOLDS)
        ]
        seeds = [self._train(RECIPE, here / f"seed_{s}", settings, s) for s in range(SEEDS)]
        supervised = (*common, "method=supervised")
        baseline = self._train(RECIPE, here / "labels_alone", supervised, 0)
        others = [here / f"seed_{s}" for s in range(1, SEEDS)]
        return {
            "oof_dice": float(ours.mean()),
            "oof_twin": float(alone.mean()),
            "oof_low": gain.low,
            "oof_high": gain.high,
            "truth_dice": float(np.mean(truth)),
            "truth_twin": float(np.mean(twins)),
            "ensemble_of_folds": self._judge(folds, here / "ensemble_folds"),
            "all_labels": seeds[0],
            "all_labels_alone": baseline,
            "seeds_mean": float(np.mean(seeds)),
            "ensemble_of_seeds": self._judge(here / "seed_0", here / "ensemble_seeds", others),
        }

    def _train(self, recipe: str, run: Path, settings: Sequence[str], seed: int) -> float:
        """Train a run where it is not finished, and return its Dice on the 40 cases."""
        summary = run / "evaluation" / "test" / "summary.json"
        if not summary.is_file():
            overrides = (*settings, f"seed={seed}")
            medssl.train(recipe, output=run, overrides=overrides, resume=run.exists())
        return self._judge(run, run.parent / f"{run.name}_predictions")

    def _judge(self, source: Path, output: Path, ensemble: Sequence[Path] = ()) -> float:
        """Return the mean Dice of a model, or several as one, on the 40 cases."""
        medssl.predict(source, self.folder / "images", output, ensemble=ensemble)
        measures = output.parent / f"{output.name}_measures"
        measured = medssl.evaluate(output, self.folder / "labels", output=measures)
        return float(measured["overall"]["metrics"]["dice"]["mean"])


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of the figures that are there."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# ---------------------------------------------------------------------- the table

COLUMNS = {
    "out-of-fold Dice": "oof_dice",
    "its truth": "truth_dice",
    "out-of-fold gain": ("oof_dice", "oof_twin"),
    "its truth ": ("truth_dice", "truth_twin"),
    "one model of all 8": "seeds_mean",
    "ensemble of the folds": "ensemble_of_folds",
    "ensemble of 4 seeds": "ensemble_of_seeds",
    "gain of all 8": ("all_labels", "all_labels_alone"),
}
"""Headings, and the figures below them; two stand for their difference."""


def table(folder: Path) -> str:
    """Return the figures of a study in Markdown, with bias and spread over choices below."""
    rows = read_rows(folder / FIGURES)
    if not rows:
        return f"no choice is finished in {folder}"
    lines = ["| choice | " + " | ".join(name.strip() for name in COLUMNS) + " |"]
    lines.append("|---" * (len(COLUMNS) + 1) + "|")
    values = np.array([[_value(row, column) for column in COLUMNS.values()] for row in rows])
    for row, found in zip(rows, values, strict=True):
        lines.append(_line(str(int(float(row["choice"]))), found))
    lines.append(_line("mean", values.mean(0)))
    if len(rows) > 1:
        lines.append(_line("SD over choices", values.std(0, ddof=1)))
    dice, gain = values[:, 0] - values[:, 1], values[:, 2] - values[:, 3]
    held = sum(
        float(r["oof_low"]) <= t <= float(r["oof_high"])
        for r, t in zip(rows, values[:, 3], strict=True)
    )
    lines += [
        "",
        f"out of fold less truth, mean and largest: Dice {_off(dice)}, gain {_off(gain)}; "
        f"intervals of the gain that hold its truth: {held} of {len(rows)}",
    ]
    return "\n".join(lines)


def _value(row: dict[str, str], column: str | tuple[str, str]) -> float:
    if isinstance(column, str):
        return float(row[column])
    return float(row[column[0]]) - float(row[column[1]])


def _line(name: str, values: np.ndarray) -> str:
    return f"| {name} | " + " | ".join(f"{value:.4f}" for value in values) + " |"


def _off(errors: np.ndarray) -> str:
    return f"{errors.mean():+.4f}, {errors[np.abs(errors).argmax()]:+.4f}"


if __name__ == "__main__":
    main()
