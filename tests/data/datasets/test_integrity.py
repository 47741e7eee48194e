"""Planted faults are found and named; sound files are not reported."""

from __future__ import annotations

import gzip
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from decathlon_files import SHAPE, image_array, label_array, make_dataset, write

from medssl.data.datasets.case import Case, Dataset, LabelMap
from medssl.data.datasets.decathlon import read_dataset
from medssl.data.datasets.integrity import check_case, check_training_set
from medssl.data.datasets.problem import Problem
from medssl.data.datasets.split import make_splits
from medssl.data.datasets.verdicts import Verdicts
from medssl.data.images.geometry import grid_distance
from medssl.data.images.labels import count_values
from medssl.data.images.volume import Volume, read_volume
from medssl.errors import MedSSLError
from medssl.settings.recipe import DataSettings

LABEL_MAP = LabelMap((0, 1, 2), ("background", "a", "b"))
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


@pytest.fixture
def case(tmp_path: Path) -> Case:
    image = write(tmp_path / "c.nii.gz", image_array())
    label = write(tmp_path / "c_label.nii.gz", label_array())
    return Case("c", (image,), label, "c")


def only(problems: list[Problem], *expected: str, severity: str = "error") -> Problem:
    assert len(problems) == 1, problems
    for part in expected:
        assert part in problems[0].what
    assert problems[0].severity == severity
    assert problems[0].fix
    return problems[0]


def check(case: Case, channels: int = 1) -> list[Problem]:
    return check_case(case, LABEL_MAP, channels)


def test_sound_case(case: Case) -> None:
    assert check(case) == []
    assert check_case(case.without_label(), LABEL_MAP, 1) == []


def test_float_label_scaled_label_and_rounded_header_are_sound(case: Case) -> None:
    assert case.label is not None
    write(case.label, label_array().astype(np.float32), AFFINE * (1 + 1e-6))
    assert check(case) == []
    scaled = nib.Nifti1Image(label_array().astype(np.int16), AFFINE)
    scaled.header.set_slope_inter(1.0, 0.0)
    nib.save(scaled, case.label)
    assert check(case) == []


def cut_compressed(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-60])


def cut_inside(path: Path) -> None:
    # A sound gzip file of an image whose last slices are missing.
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-100]))


def cut_checksum(path: Path) -> None:
    # Every voxel is there: a reader that stops at the last voxel does not notice.
    path.write_bytes(path.read_bytes()[:-6])


def flip_checksum(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-8] ^= 0xFF
    path.write_bytes(bytes(raw))


def flip_middle(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 20] = bytes(20)
    path.write_bytes(bytes(raw))


def make_empty(path: Path) -> None:
    path.write_bytes(b"")


def make_text(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\n" * 20)


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    "damage",
    [
        cut_compressed,
        cut_inside,
        cut_checksum,
        flip_checksum,
        flip_middle,
        make_empty,
        make_text,
        remove,
    ],
)
@pytest.mark.parametrize("which", ["image", "label"])
def test_damaged_files(case: Case, damage: Callable[[Path], None], which: str) -> None:
    assert case.label is not None
    path = case.images[0] if which == "image" else case.label
    damage(path)
    problem = only(check(case), "the file ")
    assert problem.file == path
    assert "\n" not in problem.what
    # A hidden label is not opened.
    assert len(check(case.without_label())) == (which == "image")


def test_damaged_file_of_other_formats(tmp_path: Path) -> None:
    for name in ("a.nii", "a.mha", "a.nrrd"):
        path = tmp_path / name
        path.write_bytes(b"garbage" * 100)
        only(check(Case("a", (path,), None, "a")), "cannot be read")


def test_values(case: Case) -> None:
    path = case.images[0]
    data = image_array()
    data[0, 0, :2] = np.nan
    data[1, 1, 1] = np.inf
    write(path, data)
    only(check(case), "3 voxels are NaN (not a number) or infinite")
    write(path, np.full(SHAPE, 7, np.int16))
    only(check(case), "constant: every voxel is 7")


def test_dimensions_and_channels(case: Case) -> None:
    path, bare = case.images[0], case.without_label()
    write(path, image_array(shape=(6, 5)))
    assert check(bare) == []  # one slice
    write(path, image_array(shape=(6, 5, 4, 2, 3)))
    only(check(bare), "has 5 dimensions (6, 5, 4, 2, 3)")
    write(path, image_array(shape=(6, 5, 4, 2)))
    assert check(case, channels=2) == []
    only(check(case), "has 2 channels (6, 5, 4, 2) but dataset.json declares 1")
    two = image_array(shape=(6, 5, 4, 2))
    two[..., 1] = 3
    write(path, two)
    only(check(case, channels=2), "channel 1 of the image is constant: every voxel is 3")
    write(path, image_array(shape=(6, 5, 4, 1)))
    assert check(case) == []
    write(path, image_array())
    only(check(case, channels=2), "has 1 channels")
    color = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    write(path, color)
    only(check(bare), "colors")


def test_channel_files(case: Case, tmp_path: Path) -> None:
    second = write(tmp_path / "c2.nii.gz", image_array(1))
    both = Case("c", (*case.images, second), case.label, "c")
    assert check(both, channels=2) == []
    only(check(both, channels=3), "has 2 channels")
    write(second, image_array(1, shape=(6, 5, 3)))
    problem = only(
        check(both, channels=2), "the channel has 6 x 5 x 3 voxels but the image 6 x 5 x 4"
    )
    assert problem.file == second


def test_label_shape(case: Case) -> None:
    assert case.label is not None
    write(case.label, label_array((6, 5, 5)))
    problem = only(check(case), "the label has 6 x 5 x 5 voxels but the image 6 x 5 x 4")
    assert problem.file == case.label


def rotated() -> np.ndarray:
    return np.diag([-1.0, -1.0, 2.0, 1.0])


def shifted(millimeters: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[0, 3] = millimeters
    return affine


@pytest.mark.parametrize(
    ("affine", "severity", "part"),
    [
        (np.diag([1.0, 1.0, 3.0, 1.0]), "error", "spacing (1, 1, 3) against (1, 1, 2)"),
        (rotated(), "error", "axes point another way"),
        (shifted(12.5), "error", "12 voxels off the image: origin (12.5, 0, 0)"),
        (shifted(0.2), "warning", "0.2 voxels off"),
        (np.zeros((4, 4)), "error", "off the image"),
    ],
)
def test_label_grid(case: Case, affine: np.ndarray, severity: str, part: str) -> None:
    assert case.label is not None
    label = nib.Nifti1Image(label_array(), AFFINE)
    label.header["qform_code"] = 0
    label.header["sform_code"] = 1
    for row, name in enumerate(("srow_x", "srow_y", "srow_z")):
        label.header[name] = affine[row]
    label.header["pixdim"][1:4] = np.linalg.norm(affine[:3, :3], axis=0)
    raw = nib.Nifti1Image(label_array(), None, label.header)
    nib.save(raw, case.label)
    only(check(case), part, severity=severity)


def test_grid_distance_is_in_voxels() -> None:
    # 1 % of 100 voxels is 0.99 voxel at the far corner, whatever the unit.
    for unit in (1.0, 0.004, 1000.0):
        first = np.diag([unit, unit, 30 * unit, 1.0])
        second = np.diag([unit, 1.01 * unit, 30 * unit, 1.0])
        assert grid_distance(first, second, (10, 100, 10)) == pytest.approx(0.99)


def test_label_values(case: Case) -> None:
    assert case.label is not None
    label = label_array()
    label[0, 0, :3] = 9
    write(case.label, label)
    only(check(case), "label values not declared in dataset.json: 9 (3 voxels)")
    assert "declare them" in check(case)[0].fix
    with_ignore = LabelMap((0, 1, 2), ("background", "a", "b"), ignore_value=9)
    assert check_case(case, with_ignore, 1) == []
    soft = label_array().astype(np.float32)
    soft[0, 0, 0] = 0.5
    write(case.label, soft)
    only(check(case), "not declared in dataset.json: 0.5 (1 voxels)")
    soft[0, 0, 0] = np.nan
    write(case.label, soft)
    only(check(case), "nan (1 voxels)")
    assert "give label maps" in check(case)[0].fix  # nobody can declare that
    write(case.label, np.arange(120, dtype=np.int16).reshape(SHAPE))
    only(check(case), "3 (1 voxels), 4 (1 voxels), 5 (1 voxels), 6 (1 voxels) and 113 more values")


@pytest.mark.parametrize("fill", [0, 9])
def test_empty_label(case: Case, fill: int) -> None:
    assert case.label is not None
    write(case.label, np.full(SHAPE, fill, np.uint8))
    with_ignore = LabelMap((0, 1, 2), ("background", "a", "b"), ignore_value=9)
    only(check_case(case, with_ignore, 1), "the label is empty")


def test_count_values_agrees_with_unique() -> None:
    rng = np.random.default_rng(0)
    for data in (
        rng.integers(-3, 4, (5, 6, 7)).astype(np.int16),
        rng.integers(0, 255, (5, 6, 7)).astype(np.uint8),
        rng.integers(0, 3, (5, 6, 7)).astype(np.float64),
        rng.normal(size=(3, 4)),
        np.array([0, 2**31], np.int64),
    ):
        found, counts = np.unique(data, return_counts=True)
        assert count_values(data) == dict(zip(found.tolist(), counts.tolist(), strict=True))


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_itk_formats_give_the_same_geometry(tmp_path: Path, name: str) -> None:
    # The same volume, written by ITK: x fastest, world LPS.
    data = image_array()
    image = SimpleITK.GetImageFromArray(data.transpose(2, 1, 0))
    image.SetSpacing((1.0, 1.5, 2.0))
    image.SetOrigin((10.0, 20.0, 30.0))
    SimpleITK.WriteImage(image, str(tmp_path / name))
    volume = read_volume(tmp_path / name)
    np.testing.assert_array_equal(volume.data, data)
    expected = np.diag([-1.0, -1.5, 2.0, 1.0])
    expected[:3, 3] = -10, -20, 30
    np.testing.assert_allclose(volume.affine, expected)
    vector = SimpleITK.GetImageFromArray(np.stack([data, 2 * data], -1).transpose(2, 1, 0, 3), True)
    SimpleITK.WriteImage(vector, str(tmp_path / name))
    np.testing.assert_array_equal(read_volume(tmp_path / name).data[..., 1], 2 * data)


def prepare(root: Path, count: int = 6) -> Dataset:
    return read_dataset(make_dataset(root, [f"c{n}" for n in range(count)], real=True))


def test_training_set(tmp_path: Path) -> None:
    dataset = prepare(tmp_path)
    splits = make_splits(dataset, DataSettings(labeled=["c0", "c1"], test=["c5"]))
    seen: list[str] = []
    assert check_training_set(dataset, splits, on_progress=seen.append) == []
    assert sorted(seen) == [f"c{n}" for n in range(6)]
    # Hidden labels are not opened: a broken one does no harm.
    (tmp_path / "labelsTr/c3.nii.gz").write_bytes(b"")
    assert check_training_set(dataset, splits) == []


def test_training_set_refuses_in_six_lines(tmp_path: Path) -> None:
    dataset = prepare(tmp_path)
    splits = make_splits(dataset, DataSettings(labeled=["c0", "c1"]))
    for name in ("imagesTr/c3", "imagesTr/c4", "labelsTr/c1"):
        cut_compressed(tmp_path / f"{name}.nii.gz")
    with pytest.raises(MedSSLError) as info:
        check_training_set(dataset, splits)
    text = str(info.value)
    assert text.startswith("c1.nii.gz: the file is truncated or damaged")
    assert "and 2 more problems in 2 files (run `medssl check" in text
    assert info.value.where == str(tmp_path / "labelsTr/c1.nii.gz")
    assert info.value.fix == "copy or download it again from its source"
    assert len(text.splitlines()) <= 6


def test_empty_label_is_an_error_only_where_it_teaches(tmp_path: Path) -> None:
    dataset = prepare(tmp_path)
    write(tmp_path / "labelsTr/c5.nii.gz", np.zeros(SHAPE, np.uint8))
    held_back = make_splits(dataset, DataSettings(labeled=["c0"], test=["c5"]))
    only(check_training_set(dataset, held_back), "the label is empty", severity="warning")
    taught = make_splits(dataset, DataSettings(labeled=["c0", "c5"]))
    with pytest.raises(MedSSLError, match="the label is empty"):
        check_training_set(dataset, taught)


def test_smallest_shape(tmp_path: Path) -> None:
    dataset = prepare(tmp_path, 2)
    splits = make_splits(dataset, DataSettings(labeled=["c0"]))
    assert check_training_set(dataset, splits, min_shape=(6, 5, 4)) == []
    with pytest.raises(MedSSLError, match="has 6 x 5 x 4 voxels, fewer than 6 x 5 x 8"):
        check_training_set(dataset, splits, min_shape=(6, 5, 8))


@pytest.mark.parametrize("folder", ["Task04_Hippocampus", "Task101_ACDC", "Task102_LeftAtrium"])
def test_real_folders_are_sound_and_quick(shared_data: Path, folder: str) -> None:
    dataset = read_dataset(shared_data / folder)
    splits = make_splits(dataset, DataSettings(), uses_unlabeled=False)
    start = time.perf_counter()
    assert check_training_set(dataset, splits) == []
    assert time.perf_counter() - start < 30


# ---------------------------------------------------------------------- verdicts


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read, in order."""
    names: list[str] = []

    def noted(path: Path, **options: Any) -> Volume:
        names.append(f"{path.parent.name}/{path.name.split('.')[0]}")
        return read_volume(path, **options)

    defaults = {**(check_case.__kwdefaults__ or {}), "open_file": noted}
    monkeypatch.setattr(check_case, "__kwdefaults__", defaults)
    return names


def test_what_was_read_is_not_read_again(tmp_path: Path, reads: list[str]) -> None:
    dataset, memory = prepare(tmp_path / "data"), tmp_path / "checked"
    image = nib.load(tmp_path / "data" / "labelsTr" / "c5.nii.gz")
    blank = nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine)
    nib.save(blank, tmp_path / "data" / "labelsTr" / "c5.nii.gz")
    splits = make_splits(dataset, DataSettings(labeled=["c0", "c1"], test=["c5"]))

    def check(**changes: Any) -> list[str]:
        reads.clear()
        found = check_training_set(replace(dataset, **changes), splits, memory=memory)
        assert [p.check for p in found] == ["empty_label"]
        return sorted(reads)

    everything = [f"imagesTr/c{n}" for n in range(6)] + [f"labelsTr/c{n}" for n in (0, 1, 5)]
    assert check() == everything
    broken = ["imagesTr/c5", "labelsTr/c5"]  # an error, but for a test case
    assert check() == broken
    os.utime(tmp_path / "data" / "imagesTr" / "c0.nii.gz", ns=(0, 12345))
    again = tmp_path / "data" / "imagesTr" / "c1.nii.gz"
    again.write_bytes(gzip.compress(gzip.decompress(again.read_bytes()), 1))
    assert check() == ["imagesTr/c1", "imagesTr/c5", "labelsTr/c1", "labelsTr/c5"]
    assert check() == broken
    values = (*dataset.labels.values, 77)
    assert check(labels=LabelMap(values, (*dataset.labels.names, "new"))) == everything
    for entry in memory.iterdir():
        entry.write_text('[{"severity": "note"}]')
    assert check() == everything
    shutil.rmtree(memory)
    memory.write_text("")  # cannot be written
    assert check() == check() == everything


def test_warnings_are_remembered(tmp_path: Path, reads: list[str]) -> None:
    dataset = prepare(tmp_path / "data")
    case, found = dataset.training[0], [Problem("warning", Path("x"), "odd", "look", "odd")]
    verdicts = Verdicts(tmp_path / "checked", dataset.labels, 1)
    assert verdicts.get(case) is None
    verdicts.keep(case, found)
    assert verdicts.get(case) == found
    assert Verdicts(tmp_path / "checked", dataset.labels, 2).get(case) is None
    assert verdicts.get(replace(case, label=None)) is None
    assert Verdicts(None, dataset.labels, 1).get(case) is None
    verdicts.keep(case, [Problem("error", Path("x"), "broken", "copy")])
    assert verdicts.get(case) == found, "an error is not kept"


def test_a_file_that_is_gone_is_an_error(tmp_path: Path) -> None:
    dataset, memory = prepare(tmp_path / "data"), tmp_path / "checked"
    splits = make_splits(dataset, DataSettings(labeled=["c0", "c1"]))
    check_training_set(dataset, splits, memory=memory)
    (tmp_path / "data" / "imagesTr" / "c3.nii.gz").unlink()
    with pytest.raises(MedSSLError, match="c3"):
        check_training_set(dataset, splits, memory=memory)
