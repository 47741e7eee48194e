"""The setting `mixing`: on in `corrected`, off in what was published or trained before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from medssl.methods.registry import get_settings
from medssl.recipe.load import load_recipe, save_recipe

MIXING = ("mean_teacher", "uamt", "cps", "fixmatch")
EACH = pytest.mark.parametrize("name", MIXING)


def written(folder: Path, method: Any, **more: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"data": "phantom", "method": method, **more}))
    return path


@EACH
def test_it_is_on_unless_published_otherwise(name: str) -> None:
    settings = get_settings(name)
    assert settings().mixing == "cutmix"
    for variant in [key.partition("/")[2] for key in settings.presets]:
        given = {"variant": variant} if variant else {}
        assert settings(preset="official", **given).mixing == "none"
    assert get_settings("anatomical")().mixing == "none"


@EACH
def test_a_patch_that_has_no_other_to_mix_with_is_named(name: str, tmp_path: Path) -> None:
    path = written(tmp_path, name, training={"unlabeled_batch": 1}, network={"dropout": 0.1})
    (warning,) = load_recipe(path).warnings
    assert "mixing does nothing with training.unlabeled_batch 1" in warning
    assert load_recipe(path, ["method.mixing=none"]).warnings == ()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("cbct_fdi", "'cbct_fdi' data: a pasted box tears teeth from their neighbors"),
        ("oct_layers", "'oct_layers' data: the edges of a pasted box break layers"),
        ({"label_pairs": [[1, 2]], "flip_axes": [0]}, "tears structures from what tells left"),
    ],
)
def test_data_in_which_a_box_tears_apart_what_belongs_together(
    tmp_path: Path, spec: Any, words: str
) -> None:
    path = written(tmp_path, "fixmatch", spec=spec)
    (warning,) = load_recipe(path).warnings
    assert words in warning
    assert load_recipe(path, ["method.mixing=none"]).warnings == ()


def test_recipes_for_such_data_do_not_mix() -> None:
    for name in ("cbct_fdi_mean_teacher", "oct_layers_mean_teacher"):
        loaded = load_recipe(name, ["data.root=phantom"])
        assert loaded.settings.mixing == "none"
        assert loaded.warnings == ()


@EACH
def test_a_record_without_it_was_trained_without_it(name: str, tmp_path: Path) -> None:
    """One of 0.1.0, which is a run by its manifest, and one that lacks the setting alone."""
    path = written(tmp_path, {"name": name, "preset": "corrected"})
    assert load_recipe(path).settings.mixing == "cutmix"
    (tmp_path / "manifest.json").write_text("{}")
    loaded = load_recipe(path)
    assert loaded.settings.mixing == "none"
    (warning,) = loaded.warnings
    assert "method.mixing is 'none' as recorded, but 'cutmix' in the preset" in warning
    assert load_recipe(path, ["training.iterations=9"]).settings.mixing == "none"
    assert load_recipe(path, ["method.mixing=cutmix"]).settings.mixing == "cutmix"
    save_recipe(load_recipe(path, ["method.mixing=cutmix"]).recipe, path)
    record = yaml.safe_load(path.read_text())
    del record["method"]["mixing"]
    record["method"]["overridden"] = []
    path.write_text(yaml.safe_dump(record))
    assert load_recipe(path).settings.mixing == "none"
