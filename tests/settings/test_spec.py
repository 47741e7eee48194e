"""Data specs: the shipped ones, overrides, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import small_recipe, write_recipe

from medssl.errors import MedSSLError
from medssl.methods.registry import list_methods
from medssl.recipe.load import SAVED_SPEC_FIELDS, LoadedRecipe, load_recipe
from medssl.settings import shipped
from medssl.settings.shipped import shipped_folder
from medssl.settings.specs import axis_along, depth_axis, list_specs, load_spec, spec_files

EXPECTED = {
    *("ct", "ct_abdomen", "ct_pancreas", "ct_liver", "cbct_tooth", "cbct_fdi", "cbct_canal"),
    *("mr", "mr_atrium", "mr_brain", "mr_cardiac", "mr_hippocampus", "mr_phantom"),
    *("oct_fluid", "oct_layers"),
}


def refused(*expected: str, name: str = "mr", overrides: dict[str, Any] | None = None) -> str:
    with pytest.raises(MedSSLError) as info:
        load_spec(name, overrides)
    text = str(info.value)
    for part in expected:
        assert part in text
    assert len(text.splitlines()) <= 6
    return text


def test_shipped_specs_are_listed_with_descriptions() -> None:
    listed = list_specs()
    assert set(listed) >= EXPECTED
    assert all(len(d) > 20 and not d.startswith("#") for d in listed.values())


@pytest.mark.parametrize("name", sorted(spec_files()))
def test_shipped_spec(name: str) -> None:
    spec = load_spec(name)
    assert spec.name == name
    text = spec_files()[name].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 40
    # A quarter turn about an axis of coarse slices, or out of the slice plane, is never anatomy.
    assert all(spec.slice_axis not in plane for plane in spec.rot90_planes)


def test_facts_of_the_shipped_specs() -> None:
    cardiac, ct = load_spec("mr_cardiac"), load_spec("ct")
    assert (cardiac.intensity.rule, cardiac.flip_axes) == ("minmax", [0, 1])
    assert cardiac.rot90_planes == [[0, 1]]
    assert cardiac.orientation is None
    assert load_spec("mr_hippocampus").rot90_planes == []
    assert load_spec("mr_hippocampus").flip_axes == [0]
    assert (ct.modality, ct.intensity.lower, ct.intensity.upper) == ("CT", -160, 240)
    assert load_spec("mr_atrium").intensity.rule == "zscore"


def test_facts_of_cbct() -> None:
    for name in ("cbct_tooth", "cbct_canal", "cbct_fdi"):
        spec = load_spec(name)
        assert (spec.intensity.rule, spec.intensity.exclude) == ("percentile_zscore", "padding")
        assert (spec.spacing, spec.flip_axes) == ([0.3, 0.3, 0.3], [0])
    pairs = load_spec("cbct_fdi").label_pairs
    teeth = sorted(v for pair in pairs for v in pair if v < 100)
    assert teeth == [q * 10 + n for q in (1, 2, 3, 4) for n in range(1, 9)]
    # Upper right is 1, upper left 2, lower left 3, lower right 4; the tooth keeps its number.
    assert all({a // 10 % 10, b // 10 % 10} in ({1, 2}, {3, 4}) for a, b in pairs if a % 100 > 10)
    assert all(a % 10 == b % 10 and a // 100 == b // 100 for a, b in pairs if a % 100 > 10)
    assert load_spec("cbct_tooth").label_pairs == []
    assert load_spec("cbct_canal").label_pairs == []
    canal = load_spec("cbct_canal")
    assert (canal.largest_component, canal.pieces) == (True, {1: 2})  # one on each side


@pytest.mark.parametrize("name", ["oct_fluid", "oct_layers"])
def test_facts_of_oct(name: str) -> None:
    spec = load_spec(name)
    assert (spec.spatial_unit, spec.orientation, spec.slice_axis) == ("um", "RAS", 2)
    assert (spec.depth_direction, depth_axis(spec), spec.align_slices) == ("P", 1, False)
    assert (spec.flip_axes, spec.rotate_planes) == ([0], [[0, 1]])
    assert (spec.intensity.rule, spec.intensity.exclude) == ("percentile_zscore", "zero")
    assert set(spec.refuse) == {"umct"}
    assert (spec.metrics == ["boundaries"]) == (name == "oct_layers")


def test_refusals_and_warnings_name_methods_that_exist() -> None:
    for name in spec_files():
        spec = load_spec(name)
        assert {*spec.refuse, *spec.warn} <= set(list_methods()), name


def test_axis_along() -> None:
    assert [axis_along(load_spec("mr", {"orientation": "PIR"}), c) for c in "RAS"] == [2, 0, 1]
    assert axis_along(load_spec("mr", {"orientation": None}), "R") is None


def recipe_of(tmp_path: Path, spec: Any, method: str) -> LoadedRecipe:
    recipe = small_recipe(tmp_path, tmp_path, method={"name": method})
    network = {"name": "unet", "channels": [4, 8], "strides": [2], "dropout": 0.1}
    return load_recipe(
        write_recipe(tmp_path / "recipe.yaml", {**recipe, "spec": spec, "network": network})
    )


def test_refused_and_warned_methods(tmp_path: Path) -> None:
    with pytest.raises(MedSSLError, match="'umct' makes no sense on 'oct_fluid' data: its views"):
        recipe_of(tmp_path, "oct_fluid", "umct")
    warnings = recipe_of(tmp_path, "cbct_fdi", "bcp").warnings
    assert any("'bcp' on 'cbct_fdi' data: a pasted box" in w for w in warnings)
    assert not any("cbct_fdi" in w for w in recipe_of(tmp_path, "cbct_fdi", "supervised").warnings)


def test_a_whole_spec_saved_by_an_earlier_version_is_read(tmp_path: Path) -> None:
    saved = {k: v for k, v in load_spec("ct").model_dump().items() if k in SAVED_SPEC_FIELDS}
    recipe = recipe_of(tmp_path, {**saved, "name": "no_longer_there"}, "supervised").recipe
    assert (recipe.spec.name, recipe.spec.intensity.upper) == ("no_longer_there", 240)


def test_load_by_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("modality: CBCT\nspacing: [0.3, 0.3, 0.3]\n")
    spec = load_spec(str(path))
    assert (spec.name, spec.modality, spec.spacing) == ("mine", "CBCT", [0.3, 0.3, 0.3])
    assert load_spec("data_specs/ct.yaml") == load_spec("ct")


def test_overrides() -> None:
    spec = load_spec("ct", {"spacing": [1, 1, 2], "intensity": {"lower": -100}})
    assert spec.spacing == [1, 1, 2]
    assert (spec.intensity.lower, spec.intensity.upper) == (-100, 240)
    # Another rule does not inherit bounds in Hounsfield units.
    other = load_spec("ct", {"intensity": {"rule": "percentile"}}).intensity
    assert (other.rule, other.lower, other.upper) == ("percentile", None, None)
    assert load_spec("ct").spacing == "median"


def test_unknown_spec_and_keys(tmp_path: Path) -> None:
    refused("no such data spec", "did you mean 'mr_cardiac'?", name="mr_cardic")
    refused("no such data spec", name=str(tmp_path / "none.yaml"))
    refused("unknown key `flip_axs`", "did you mean 'flip_axes'?", overrides={"flip_axs": []})
    path = tmp_path / "mine.yaml"
    path.write_text("modality: MR\nintensity:\n  rul: zscore\n")
    text = refused("unknown key `intensity.rul`", "did you mean 'rule'?", name=str(path))
    assert f"{path}:3" in text


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        ({"orientation": "RAX"}, "one each of R/L"),
        ({"orientation": "RLS"}, "one each of R/L"),
        ({"orientation": "RA"}, "one each of R/L"),
        ({"spacing": [1, 1]}, "three positive numbers in mm"),
        ({"spacing": [1, 0, 1]}, "three positive numbers"),
        ({"spacing": "fine"}, "native"),
        ({"resize": [256, 256]}, "three numbers of voxels"),
        ({"resize": [256, 0, None]}, "three numbers of voxels"),
        ({"flip_axes": [3]}, "a list of axes 0, 1, 2"),
        ({"rot90_planes": [[0, 0]]}, "two different axes"),
        ({"rotate_planes": [[0, 1, 2]]}, "two different axes"),
        ({"spacing": [1, None, -1]}, "null for an axis that is kept"),
        ({"depth_direction": "X"}, "one letter of R, L, A, P, S, I"),
        ({"align_slices": True}, "depth_direction says along which axis"),
        ({"metrics": ["boundaries"]}, "depth_direction says along which axis"),
        ({"rotate_planes": [[1, 2]], "modality": "OCT"}, "without axis 2: B-scans"),
        ({"spacing": [10, 4, 100], "modality": "OCT"}, "null for axis 2: between two B-scans"),
        ({"resize": [64, 64, 32], "modality": "OCT"}, "null for axis 2: between two B-scans"),
        ({"flip_axes": [1], "depth_direction": "P", "modality": "OCT"}, "without the depth"),
        ({"intensity": {"exclude": "zero"}}, "exclude belongs to rule"),
        ({"intensity": {"rule": "percentile_zscore", "nonzero": True}}, "exclude: zero"),
        ({"label_pairs": [[1, 2], [2, 3]]}, "one pair only"),
        ({"label_pairs": [[1]]}, "pairs of label values"),
        ({"intensity": {"lower": 300}}, "must be below upper"),
    ],
)
def test_impossible_values(overrides: dict[str, Any], part: str) -> None:
    refused(part, next(iter(overrides)), name="ct", overrides=overrides)


def test_shipped_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (shipped_folder("data_specs") / "ct.yaml").is_file()
    # As installed: the files lie inside the package, and a stranger's folder beside it is ignored.
    package = tmp_path / "site" / "medssl"
    (package / "_share" / "data_specs").mkdir(parents=True)
    (tmp_path / "site" / "recipes").mkdir()
    monkeypatch.setattr(shipped, "__file__", str(package / "settings" / "shipped.py"))
    assert shipped_folder("data_specs") == package / "_share" / "data_specs"
    with pytest.raises(MedSSLError, match="recipes is missing from this installation"):
        shipped_folder("recipes")
