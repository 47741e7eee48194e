"""The study of cross-validations: its table says what its figures say."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benchmarks"))

import crossval_truth  # noqa: E402

ROW = {
    "oof_dice": 0.80,
    "oof_twin": 0.78,
    "oof_low": 0.01,
    "oof_high": 0.03,
    "truth_dice": 0.81,
    "truth_twin": 0.775,
    "ensemble_of_folds": 0.82,
    "all_labels": 0.815,
    "all_labels_alone": 0.80,
    "seeds_mean": 0.816,
    "ensemble_of_seeds": 0.825,
}


def write(folder: Path, *rows: dict[str, float]) -> None:
    """Write the figures of choices 0, 1, ..."""
    listed = [{"choice": i, **row} for i, row in enumerate(rows)]
    with (folder / crossval_truth.FIGURES).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(listed[0]))
        writer.writeheader()
        writer.writerows(listed)


def test_table_gives_bias_and_what_the_intervals_hold(tmp_path: Path) -> None:
    # Gains: 0.02 for a truth of 0.035, outside [0.01, 0.03]; then 0.04 for one of 0.035, inside.
    second = ROW | {"oof_dice": 0.83, "oof_twin": 0.79, "oof_low": 0.02, "oof_high": 0.06}
    write(tmp_path, ROW, second)
    lines = crossval_truth.table(tmp_path).splitlines()
    assert lines[2] == (
        "| 0 | 0.8000 | 0.8100 | 0.0200 | 0.0350 | 0.8160 | 0.8200 | 0.8250 | 0.0150 |"
    )
    assert lines[4].startswith("| mean | 0.8150 | 0.8100 | 0.0300 | 0.0350 |")
    assert lines[5].startswith("| SD over choices | 0.0212 | 0.0000 | 0.0141 |")
    assert lines[-1] == (
        "out of fold less truth, mean and largest: Dice +0.0050, +0.0200, gain -0.0050, -0.0150; "
        "intervals of the gain that hold its truth: 1 of 2"
    )


def test_no_choice_yet(tmp_path: Path) -> None:
    assert "no choice is finished" in crossval_truth.table(tmp_path)


def test_test_cases_are_in_no_choice(tmp_path: Path, shared_data: Path) -> None:
    study = crossval_truth.Study(
        shared_data / "Task04_Hippocampus", tmp_path / "study", iterations=1
    )
    assert (len(study.test), len(study.pool)) == (40, 160)
    assert not set(study.test) & set(study.pool)
    assert len(list((tmp_path / "study" / "labels").iterdir())) == 40
    made = []
    study._figures = lambda choice: made.append(choice) or ROW
    for choice in (0, 1, 0, 1):  # what is done is not done again
        study.run(choice)
    assert made == [0, 1]
