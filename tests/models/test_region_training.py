"""Runs on a dataset with regions: a loss of them, what is recorded, measured and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import small_recipe, write_dataset, write_recipe

import medssl
from medssl.data.datasets.decathlon import read_dataset
from medssl.errors import MedSSLError
from medssl.evaluation.summary import read_cases_csv
from medssl.models.create import create_method
from medssl.progress import Display
from medssl.recipe.load import load_recipe
from medssl.runs.folder import RunFolder
from medssl.runs.resume import check_same_regions
from medssl.training.cases import plan_cases

REGIONS = {"both": [1, 2], "dim": [2]}


def state(data: Path, regions: dict[str, list[int]] | None) -> None:
    """Write regions into dataset.json; None: none."""
    header = json.loads((data / "dataset.json").read_text())
    header.pop("regions", None)
    (data / "dataset.json").write_text(
        json.dumps(header | ({} if regions is None else {"regions": regions}))
    )


def recipe_of(place: Path, data: Path, method: dict[str, Any], **training: Any) -> Path:
    changes = {"training": {"iterations": 4, **training}}
    recipe = small_recipe(data, place / "cache", method=method, **changes)
    return write_recipe(place / "recipe.yaml", recipe)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = write_dataset(tmp_path / "data", cases=6)
    state(root, REGIONS)
    return root


def test_a_run_with_a_loss_of_regions(data: Path, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, data, {"name": "supervised"}, region_loss=True)
    run = medssl.train(recipe, output=tmp_path / "run").path
    recorded = json.loads((run / "manifest.json").read_text())["labels"]["regions"]
    assert [(one["name"], one["values"]) for one in recorded] == [("both", [1, 2]), ("dim", [2])]
    rows = read_cases_csv(run / "evaluation" / "test" / "cases.csv")
    assert {(row["name"], row["label"]) for row in rows} == {("both", "1+2"), ("dim", 2)}
    assert medssl.load_run(run).label_map.regions[0].values == (1, 2)

    state(data, None)
    assert list(medssl.evaluate_run(run, "test")["structures"]) == ["bright", "dim"]
    state(data, {"any": [1, 2], "bright": [1]})
    assert list(medssl.evaluate_run(run, "test")["structures"]) == ["any", "bright"]
    again = medssl.train(recipe, output=tmp_path / "run", resume=True)
    assert list(again.summaries["test"]["structures"]) == ["any", "bright"], "it is finished"
    with pytest.raises(MedSSLError, match="regions are not those that the run was started with"):
        check_same_regions(RunFolder(run), read_dataset(data))


def test_the_method_knows_the_classes_of_regions(data: Path, tmp_path: Path) -> None:
    for asked, unions in ((True, ((1, 2), (2,))), (False, ())):
        recipe = recipe_of(tmp_path, data, {"name": "supervised"}, region_loss=asked)
        loaded = load_recipe(recipe)
        plan = plan_cases(loaded, Display(quiet=True))
        labels = plan.dataset.labels
        method = create_method(loaded.recipe, loaded.settings, labels=labels, **plan.sizes)
        assert method.unions == unions


def test_a_recipe_states_regions_of_a_folder_that_nobody_may_change(
    data: Path, tmp_path: Path
) -> None:
    recipe = small_recipe(data, tmp_path / "cache", data={"regions": {"any": [1, 2], "dim": [2]}})
    for regions in (None, REGIONS):
        state(data, regions)
        loaded = load_recipe(write_recipe(tmp_path / "recipe.yaml", recipe))
        labels = plan_cases(loaded, Display(quiet=True)).dataset.labels
        assert [s.name for s in labels.structures] == ["any", "dim"]
    recipe["data"]["regions"] = {"any": [1, 5]}
    loaded = load_recipe(write_recipe(tmp_path / "recipe.yaml", recipe))
    with pytest.raises(MedSSLError, match=r"data.regions: region 'any' names the label 5"):
        plan_cases(loaded, Display(quiet=True))


def test_regions_that_are_to_decide_have_to_be_there(data: Path, tmp_path: Path) -> None:
    state(data, None)
    recipe = small_recipe(data, tmp_path / "cache", inference={"decide": "regions"})
    loaded = load_recipe(write_recipe(tmp_path / "recipe.yaml", recipe))
    with pytest.raises(MedSSLError, match="regions are to decide"):
        plan_cases(loaded, Display(quiet=True))


@pytest.mark.parametrize(
    ("method", "fix"),
    [
        ({"name": "rail"}, "region_loss to false (regions are measured"),
        ({"name": "bcp", "preset": "official"}, "or method.preset to corrected"),
        ({"name": "self_training", "preset": "unimatch", "variant": "official"}, "variant to corr"),
    ],
)
def test_a_method_without_such_a_loss_is_refused(
    method: dict[str, Any], fix: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(MedSSLError, match=r"training\.region_loss: the losses of method") as error:
        load_recipe(recipe_of(tmp_path, data, method, region_loss=True))
    assert fix in str(error.value.fix)


def test_regions_that_nobody_stated_are_refused_before_a_scan_is_read(
    data: Path, tmp_path: Path
) -> None:
    state(data, None)
    loaded = load_recipe(recipe_of(tmp_path, data, {"name": "supervised"}, region_loss=True))
    with pytest.raises(MedSSLError, match="needs regions, and the dataset states none") as error:
        plan_cases(loaded, Display(quiet=True))
    assert str(error.value.where).endswith("dataset.json")
