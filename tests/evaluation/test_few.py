"""A dataset of twelve cases in which one has a rare structure, measured from files."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medssl import cli
from medssl.cli.running import evaluate
from medssl.settings.recipe import FAILURE_DICE, EvaluationSettings


def write(folder: Path, name: str, label: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(label, np.eye(4)), folder / f"{name}.nii.gz")


def test_evaluate_gives_no_interval_from_one_case(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(12):
        truth = np.zeros((16, 10, 8), np.uint8)
        truth[2:8, 2:8, 2:6] = 1
        guess = np.roll(truth, i % 3, axis=0)
        if i == 4:
            truth[10:14, 2:6, 2:6] = 2
            guess[10:14, 2:6, 3:7] = 2
        write(tmp_path / "ref", f"c{i:02d}", truth)
        write(tmp_path / "pred", f"c{i:02d}", guess)
    out = tmp_path / "out"
    command = ["evaluate", str(tmp_path / "pred"), str(tmp_path / "ref"), "--output", str(out)]
    assert cli.run(command) == 0
    summary = json.loads((out / "summary.json").read_text())
    rare = summary["structures"]["label_2"]["metrics"]["dice"]
    assert rare["mean"] == pytest.approx(0.75)
    assert (rare["low"], rare["high"], rare["n"]) == (None, None, 1)
    assert rare["no_interval"] == "a value of one patient only"
    usual = summary["structures"]["label_1"]["metrics"]["dice"]
    # Dice 1, 5/6 and 4/6, four times each: standard deviation sqrt(2/3) / 6 * sqrt(12/11).
    half = 2.200985 * np.sqrt(2 / 3) / 6 / np.sqrt(11)
    assert usual["low"] == pytest.approx(5 / 6 - half, abs=1e-6)
    assert summary["overall"]["metrics"]["dice"]["low"] is None
    printed = " ".join(capsys.readouterr().out.split())
    assert "no interval" in printed
    assert "in simulated studies of 12 patients they held it in 79 (one patient in ten" in printed
    assert "0 of 12 patients below mean Dice 0.5; with 95% confidence at most 23%" in printed
    assert cli.run([*command, "--failure-dice", "0.7"]) == 0
    again = json.loads((out / "summary.json").read_text())
    assert again["structures"]["label_1"]["failures"]["below"] == 4
    assert "4 of 12 patients below mean Dice 0.7" in " ".join(capsys.readouterr().out.split())


def test_the_threshold_stands_in_the_recipe_and_the_command_has_the_same() -> None:
    assert EvaluationSettings().failure_dice == FAILURE_DICE == 0.5
    assert inspect.signature(evaluate).parameters["failure_dice"].default == FAILURE_DICE
