"""Where a recipe's paths lead, whichever folder it is run from; and recipes without data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import write_dataset

import medssl
from medssl.data.opened import open_dataset
from medssl.errors import MedSSLError
from medssl.recipe.find import list_recipes
from medssl.recipe.load import load_recipe
from medssl.runs.folder import RunFolder
from medssl.workflows.evaluate import evaluate_run

SHORT = {
    "spec": {"intensity": {"rule": "zscore"}},
    "network": {"name": "unet", "channels": [4, 8], "strides": [2]},
    "training": {"iterations": 2, "patch": [16, 16, 8], "precision": "fp32", "workers": 0},
}


def recipe_file(path: Path, data: Any, **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"name": "r", "data": data, **SHORT, **more}))
    return path


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A recipe's folder, the working folder, and another one; each but the last has `scans`."""
    found = {name: tmp_path / name for name in ("beside", "here", "elsewhere")}
    for folder in found.values():
        folder.mkdir()
    for name in ("beside", "here"):
        (found[name] / "scans").mkdir()
    monkeypatch.chdir(found["here"])
    return found


def test_beside_the_recipe_comes_before_the_working_folder(folders: dict[str, Path]) -> None:
    recipe = recipe_file(folders["beside"] / "r.yaml", {"root": "scans"})
    assert load_recipe(recipe).recipe.data.root == str(folders["beside"] / "scans")
    (folders["beside"] / "scans").rmdir()
    assert load_recipe(recipe).recipe.data.root == str(folders["here"] / "scans")


def test_what_is_typed_means_the_working_folder_first(folders: dict[str, Path]) -> None:
    recipe = recipe_file(folders["beside"] / "r.yaml", {"root": "other"})
    typed = load_recipe(recipe, ["data.root=scans"])
    assert typed.recipe.data.root == str(folders["here"] / "scans")
    assert load_recipe(recipe, ["data=scans"]).recipe.data == typed.recipe.data
    (folders["here"] / "scans").rmdir()
    assert load_recipe(recipe, ["data.root=scans"]).recipe.data.root == str(
        folders["beside"] / "scans"
    )


def test_a_root_of_the_base_lies_beside_the_base(folders: dict[str, Path]) -> None:
    recipe_file(folders["beside"] / "base.yaml", {"root": "scans"})
    recipe = folders["elsewhere"] / "r.yaml"
    recipe.write_text("base: ../beside/base.yaml\nname: derived\n")
    assert load_recipe(recipe).recipe.data.root == str(folders["beside"] / "scans")


def test_other_paths_of_the_data_are_found_the_same_way(folders: dict[str, Path]) -> None:
    beside = folders["beside"]
    (beside / "who.csv").write_text("case,patient\na,1\n")
    (beside / "more").mkdir()
    (beside / "scans" / "own").mkdir()
    (beside / "parts.json").write_text("{}")
    data = {
        "root": "scans",
        "patients": "who.csv",
        "unlabeled": ["more", "own", "nowhere/*.nii"],
        "labeled": {"file": "parts.json", "key": "train"},
        "cache": "cache",
    }
    found = load_recipe(recipe_file(beside / "r.yaml", data)).recipe.data
    assert found.patients == str(beside / "who.csv")
    # What lies in the dataset moves with it.
    assert found.unlabeled == [str(beside / "more"), "own", "nowhere/*.nii"]
    assert found.labeled.file == str(beside / "parts.json")  # type: ignore[union-attr]
    assert found.cache == str(folders["here"] / "cache")


def test_a_pattern_is_no_path(folders: dict[str, Path]) -> None:
    recipe = recipe_file(folders["beside"] / "r.yaml", {"root": "scans", "patients": "(p)"})
    assert load_recipe(recipe).recipe.data.patients == "(p)"


@pytest.mark.parametrize("root", ["phantom", "/absolute/one", "no/where", "a\0b", "x" * 5000])
def test_a_root_that_is_not_found_stays_as_written(folders: dict[str, Path], root: str) -> None:
    assert load_recipe(recipe_file(folders["beside"] / "r.yaml", root)).recipe.data.root == root


@pytest.mark.parametrize("root", ["scans/gone", "/gone"])
def test_a_missing_dataset_is_named_with_what_to_write(folders: dict[str, Path], root: str) -> None:
    recipe = load_recipe(recipe_file(folders["beside"] / "r.yaml", {"root": root})).recipe
    with pytest.raises(MedSSLError, match="there is no such folder") as caught:
        open_dataset(recipe.data, recipe.spec)
    assert caught.value.where == root
    assert "--set data.root=" in str(caught.value.fix)
    assert ("beside the recipe" in caught.value.what) == (root == "scans/gone")


@pytest.mark.parametrize(
    "text", ["name: x\n", "name: x\ndata:\n", "data: {labeled: 3}\n", "data: {root: ''}\n", ""]
)
def test_a_recipe_without_data_is_refused(tmp_path: Path, text: str) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(text)
    with pytest.raises(MedSSLError, match=r"data\.root is missing") as caught:
        load_recipe(recipe)
    assert str(recipe) in str(caught.value.where)
    assert "root: phantom" in str(caught.value.fix)
    assert "--set data.root=FOLDER" in str(caught.value.fix)
    assert load_recipe(recipe, ["data.root=phantom"]).recipe.data.root == "phantom"


def test_shipped_recipes_name_their_data() -> None:
    for name in list_recipes():
        assert load_recipe(name).recipe.data.root


def test_a_run_works_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, away = tmp_path / "project", tmp_path / "away"
    write_dataset(project / "scans", cases=4)
    write_dataset(project / "more", cases=0, unlabeled=1)
    away.mkdir()
    data = {"root": "scans", "labeled": 2, "test": 1, "cache": "cache", "unlabeled": ["more/*Un"]}
    recipe = recipe_file(project / "r.yaml", data, method={"name": "bcp"})
    monkeypatch.chdir(project)
    medssl.train(recipe, output=Path("run"))
    monkeypatch.chdir(away)
    run = RunFolder(project / "run")
    saved = yaml.safe_load(run.recipe.read_text())["data"]
    assert saved["root"] == str(project / "scans")
    assert saved["unlabeled"] == [str(project / "more" / "*Un")]
    assert evaluate_run(project / "run", "test")["n_cases"] == 1
    assert medssl.report(project / "run").is_file()
    overrides = ["training.iterations=4"]
    again = medssl.train(project / "run", resume=True, overrides=overrides)
    assert again.path == project / "run"
    assert list(away.iterdir()) == []


def test_weights_to_start_from_are_looked_up_like_data(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("beside", "here"):
        (folders[name] / "old").mkdir()
    network = {**SHORT["network"], "init": "old"}
    recipe = recipe_file(folders["beside"] / "r.yaml", {"root": "scans"}, network=network)
    monkeypatch.chdir(folders["here"])
    assert load_recipe(recipe).recipe.network.init == str(folders["beside"] / "old")
    typed = load_recipe(recipe, ["network.init=old"]).recipe.network
    assert typed.init == str(folders["here"] / "old")
