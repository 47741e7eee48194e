"""A run of medssl 0.1.0 means today what it meant then.

``runs_0_1_0`` holds recipes and the split of runs that 0.1.0 (commit dc3f824) made, one per method,
preset and variant and some with settings of their own, and what that version made of them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import small_recipe, write_dataset, write_recipe

import medssl
from medssl.comparison.experiments import EvaluatedRun, define_experiment, differences
from medssl.recipe.load import LoadedRecipe, load_recipe, save_recipe

FOLDER = Path(__file__).parent / "runs_0_1_0"
ROWS: dict[str, Any] = json.loads((FOLDER / "resolved.json").read_text())["rows"]
EACH = pytest.mark.parametrize("name", ROWS)

NOT_USED = {"ramp_fraction", "ramp_iterations", "loaded_batches", "pretrained_2d"}
"""Settings whose null meant that they are not used."""

LATER = {"ema_warmup": True, "mixing": "none"}
"""Settings that some methods got later, with what they did before."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs' folders; they are runs by their manifests."""
    copy = tmp_path_factory.mktemp("of_0_1_0") / FOLDER.name
    shutil.copytree(FOLDER, copy)
    for name in ROWS:
        (copy / name / "manifest.json").write_text("{}")
    return copy


def in_words(row: dict[str, Any], loaded: LoadedRecipe) -> dict[str, Any]:
    """Return what 0.1.0 made of a recipe, each null by what it meant."""
    values, training = dict(row["values"]), loaded.recipe.training
    meant = {key: "off" for key in NOT_USED if key in values and values[key] is None}
    if "variant" in values and values["variant"] is None:
        published = row["method"] == "cps" and values["preset"] == "official"
        meant["variant"] = "paper" if published else "off"
    if "mask_batch" in values:
        meant["mask_batch"] = values["mask_batch"] or training.labeled_batch
        grid = [2] * training.spatial_dims if values["bottleneck"] == "fc" else "off"
        meant["grid"] = values["grid"] or grid
    if "fusion_samples" in values:
        meant["fusion_samples"] = values["fusion_samples"] or values["mc_samples"]
        meant["views"] = len(row["views"]) if values["views"] is None else values["views"]
    if "partner_network" in values:
        meant["partner_network"] = row["partner"][0]
    if values.get("policy_clip") == float("inf"):
        meant["policy_clip"] = "off"
    return {**values, **meant}


def recorded_again(loaded: LoadedRecipe, path: Path) -> LoadedRecipe:
    """Return the recipe as a run of today records it, read back."""
    save_recipe(loaded.recipe, path)
    return load_recipe(path)


@EACH
def test_it_is_resolved_with_the_values_of_then(name: str, folder: Path) -> None:
    row, loaded = ROWS[name], load_recipe(folder / name)
    assert loaded.recipe.method.name == row["method"]
    assert set(loaded.recipe.method.overridden) == row["given"].keys() - {"preset", "variant"}
    now = loaded.settings.model_dump(mode="json")
    expected = in_words(row, loaded)
    later = {key: value for key, value in now.items() if key not in expected}
    assert later.items() <= LATER.items()
    assert {key: now[key] for key in expected} == expected


@EACH
def test_its_stages_are_those_of_then(name: str) -> None:
    row, loaded = ROWS[name], load_recipe(FOLDER / name)
    now = loaded.settings.stages(loaded.recipe.training.iterations)
    assert len(now) == len(row["stages"])
    for stage, (title, iterations, streams, carry, best, sizes) in zip(
        now, row["stages"], strict=True
    ):
        assert (stage.name, stage.iterations, list(stage.streams)) == (title, iterations, streams)
        assert (stage.carry_optimizer, stage.start_from_best) == (carry, best)
        # What is not said was, and is, the recipe's number.
        own = {"masks": loaded.recipe.training.labeled_batch} if "masks" in streams else {}
        assert {**own, **stage.batch_sizes} == {**own, **sizes}


def test_the_views_of_a_scan_are_those_of_then() -> None:
    for name, row in ROWS.items():
        if "views" in row:
            loaded = load_recipe(FOLDER / name)
            dims = loaded.recipe.training.spatial_dims
            assert [list(o) for o in loaded.settings.orientations(dims)] == row["views"]


@EACH
def test_it_and_its_repeat_are_one_experiment(name: str, tmp_path: Path, folder: Path) -> None:
    old = load_recipe(folder / name)
    new = recorded_again(old, tmp_path / "recipe.yaml")
    splits = json.loads((FOLDER / "splits.json").read_text())
    runs = [
        EvaluatedRun(
            path=path,
            recipe=loaded.recipe,
            manifest={},
            summary={},
            rows={},
            definition=define_experiment(loaded, {}, splits),
        )
        for path, loaded in ((FOLDER / name, old), (tmp_path, new))
    ]
    assert runs[0].definition == runs[1].definition
    assert differences(*runs) == {}


def test_presets_differ_by_name_and_by_what_was_set(tmp_path: Path) -> None:
    """The many values behind a preset's name are not listed one by one."""
    runs = []
    for name in ("mean_teacher-corrected-3d", "mean_teacher-official-3d"):
        loaded = recorded_again(load_recipe(FOLDER / name), tmp_path / f"{name}.yaml")
        if runs:
            loaded = load_recipe(tmp_path / f"{name}.yaml", ["method.noise=0.3"])
        definition = define_experiment(loaded, {}, {})
        runs.append(EvaluatedRun(tmp_path, loaded.recipe, {}, {}, {}, definition))
    assert differences(*runs) == {
        "method.preset": ("corrected", "official"),
        "method.noise": (0.1, 0.3),
    }


@pytest.fixture(scope="module")
def old_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with recipe and manifest as 0.1.0 wrote them."""
    folder = tmp_path_factory.mktemp("old")
    data = write_dataset(folder / "data")
    method = {"name": "mean_teacher", "preset": "official", "ramp_steps": 2}
    recipe = small_recipe(data, folder / "cache", method=method)
    run = medssl.train(write_recipe(folder / "r.yaml", recipe), output=folder / "run").path
    saved = yaml.safe_load((run / "recipe.yaml").read_text())
    saved["method"] = {**method, "noise": None}
    (run / "recipe.yaml").write_text("# as written then\n" + yaml.safe_dump(saved))
    manifest = json.loads((run / "manifest.json").read_text())
    settings = {**dict.fromkeys(manifest["method_settings"]), **method}
    del settings["overridden"]
    manifest |= {"medssl": "0.1.0", "method_settings": settings}
    (run / "manifest.json").write_text(json.dumps(manifest))
    return run


def test_its_recipe_stays_byte_for_byte_what_it_is(old_run: Path, tmp_path: Path) -> None:
    before = (old_run / "recipe.yaml").read_bytes()
    images = old_run.parent / "data" / "imagesTr"
    medssl.load_run(old_run)
    medssl.predict(old_run, [images / "case_00.nii.gz"], tmp_path / "out")
    medssl.evaluate_run(old_run, "test")
    medssl.report(old_run)
    medssl.train(old_run, output=old_run, resume=True)
    assert (old_run / "recipe.yaml").read_bytes() == before
    more = ["training.iterations=12"]
    longer = medssl.train(old_run, output=old_run, resume=True, overrides=more)
    saved = yaml.safe_load((longer.path / "recipe.yaml").read_text())
    assert saved["training"]["iterations"] == 12
    assert saved["method"]["overridden"] == ["ramp_steps"], "what changes it writes it anew"


def test_it_and_its_repeat_are_repeats_to_compare(old_run: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(old_run, old)
    repeat = medssl.train(old, output=tmp_path / "repeat", overrides=["seed=5"]).path
    control = medssl.train(
        old, output=tmp_path / "control", overrides=["method.preset=corrected"]
    ).path
    found = medssl.compare([old, repeat, control])
    assert [each["name"] for each in found["experiments"]] == [
        "mean_teacher (method.preset=official)",
        "mean_teacher (method.preset=corrected)",
    ]
    (pair,) = found["comparisons"]
    assert pair["differs_in"] == ["method.preset"]
