"""What a dataset names stays in its folder, and what medssl writes stays in the output folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from decathlon_files import header, make_dataset, touch, write_json

from medssl.data.decathlon import read_dataset
from medssl.errors import MedSSLError
from medssl.recipe import resolve


def one_item(root: Path, image: str, **changes: object) -> Path:
    write_json(root, header(training=[{"image": image, "label": "a.nii.gz", **changes}]))
    touch(root / "a.nii.gz", root / "b.nii.gz", root.parent / "out.nii.gz")
    return root


@pytest.mark.parametrize("absolute", [False, True])
def test_outside_only_if_allowed(tmp_path: Path, absolute: bool) -> None:
    outside = tmp_path / "out.nii.gz"
    root = one_item(tmp_path / "d", str(outside) if absolute else "../out.nii.gz")
    with pytest.raises(MedSSLError, match=r"outside[\s\S]*data\.allow_outside: true"):
        read_dataset(root)
    case = read_dataset(root, allow_outside=True).training[0]
    assert case.id == "out"
    assert case.images[0].samefile(outside)
    outside.unlink()
    with pytest.raises(MedSSLError, match=r"does not exist: \.\./out\.nii\.gz"):
        read_dataset(root, allow_outside=True)


def test_recipe_hands_the_leave_on(tmp_path: Path) -> None:
    from medssl.training.setup import open_dataset

    root = one_item(tmp_path / "d", "../out.nii.gz")
    settings = {"data": {"root": str(root), "allow_outside": True}}
    recipe = resolve(settings, path=tmp_path / "r.yaml").recipe
    assert open_dataset(recipe).training[0].id == "out"


@pytest.mark.parametrize(
    "case_id",
    ["../x", "a/b", "a\\b", "..", ".", " . ", "a\nb", "a\x1b[2J", "\x00", "\x9b", "x" * 300],
)
def test_ids_that_are_no_file_name(tmp_path: Path, case_id: str) -> None:
    with pytest.raises(MedSSLError, match=r"has the id[\s\S]*valid file name"):
        read_dataset(one_item(tmp_path / "d", "b.nii.gz", id=case_id))


@pytest.mark.parametrize("case_id", ["Übung 3", "a.b", "脳_01", "a..b", "-x", 7])
def test_ids_that_are_file_names(tmp_path: Path, case_id: str | int) -> None:
    dataset = read_dataset(one_item(tmp_path / "d", "b.nii.gz", id=case_id))
    assert dataset.training[0].id == str(case_id)


def test_names_of_listed_folders_are_checked_too(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "d", ["a"])
    touch(root / "imagesUn" / "b\nc.nii.gz")
    with pytest.raises(MedSSLError, match="control characters"):
        read_dataset(root)


def test_half_a_character(tmp_path: Path) -> None:
    write_json(tmp_path, '{"name": "\\ud800", "labels": {"0": "b", "1": "a"}, "training": []}')
    with pytest.raises(MedSSLError, match="half a character"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "a\\b", "..", " ", "a\nb", "x" * 300])
def test_recipe_whose_name_leaves_the_folder_of_runs(tmp_path: Path, name: str) -> None:
    with pytest.raises(MedSSLError, match="name"):
        resolve({"name": name}, path=tmp_path / "r.yaml")
