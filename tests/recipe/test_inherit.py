"""Recipes that start from another one: what is taken over, and what a mistake is told of."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from medssl.errors import MedSSLError
from medssl.recipe.find import list_recipes
from medssl.recipe.load import load_recipe, save_recipe

BASE = """\
# the recipe of a group
name: base
data:
  root: /data/a
  labeled: {file: splits.json, key: few}
  test: 2
spec: {name: ct, spacing: [1.0, 1.0, 2.0]}
network:
  name: unet
  channels: [4, 8, 8]
  strides: [2, 2]
method: {name: mean_teacher, preset: official}
training:
  iterations: 50
  patch: [32, 32, 32]
  optimizer: {name: sgd, lr: 0.3, momentum: 0.5}
"""


def write(folder: Path, own: str, base: str = BASE) -> Path:
    (folder / "base.yaml").write_text(base)
    own_file = folder / "own.yaml"
    own_file.write_text(own)
    return own_file


def load(folder: Path, own: str, base: str = BASE, overrides: tuple[str, ...] = ()):
    return load_recipe(write(folder, "base: base.yaml\n" + own, base), overrides).recipe


def problem(folder: Path, own: str, base: str = BASE) -> MedSSLError:
    with pytest.raises(MedSSLError) as caught:
        load_recipe(write(folder, own, base))
    assert len(str(caught.value).splitlines()) <= 4
    return caught.value


def test_what_is_not_said_is_the_bases(tmp_path: Path) -> None:
    recipe = load(tmp_path, "name: own\ntraining: {iterations: 70}\n")
    assert recipe.name == "own"
    assert recipe.training.iterations == 70
    assert recipe.training.patch == [32, 32, 32]
    assert recipe.network.settings == {"channels": [4, 8, 8], "strides": [2, 2]}
    assert recipe.data.root == "/data/a"
    assert recipe.spec.spacing == [1.0, 1.0, 2.0]


def test_a_key_inside_a_section_changes_alone(tmp_path: Path) -> None:
    recipe = load(tmp_path, "training: {optimizer: {lr: 0.1}}\nspec: {spacing: [2, 2, 2]}\n")
    assert recipe.training.optimizer.lr == 0.1
    assert recipe.training.optimizer.momentum == 0.5
    assert recipe.spec.name == "ct"
    assert recipe.spec.spacing == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("written", ["network: vnet", "network: {name: vnet}"])
def test_another_network_keeps_no_option_of_the_old_one(tmp_path: Path, written: str) -> None:
    assert load(tmp_path, written + "\n").network.settings == {}


def test_another_method_and_optimizer_replace_the_old_ones(tmp_path: Path) -> None:
    recipe = load(tmp_path, "method: bcp\ntraining: {optimizer: {name: adam, lr: 0.01}}\n")
    assert recipe.method.settings.get("preset", "corrected") == "corrected"
    assert "momentum" not in recipe.training.optimizer.model_fields_set


def test_another_intensity_rule_replaces_the_old_one(tmp_path: Path) -> None:
    base = BASE.replace(
        "spec: {name: ct,", "spec: {name: ct, intensity: {rule: window, lower: -9, upper: 9},"
    )
    assert load(tmp_path, "name: x\n", base).spec.intensity.lower == -9
    recipe = load(tmp_path, "spec: {intensity: {rule: zscore}}\n", base)
    assert (recipe.spec.intensity.rule, recipe.spec.intensity.lower) == ("zscore", None)


def test_a_dataset_as_one_word_keeps_the_choice_of_cases(tmp_path: Path) -> None:
    recipe = load(tmp_path, "data: /data/b\n")
    assert recipe.data.root == "/data/b"
    assert recipe.data.test == 2


def test_a_choice_of_cases_is_one_value(tmp_path: Path) -> None:
    own = "data: {labeled: {file: mine.json, key: all}}\n"
    assert load(tmp_path, own).data.labeled.file == "mine.json"
    assert load(tmp_path, "data: {labeled: 3}\n").data.labeled == 3


def test_a_null_takes_the_bases_value_back(tmp_path: Path) -> None:
    assert load(tmp_path, "data: {labeled: null}\n").data.labeled is None


def test_the_command_line_has_the_last_word(tmp_path: Path) -> None:
    recipe = load(tmp_path, "seed: 2\n", overrides=("seed=3", "training.iterations=9"))
    assert (recipe.seed, recipe.training.iterations) == (3, 9)


def test_the_clean_protocol_is_taken_over_too(tmp_path: Path) -> None:
    base = BASE + "protocol: literature\nclean:\n  training: {iterations: 8}\n  seed: 5\n"
    own = "clean: {seed: 6}\n"
    recipe = load(tmp_path, own, base)
    assert (recipe.training.iterations, recipe.seed) == (50, 0)
    recipe = load(tmp_path, own, base, overrides=("protocol=clean",))
    assert (recipe.training.iterations, recipe.seed) == (8, 6)


def test_the_saved_recipe_is_whole_and_stands_alone(tmp_path: Path) -> None:
    loaded = load_recipe(write(tmp_path, "base: base.yaml\nname: own\nseed: 4\n"))
    target = tmp_path / "elsewhere" / "recipe.yaml"
    target.parent.mkdir()
    save_recipe(loaded.recipe, target)
    saved = yaml.safe_load(target.read_text())
    assert "base" not in saved
    assert saved["training"]["optimizer"]["momentum"] == 0.5
    assert load_recipe(target).recipe == loaded.recipe


def test_a_shipped_recipe_by_name_or_a_path_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = load_recipe("hippocampus_bcp").recipe
    (tmp_path / "sub").mkdir()
    own = tmp_path / "sub" / "own.yaml"
    own.write_text("base: hippocampus_bcp\nseed: 3\n")
    assert load_recipe(own).recipe == shipped.model_copy(update={"seed": 3})
    (tmp_path / "base.yaml").write_text(BASE)
    own.write_text("base: ../base.yaml\n")
    monkeypatch.chdir(tmp_path)  # a path counts from the recipe, not from here
    assert load_recipe("sub/own.yaml").recipe.name == "base"
    own.write_text("base: base.yaml\n")
    assert "neither a recipe beside it nor a shipped one" in str(_error_of(own))


def _error_of(path: Path) -> MedSSLError:
    with pytest.raises(MedSSLError) as caught:
        load_recipe(path)
    return caught.value


def test_a_mistake_names_the_file_and_line_it_stands_in(tmp_path: Path) -> None:
    error = problem(tmp_path, "base: base.yaml\n", BASE.replace("lr: 0.3", "lr: -1"))
    assert error.where == f"{tmp_path / 'base.yaml'}:16"
    error = problem(tmp_path, "base: base.yaml\nseed: 1\ntraining: {iteration: 5}\n")
    assert error.where == f"{tmp_path / 'own.yaml'}:3"
    error = problem(tmp_path, "base: base.yaml\nmethod: {prest: x}\n")
    assert error.where == f"{tmp_path / 'own.yaml'}:2"


def test_a_replaced_value_is_not_blamed_on_the_base(tmp_path: Path) -> None:
    error = problem(tmp_path, "base: base.yaml\ndata: {labeled: {file: x.json}}\n")
    assert error.where == f"{tmp_path / 'own.yaml'}:2"
    error = problem(tmp_path, "base: base.yaml\ndata: 5\n")
    assert error.where == f"{tmp_path / 'own.yaml'}:2"


def test_a_mistake_in_the_clean_section_names_its_own_line(tmp_path: Path) -> None:
    own = "seed: 1\nclean:\n  seed: -2\n"
    assert problem(tmp_path, own).where == f"{tmp_path / 'own.yaml'}:3"


@pytest.mark.parametrize(
    ("own", "base", "words"),
    [
        ("base: none.yaml\n", BASE, "neither a recipe beside it nor a shipped one"),
        ("base: hippocampus_bc\n", BASE, "did you mean 'hippocampus_bcp'"),
        ("base: own.yaml\n", BASE, "is this recipe itself"),
        ("base: base.yaml\n", "base: own.yaml\n", "starts from another recipe itself"),
        ("base: base.yaml\n", "base: quickstart\n", "starts from another recipe itself"),
        ("base: [base.yaml]\n", BASE, "must name one recipe"),
        ("base:\n", BASE, "must name one recipe"),
        ("base: .\n", BASE, "neither a recipe beside it nor a shipped one"),
    ],
)
def test_a_base_that_cannot_be(tmp_path: Path, own: str, base: str, words: str) -> None:
    error = problem(tmp_path, own, base)
    assert error.where == f"{tmp_path / 'own.yaml'}:1"
    assert words in str(error)


def test_a_base_cannot_come_from_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(MedSSLError, match="cannot be set"):
        load(tmp_path, "seed: 1\n", overrides=("base=quickstart",))


def test_every_shipped_recipe_can_be_a_base() -> None:
    for path in list_recipes().values():
        assert "base" not in yaml.safe_load(path.read_text()), path
