"""The section ``method``: resolved once, recorded whole, opened as it was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from medssl.errors import MedSSLError
from medssl.methods.mean_teacher_settings import MeanTeacherSettings
from medssl.recipe.load import LoadedRecipe, load_recipe, save_recipe


def write(path: Path, method: Any, **sections: Any) -> Path:
    """Write a recipe of a user's."""
    training = {"patch": [16, 16, 16], "labeled_batch": 2, **sections.pop("training", {})}
    recipe = {"data": {"root": "phantom"}, "method": method, "training": training, **sections}
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def record(tmp_path: Path, method: Any, **sections: Any) -> tuple[LoadedRecipe, Path]:
    """Load a recipe and save it as a run does."""
    loaded = load_recipe(write(tmp_path / "own.yaml", method, **sections))
    save_recipe(loaded.recipe, tmp_path / "recipe.yaml")
    return loaded, tmp_path / "recipe.yaml"


def warnings(loaded: LoadedRecipe) -> list[str]:
    """Return what a recipe is warned of for its method."""
    return [w for w in loaded.warnings if "method" in w]


def section(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())["method"]


def test_a_record_holds_every_value_and_names_those_of_the_user(tmp_path: Path) -> None:
    given = {"name": "anatomical", "preset": "official", "noise": 0.2, "gamma": None}
    loaded, path = record(tmp_path, given)
    saved = section(path)
    assert list(saved)[:2] == ["name", "preset"]
    assert saved["overridden"] == ["noise"]
    assert saved.keys() - {"name", "overridden"} == type(loaded.settings).model_fields.keys()
    assert None not in saved.values()
    assert "auto" not in saved.values()
    assert (saved["noise"], saved["consistency_weight"], saved["gamma"]) == (0.2, 0.1, 1.0)
    assert (saved["grid"], saved["mask_batch"], saved["ramp_fraction"]) == ([2, 2, 2], 4, "off")


@pytest.mark.parametrize(
    "method",
    [
        "supervised",
        {"name": "bcp", "preset": "official", "variant": "la", "weight_pseudo": 0.25},
        {"name": "umct", "views": 2},
        {"name": "rail", "loaded_batches": "off", "partner_options": {"dropout": 0.2}},
        {"name": "pseudo_supervisor", "preset": "official"},
        {"name": "anatomical", "mask_batch": 3},
    ],
)
def test_opening_a_record_and_saving_it_again_changes_nothing(tmp_path: Path, method: Any) -> None:
    batches = {"labeled_batch": 2, "unlabeled_batch": 2}
    loaded, path = record(tmp_path, method, training=batches)
    again = load_recipe(path)
    assert again.settings == loaded.settings
    assert again.recipe.method == loaded.recipe.method
    assert warnings(again) == warnings(loaded)
    save_recipe(again.recipe, tmp_path / "again.yaml")
    assert (tmp_path / "again.yaml").read_bytes() == path.read_bytes()


def test_a_null_takes_one_override_back(tmp_path: Path) -> None:
    given = {"name": "mean_teacher", "preset": "official", "noise": 0.3, "ramp_steps": 7}
    _, path = record(tmp_path, given)
    loaded = load_recipe(path, ["method.noise=null"])
    assert (loaded.settings.noise, loaded.settings.ramp_steps) == (0.1, 7)
    assert loaded.recipe.method.overridden == ("ramp_steps",)
    fresh = load_recipe(tmp_path / "own.yaml", ["method.ramp_steps=null"])
    assert fresh.settings.ramp_steps == 40


def test_another_preset_drops_what_came_from_the_old_one(tmp_path: Path) -> None:
    given = {"name": "mean_teacher", "preset": "official", "noise": 0.3}
    _, path = record(tmp_path, given)
    loaded = load_recipe(path, ["method.preset=corrected"])
    assert loaded.settings == MeanTeacherSettings(noise=0.3)
    assert loaded.recipe.method.overridden == ("noise",)


def test_another_variant_drops_what_came_from_the_old_one(tmp_path: Path) -> None:
    batches = {"labeled_batch": 2, "unlabeled_batch": 2}
    given = {"name": "bcp", "preset": "official", "variant": "pancreas"}
    _, path = record(tmp_path, given, training=batches)
    loaded = load_recipe(path, ["method.variant=acdc"])
    assert (loaded.settings.connectivity, loaded.settings.threshold) == (3, "argmax")


def test_another_method_starts_afresh(tmp_path: Path) -> None:
    _, path = record(tmp_path, {"name": "mean_teacher", "preset": "official"})
    assert load_recipe(path, ["method=supervised"]).recipe.method.overridden == ()
    loaded = load_recipe(path, ["method.name=uamt"])
    assert (loaded.settings.preset, loaded.settings.passes) == ("official", 8)


def test_a_record_decides_whatever_a_preset_says_by_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, path = record(tmp_path, {"name": "mean_teacher", "preset": "official", "noise": 0.3})
    table = {**MeanTeacherSettings.presets["official"], "consistency_weight": 0.7}
    monkeypatch.setattr(MeanTeacherSettings, "presets", {"official": table})
    loaded = load_recipe(path)
    assert loaded.settings.consistency_weight == 0.1
    (warning,) = warnings(loaded)
    assert "consistency_weight is 0.1 as recorded, but 0.7 in the preset" in warning
    assert load_recipe(tmp_path / "own.yaml").settings.consistency_weight == 0.7


def test_what_follows_from_the_recipe_changes_with_it(tmp_path: Path) -> None:
    _, path = record(tmp_path, {"name": "anatomical"})
    assert section(path)["mask_batch"] == 2
    assert load_recipe(path, ["training.labeled_batch=3"]).settings.mask_batch == 3
    assert load_recipe(path, ["seed=3"]).settings.mask_batch == 2
    _, path = record(tmp_path, {"name": "anatomical", "mask_batch": 5})
    assert load_recipe(path, ["training.labeled_batch=3"]).settings.mask_batch == 5
    _, path = record(tmp_path, "rail", network={"name": "vnet"}, training={"patch": [32, 16, 16]})
    assert section(path)["partner_network"] == "resvnet"
    assert load_recipe(path, ["network={name: unet}"]).settings.partner_network == "unet"


def test_warnings_speak_of_overridden_settings_only(tmp_path: Path) -> None:
    """A record holds every value; those that the user did not set are no cause for a warning."""
    loaded, path = record(tmp_path, {"name": "anatomical", "threshold": 0.3})
    (warning,) = warnings(loaded)
    assert warnings(load_recipe(path)) == [warning]
    _, path = record(tmp_path, "anatomical")
    assert warnings(load_recipe(path)) == []
    idle = load_recipe(write(tmp_path / "idle.yaml", {"name": "cps", "variant": "paper"}))
    assert warnings(idle) == ["method.variant does nothing with preset corrected"]


def test_a_record_is_not_warned_of_keys_that_nobody_set(tmp_path: Path) -> None:
    adam = {"optimizer": {"name": "adam"}}
    spec = {"name": "mr_cardiac", "flip_axes": []}
    loaded, path = record(tmp_path, "supervised", training=adam, spec=spec)
    assert load_recipe(path).warnings == loaded.warnings == ()
    idle = {"optimizer": {"name": "adam", "momentum": 0.5}, "augment": {"flip": True}}
    loaded = load_recipe(write(tmp_path / "idle.yaml", "supervised", training=idle, spec=spec))
    assert [w.partition(" d")[0] for w in loaded.warnings] == [
        "training.optimizer.momentum and nesterov",
        "training.augment.flip",
    ]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("overridden", ["noisy"], "must list settings that the section holds"),
        ("overridden", "noise", "must list settings that the section holds"),
        ("noise", -1, "`method.noise`: Input should be greater than or equal to 0"),
        ("nois", 0.1, "unknown key `method.nois`"),
    ],
)
def test_a_damaged_record_is_refused(tmp_path: Path, key: str, value: Any, words: str) -> None:
    _, path = record(tmp_path, {"name": "mean_teacher", "noise": 0.3})
    data = yaml.safe_load(path.read_text())
    data["method"][key] = value
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(MedSSLError, match=words) as error:
        load_recipe(path)
    assert str(path) in str(error.value)


def test_a_wrong_value_is_named_with_its_line_and_what_it_means(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("data: phantom\nmethod:\n  name: mean_teacher\n  ramp_fraction: 2\n")
    with pytest.raises(MedSSLError) as error:
        load_recipe(path)
    assert "own.yaml:4" in str(error.value)
    assert "Share of all iterations until the ramp ends" in str(error.value)


def test_no_recipe_starts_from_a_record(tmp_path: Path) -> None:
    """It holds every value there was: as a base it would leave nothing to its presets."""
    _, path = record(tmp_path, {"name": "mean_teacher", "preset": "official", "noise": 0.3})
    child = tmp_path / "child.yaml"
    child.write_text(f"base: {path.name}\nname: child\nmethod: {{preset: corrected}}\n")
    with pytest.raises(MedSSLError, match="is the record of a run") as caught:
        load_recipe(child)
    assert "child.yaml:1" in str(caught.value)
    # One of 0.1.0 looks like any recipe; its run does not.
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text((tmp_path / "own.yaml").read_text())
    child.write_text("base: run/recipe.yaml\nname: child\n")
    assert load_recipe(child).recipe.name == "child"
    (tmp_path / "run" / "manifest.json").write_text("{}")
    with pytest.raises(MedSSLError, match="is the record of a run"):
        load_recipe(child)
