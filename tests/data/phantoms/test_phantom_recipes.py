"""Recipes for real folders run on the phantom with the settings that they end with."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

import medssl
from medssl.data.phantoms.kinds import phantom_options
from medssl.recipe.find import list_recipes
from medssl.recipe.load import load_recipe

MARK = "# On the phantom: "
FOR_FOLDERS = {
    "pancreas_bcp": ("ct", "pancreas"),
    "pancreas_umct": ("ct", "pancreas"),
    "liver_bcp": ("ct", "liver"),
    "cbct_rail": ("cbct", "binary"),
    "cbct_fdi_mean_teacher": ("cbct", "fdi"),
    "oct_fluid_bcp": ("oct", "fluid"),
    "oct_layers_mean_teacher": ("oct", "layers"),
}


def phantom_settings(path: Path) -> list[str]:
    """Return the settings after ``On the phantom:`` at the end of a recipe."""
    _, _, text = path.read_text().partition(MARK)
    words = shlex.split(" ".join(line.lstrip("# ") for line in text.splitlines()))
    assert words[::2] == ["--set"] * (len(words) // 2)
    return words[1::2]


def test_every_recipe_that_names_the_phantom_is_known() -> None:
    named = {name for name, path in list_recipes().items() if MARK in path.read_text()}
    assert named == set(FOR_FOLDERS)


@pytest.mark.parametrize("name", FOR_FOLDERS)
def test_the_settings_given_fit_the_phantom(name: str) -> None:
    recipe = load_recipe(list_recipes()[name], phantom_settings(list_recipes()[name])).recipe
    options = phantom_options(recipe.data.phantom)
    assert recipe.data.root == "phantom"
    assert (options.kind, options.labels) == FOR_FOLDERS[name]
    assert recipe.data.labeled == 4
    assert recipe.training.iterations <= 400
    # What is about the data and the method stays that of the recipe.
    real = load_recipe(list_recipes()[name]).recipe
    assert recipe.spec.intensity == real.spec.intensity
    assert recipe.spec.modality == real.spec.modality == KIND_OF[options.kind]
    assert recipe.method.name == real.method.name
    assert recipe.network.name == real.network.name


KIND_OF = {"ct": "CT", "cbct": "CBCT", "oct": "OCT"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds what recipes share: phantoms of a kind, and their preprocessed cases."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.slow
@pytest.mark.parametrize("name", FOR_FOLDERS)
def test_the_recipe_trains_on_the_phantom(name: str, cache: Path, tmp_path: Path) -> None:
    path = list_recipes()[name]
    sizes = ["data.phantom.labeled=7", "data.phantom.unlabeled=2", "data.test=1"]
    small = [*sizes, "training.iterations=4", f"data.cache={cache}"]
    small.append("training.schedule.warmup=0")  # a warm-up is longer than these four iterations
    settings = [*phantom_settings(path), *small]
    result = medssl.train(path, overrides=settings, output=tmp_path / "run")
    assert (result.path / "evaluation" / "test" / "summary.json").is_file()


@pytest.mark.parametrize("kind", KIND_OF)
def test_the_small_recipes_use_the_spec_of_their_modality(kind: str) -> None:
    path = next(p for n, p in list_recipes().items() if n.startswith(f"phantom_{kind}_"))
    recipe = load_recipe(path).recipe
    assert phantom_options(recipe.data.phantom).kind == kind
    assert recipe.spec.modality == KIND_OF[kind]
    assert recipe.data.labeled == 4
