"""The area under the ROC curve, and what methods say about themselves at a validation."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import small_recipe, write_dataset, write_recipe
from scipy.stats import mannwhitneyu

import medssl
from medssl.ops.certainty import deviation, error_auroc
from medssl.ops.losses import one_hot
from medssl.ops.ranking import auroc
from medssl.progress import Display
from medssl.recipe.load import load_recipe
from medssl.runs.checkpoint import load_checkpoint
from medssl.training.cases import plan_cases
from medssl.training.compute import Compute
from medssl.training.prepare import prepare_cases
from medssl.training.validation import make_diagnosis


def area(score: list[float], positive: list[int]) -> float:
    return float(auroc(torch.tensor(score), torch.tensor(positive)))


def test_areas_counted_by_hand() -> None:
    assert area([1, 2, 3, 4], [0, 0, 1, 1]) == 1
    assert area([4, 3, 2, 1], [0, 0, 1, 1]) == 0
    assert area([5, 5, 5], [0, 1, 1]) == 0.5
    # Pairs (positive, negative): 3>1, 3>2, 2>1 won, 2=2 tied: 3.5 of 4.
    assert area([3, 2, 2, 1], [1, 1, 0, 0]) == 3.5 / 4
    assert math.isnan(area([1, 2], [1, 1]))
    assert math.isnan(area([1, 2], [0, 0]))
    with pytest.raises(ValueError, match="one score per item"):
        auroc(torch.zeros(3), torch.zeros(4))


@pytest.mark.parametrize("levels", [3, 50, 10**6])
def test_area_is_the_statistic_of_mann_and_whitney(levels: int) -> None:
    rng = np.random.RandomState(levels)
    score = rng.randint(0, levels, (7, 60)).astype(np.float32)
    positive = rng.rand(7, 60) < 0.2
    u = mannwhitneyu(score[positive], score[~positive]).statistic
    truth = u / (positive.sum() * (~positive).sum())
    found = auroc(torch.from_numpy(score), torch.from_numpy(positive))
    assert float(found) == pytest.approx(truth, abs=1e-14)
    # Only the order of scores counts.
    again = auroc(torch.from_numpy(score).double() ** 3 + 7, torch.from_numpy(positive))
    assert float(again) == float(found)


def test_errors_are_ranked_sample_by_sample_where_they_are_annotated() -> None:
    label = torch.tensor([[0, 1, 1, 255], [0, 1, 0, 1], [1, 1, 1, 1]])
    predicted = torch.tensor([[0, 1, 0, 0], [1, 1, 0, 1], [1, 1, 1, 1]])
    u = torch.tensor([[0.1, 0.2, 0.9, 5.0], [0.3, 0.1, 0.5, 0.2], [9.0, 1.0, 2.0, 3.0]])
    # First: the error is above both others. Second: above 2 of 3. Third: no error.
    expected = (1 + 2 / 3) / 2
    assert float(error_auroc(u.unsqueeze(1), predicted, label)) == pytest.approx(expected)
    per_class = torch.stack([u - 0.05, torch.full_like(u, 0.05)], dim=1)
    assert float(error_auroc(per_class, predicted, label)) == pytest.approx(expected)
    assert math.isnan(float(error_auroc(u[2:, None], predicted[2:], label[2:])))


def test_apart_does_not_call_certain_what_both_are_unsure_of() -> None:
    unsure = torch.tensor([0.6, 0.4]).view(1, 2, 1, 1)
    other = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
    hard = one_hot(torch.zeros(1, 1, 1, dtype=torch.long), 2)
    assert deviation(unsure, unsure).item() == 0
    assert deviation(unsure, unsure, kind="apart").item() == pytest.approx(4 * 0.4**2)
    assert deviation(other, unsure, kind="apart").item() == pytest.approx(2 + 2 * 0.4**2)
    # An autoencoder that changes nothing leaves the lack of confidence, as with squared.
    torch.testing.assert_close(deviation(hard, unsure, kind="apart"), deviation(hard, unsure))


# ------------------------------------------------------------------------------ at a validation


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("diagnosis")
    return write_dataset(folder / "data"), folder / "cache"


@pytest.mark.parametrize("name", ["anatomical", "uamt"])
def test_a_diagnosis_is_logged_and_changes_nothing(
    name: str, world: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(
        tmp_path / "r.yaml",
        small_recipe(
            *world,
            data={"validation": 1},
            method={"name": name},
            network={"dropout": 0.3},
            training={"validate_every": 1, "iterations": 5},
        ),
    )
    run = medssl.train(recipe, output=tmp_path / "run").path
    lines = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    found = [x for x in lines if "certainty/auroc" in x]
    guided = 4 if name == "anatomical" else 5
    assert [x["iteration"] for x in found] == list(range(1, guided + 1))
    for line in found:
        assert "validation/dice" in line
        assert 0 <= line["certainty/auroc"] <= 1
        assert 0 <= line["certainty/auroc_identity"] <= 1
    if name == "anatomical":
        (first,) = [x for x in lines if x["stage"] == "autoencoder" and "validation/dice" in x]
        assert {k for k in first if k.startswith("autoencoder/")} == {
            f"autoencoder/{k}" for k in ("clean_after", "corrupted_before", "corrupted_after")
        }
        before = {x["autoencoder/corrupted_before"] for x in found}
        assert before == {first["autoencoder/corrupted_before"]}, "another corruption every time"
        assert {"autoencoder/teacher_before", "autoencoder/teacher_after"} <= found[-1].keys()

    with monkeypatch.context() as patch:
        patch.setattr("medssl.training.validation.make_diagnosis", lambda *_, **__: None)
        plain = medssl.train(recipe, output=tmp_path / "plain").path
    one, other = (load_checkpoint(p / "checkpoints" / "last.pt") for p in (run, plain))
    assert one["method_state"].keys() == other["method_state"].keys()
    for key, value in one["method_state"].items():
        assert torch.equal(value, other["method_state"][key]), key


def test_methods_with_nothing_to_say_are_not_asked(
    world: tuple[Path, Path], tmp_path: Path
) -> None:
    recipe = small_recipe(*world, data={"validation": 1}, method={"name": "bcp"})
    loaded = load_recipe(write_recipe(tmp_path / "r.yaml", recipe))
    quiet = Display(quiet=True)
    data = prepare_cases(loaded, plan_cases(loaded, quiet), quiet)
    assert make_diagnosis(loaded.recipe, data, Compute(torch.device("cpu"))) is None
