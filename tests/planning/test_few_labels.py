"""With few labels a plan holds nobody back, and a budget of minutes is divided over the folds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from helpers import write_dataset

import medssl
from medssl import cli
from medssl.errors import MedSSLError
from medssl.planning.budget import Budget
from medssl.planning.pace import seconds_per_iteration
from medssl.planning.patients import choose_patients
from medssl.recipe.load import resolve


@pytest.mark.parametrize(
    ("patients", "labeled", "test", "folds"),
    [
        (3, None, 0, 3),
        (8, None, 0, 4),
        (19, None, 0, 5),
        (19, 6, 0, 4),
        (20, None, 4, None),
        (200, 8, 40, None),  # the other labels are there: some of them judge
    ],
)
def test_fewer_than_twenty_patients_both_train_and_judge(patients, labeled, test, folds) -> None:
    counts = choose_patients(patients, labeled, unlabeled=30)
    assert (counts.test, counts.validation, counts.folds) == (test, 0, folds)
    if folds:
        assert "medssl crossval judges by each of them" in counts.test_reason


def test_two_patients_are_too_few_for_folds() -> None:
    assert choose_patients(2, None, unlabeled=30).folds is None


def test_a_budget_is_divided_over_folds_and_the_twin() -> None:
    # 60 minutes, of which 80 % are steps: 2880 s.
    assert Budget(60).iterations(1.0)[0] == 2800
    assert Budget(60, folds=4).iterations(1.0)[0] == 720
    assert Budget(60, folds=4, twin=True).iterations(1.0, 0.5)[0] == 480
    reason = Budget(60, folds=4, twin=True).iterations(1.0, 0.5)[1]
    assert reason == (
        "all stages; 60 minutes here for 4 folds, each also with labels alone, evaluation included"
    )


def test_a_budget_that_teaches_nothing_is_refused_with_one_that_does() -> None:
    with pytest.raises(MedSSLError, match="5 minutes are enough for 24 iterations") as caught:
        Budget(5, folds=5).iterations(2.0)
    assert "give 11 minutes or more" in str(caught.value.fix)
    assert Budget(11, folds=5).iterations(2.0)[0] == 52


def tiny(channels: tuple[int, ...]):
    recipe = {
        "network": {"name": "unet", "channels": list(channels), "strides": [2]},
        "spec": {"spacing": [1, 1, 1]},
        "method": {"name": "bcp"},
        "training": {
            "iterations": 100,
            "patch": [16, 16, 16],
            "labeled_batch": 2,
            "unlabeled_batch": 2,
            "precision": "fp32",
        },
    }
    return resolve(recipe, path=Path("tiny"))


def test_steps_are_timed_as_they_are() -> None:
    cpu = {"device": torch.device("cpu"), "precision": "fp32"}
    state = torch.random.get_rng_state()
    small, large = (
        seconds_per_iteration(tiny(c), num_classes=3, channels=1, **cpu) for c in ((4, 8), (48, 96))
    )
    assert 0 < small < large
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Nine patients with labels, two without."""
    return write_dataset(tmp_path / "scans", cases=9, unlabeled=2)


def test_a_plan_for_nine_patients_as_typed(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "a.yaml"
    command = ["plan", str(scans), "--method", "bcp", "--device", "cpu", "-o", str(output)]
    assert cli.run([*command, "--minutes", "30"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"medssl crossval {output}" in said
    # At equal cost seeds of all labels are ahead of the folds: docs/crossval.md.
    assert f"seeds of all labels, medssl train {output} --set seed=1" in said
    text = output.read_text()
    recipe = yaml.safe_load(text)
    assert (recipe["data"]["test"], recipe["data"]["validation"]) == (0, 0)
    assert "medssl crossval" in text
    assert "30 minutes here for 4 folds, each also with labels alone" in text
    assert recipe["training"]["iterations"] >= 50


def test_wrong_minutes_are_refused_before_the_dataset_is_opened(tmp_path: Path) -> None:
    for minutes, memory, said in ((0, None, "no budget"), (60, 12, "cannot be timed")):
        with pytest.raises(MedSSLError, match=said):
            medssl.plan(
                tmp_path / "gone",
                tmp_path / "a.yaml",
                method="bcp",
                minutes=minutes,
                memory=memory,
            )
