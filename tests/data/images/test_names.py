"""Names of files, scans and structures in any script, none taken for another."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from medssl.data.images.names import (
    EXTENSIONS,
    file_names,
    group_channels,
    image_suffix,
    list_images,
    safe_id,
    split_extension,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("case 01 (left)", "case_01_left"),
        ("患者01", "患者01"),
        ("肝脏_甲", "肝脏_甲"),
        ("रोगी-7", "रोगी-7"),  # vowel signs are marks, not letters
        ("مريض 3", "مريض_3"),
        ("Größe", "Größe"),
        (unicodedata.normalize("NFD", "Größe"), "Größe"),  # as macOS stores it
        ("../a\x00b", "a_b"),
        ("a\u202eb", "a_b"),  # turns the direction of writing
        ("???", "case"),
        ("", "case"),
    ],
)
def test_ids_of_any_script(text: str, expected: str) -> None:
    assert safe_id(text) == expected
    assert safe_id(expected) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["left atrium", "LA (wall)"], ["left-atrium", "LA-wall-"]),  # as ever
        (["肝脏", "肿瘤"], ["肝脏", "肿瘤"]),
        (["Tumor", "tumor"], ["Tumor-1", "tumor-2"]),  # one file on many disks
        (["a b", "a-b"], ["a-b-1", "a-b-2"]),
        (["+", "-"], ["--1", "--2"]),
        (["a", "a"], ["a-1", "a-2"]),  # runs of former versions
        (["x" * 80 + "1", "x" * 80 + "2"], ["x" * 60 + "-1", "x" * 60 + "-2"]),
    ],
)
def test_each_structure_has_a_file_of_its_own(names: list[str], expected: list[str]) -> None:
    found = file_names(names, range(1, len(names) + 1))
    assert found == expected
    assert len({name.casefold() for name in found}) == len(names)


def test_suffixes() -> None:
    assert split_extension("a.b.NII.gz") == ("a.b", ".NII.gz")
    assert split_extension(".nii.gz") == (".nii.gz", "")
    assert image_suffix("a.mhd") == ".mhd"
    assert image_suffix("a.mhd", EXTENSIONS) is None  # a dataset's files hold their voxels
    assert image_suffix("a.raw") is None


def test_images_of_a_folder(tmp_path: Path) -> None:
    for name in ("b.nii", "a.mha", "._b.nii", "c.txt", "d.mhd"):
        (tmp_path / name).touch()
    (tmp_path / "e.nii").mkdir()
    assert [p.name for p in list_images(tmp_path)] == ["a.mha", "b.nii", "d.mhd"]
    assert [p.name for p in list_images(tmp_path, EXTENSIONS)] == ["a.mha", "b.nii"]
    assert list_images(tmp_path / "gone") == []


def test_channels_of_different_folders_are_of_different_scans() -> None:
    files = [Path(f"{folder}/a_000{n}.nii") for folder in "xy" for n in range(2)]
    assert group_channels(files, 2) == [("a", tuple(files[:2])), ("a", tuple(files[2:]))]
    numbered = [Path("x/a_0000.nii"), Path("y/a_0000.nii"), Path("y/a_0001.nii")]
    assert [name for name, _ in group_channels(numbered, 1)] == ["a", "a_0000", "a_0001"]
