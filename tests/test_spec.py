"""Data specs: the shipped ones, overrides, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import medssl
from medssl.data.shipped import shipped_folder
from medssl.data.spec import list_specs, load_spec, spec_files
from medssl.errors import MedSSLError

EXPECTED = {"ct", "mr", "mr_atrium", "mr_cardiac", "mr_hippocampus", "mr_phantom"}


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
    assert load_spec("ct").spacing == "native"


def test_unknown_spec_and_keys(tmp_path: Path) -> None:
    refused("no such data spec", "did you mean `mr_cardiac`?", name="mr_cardic")
    refused("no such data spec", name=str(tmp_path / "none.yaml"))
    refused("unknown key `flip_axs`", "did you mean `flip_axes`?", overrides={"flip_axs": []})
    path = tmp_path / "mine.yaml"
    path.write_text("modality: MR\nintensity:\n  rul: zscore\n")
    text = refused("unknown key `intensity.rul`", "did you mean `rule`?", name=str(path))
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
    monkeypatch.setattr(medssl, "__file__", str(package / "__init__.py"))
    assert shipped_folder("data_specs") == package / "_share" / "data_specs"
    with pytest.raises(MedSSLError, match="recipes is missing from this installation"):
        shipped_folder("recipes")
