"""A repaired copy passes the check, and nothing else in it has changed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from check_faults import (
    REPAIRABLE,
    Folder,
    Found,
    copy_among_unlabeled,
    edit,
    few_nan,
    frame_of_nan,
    label_header_lost,
    label_shifted,
    label_slightly_off,
    label_spacing_lost,
    label_turned,
    nearly_whole_label,
    truncated_image,
    undeclared_value,
    voxels,
)

from medssl.data.checks.repairs import fill_not_finite
from medssl.data.phantoms.dataset import write_phantom
from medssl.errors import MedSSLError
from medssl.workflows.check import check


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repair") / "sound"
    return write_phantom(root, labeled=8, unlabeled=2, test=1, shape=(28, 24, 14))


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Folder:
    return Folder(shutil.copytree(sound, tmp_path / "data"))


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize("plant", REPAIRABLE, ids=lambda f: f.__name__)
def test_repaired_copy_passes(
    folder: Folder, sound: Path, tmp_path: Path, plant: Callable[[Folder, int], Found]
) -> None:
    planted = plant(folder, 2)
    before = snapshot(folder.root)
    result = check(folder.root, repair=tmp_path / "copy")
    assert snapshot(folder.root) == before  # the original is never touched
    problem = next(p for p in result.report.problems if p.file == planted.file)
    assert result.report.is_repairable(problem)
    assert result.repaired is not None
    assert [p for p in result.repaired.problems if p.severity != "note"] == []
    assert result.can_train
    assert len(result.repairs) == 1
    name = str(planted.file.relative_to(folder.root))
    after = snapshot(tmp_path / "copy")
    if plant is copy_among_unlabeled:
        assert name not in after
    else:
        assert name in result.repairs[0]
        assert after[name] != before[name]
    for other, content in after.items():
        if other not in (name, "dataset.json"):
            assert content == before[other]


@pytest.mark.parametrize("plant", [label_slightly_off, label_header_lost, label_spacing_lost])
def test_copied_grid_keeps_the_voxels(
    folder: Folder, sound: Path, tmp_path: Path, plant: Callable[[Folder, int], Found]
) -> None:
    path = plant(folder, 2).file
    check(folder.root, repair=tmp_path / "copy")
    name = path.relative_to(folder.root)
    np.testing.assert_array_equal(voxels(tmp_path / "copy" / name), voxels(sound / name))
    image = nib.load(tmp_path / "copy" / folder.image(2).relative_to(folder.root))
    label = nib.load(tmp_path / "copy" / name)
    np.testing.assert_allclose(label.affine, image.affine, rtol=0, atol=1e-6)
    assert label.header["sform_code"] == image.header["sform_code"]


def test_turned_label_lies_where_its_header_put_it(
    folder: Folder, sound: Path, tmp_path: Path
) -> None:
    name = label_turned(folder, 2).file.relative_to(folder.root)
    check(folder.root, repair=tmp_path / "copy")
    np.testing.assert_array_equal(voxels(tmp_path / "copy" / name), voxels(sound / name))
    mended, first = nib.load(tmp_path / "copy" / name), nib.load(sound / name)
    np.testing.assert_allclose(mended.affine, first.affine, atol=1e-5)


def test_nearly_whole_label_is_rounded(folder: Folder, sound: Path, tmp_path: Path) -> None:
    name = nearly_whole_label(folder, 2).file.relative_to(folder.root)
    check(folder.root, repair=tmp_path / "copy")
    np.testing.assert_array_equal(voxels(tmp_path / "copy" / name), voxels(sound / name))
    assert nib.load(tmp_path / "copy" / name).get_data_dtype() == np.uint8


def test_only_broken_voxels_of_an_image_change(folder: Folder, tmp_path: Path) -> None:
    for k, plant in ((1, few_nan), (2, frame_of_nan)):
        path = plant(folder, k).file
        old = voxels(path)
        check(folder.root, repair=tmp_path / f"copy{k}")
        new = voxels(tmp_path / f"copy{k}" / path.relative_to(folder.root))
        kept = np.isfinite(old)
        np.testing.assert_array_equal(new[kept], old[kept])
        assert np.isfinite(new).all()


def test_filling() -> None:
    data = np.arange(1000, dtype=np.float32).reshape(10, 10, 10)
    data[4, 4, 4] = np.nan
    assert fill_not_finite(data)[4, 4, 4] in (343, 543, 434, 454, 443, 445)
    data[:3] = np.inf
    filled = fill_not_finite(data)
    assert (filled[:3] == 300).all()
    assert filled[4, 4, 4] == 300
    two = np.stack([np.arange(1000.0).reshape(10, 10, 10), np.full((10, 10, 10), -5.0)], -1)
    two[4, 4, 4, 0] = np.nan
    assert fill_not_finite(two)[4, 4, 4, 0] > 300  # never from the other channel


def test_what_cannot_be_repaired_is_named(folder: Folder, tmp_path: Path) -> None:
    files = [
        truncated_image(folder, 1).file,
        label_shifted(folder, 2).file,
        undeclared_value(folder, 3).file,
    ]
    label_slightly_off(folder, 4)
    result = check(folder.root, repair=tmp_path / "copy")
    assert not result.can_train
    assert len(result.repairs) == 1
    assert result.repaired is not None
    left = {p.file.name for p in result.repaired.problems if p.severity == "error"}
    assert left == {p.name for p in files}


def test_format_is_written_the_usual_way(folder: Folder, tmp_path: Path) -> None:
    info = folder.info
    info["labels"] = {name: int(value) for value, name in info["labels"].items()}
    info["licence"] = info.pop("license")
    info["test"] = [f"{folder.root}/{p}" for p in info["test"]]
    info["numTraining"] = 99
    info["training"][0] |= {"fold": 2, "patient": "P7"}
    (folder.root / "dataset.json").write_text(json.dumps(info))
    result = check(folder.root, repair=tmp_path / "copy")
    assert result.repaired is not None
    assert len(result.report.dataset.deviations) >= 4
    kept = [d for d in result.repaired.dataset.deviations if "fold" not in d]
    assert kept == []
    old, new = result.report.dataset, result.repaired.dataset
    assert new.labels == old.labels
    assert [(c.id, c.patient) for c in new.training] == [(c.id, c.patient) for c in old.training]
    assert new.training[0].meta == {"fold": "2"}
    assert json.loads((tmp_path / "copy/dataset.json").read_text())["license"] == "CC0-1.0"


def test_other_formats_keep_their_place(tmp_path: Path) -> None:
    """An MHA label without geometry gets that of its image; NaN of an NRRD image are filled."""
    root = tmp_path / "data"
    rng = np.random.default_rng(0)
    items = []
    for n in range(3):
        data = rng.normal(100, 20, (9, 11, 13)).astype(np.float32)
        image = SimpleITK.GetImageFromArray(data)
        image.SetSpacing((0.8, 0.9, 2.5))
        image.SetOrigin((-40.0, 10.0, 7.0))
        image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
        label = SimpleITK.GetImageFromArray((data > 110).astype(np.uint8))
        label.CopyInformation(image)
        if n == 0:
            label.SetOrigin((0, 0, 0))
            label.SetDirection((1, 0, 0, 0, 1, 0, 0, 0, 1))
        if n == 1:
            data[4, 4, 4] = np.nan
            broken = SimpleITK.GetImageFromArray(data)
            broken.CopyInformation(image)
            image = broken
        for folder, volume, ext in (("imagesTr", image, "nrrd"), ("labelsTr", label, "mha")):
            (root / folder).mkdir(parents=True, exist_ok=True)
            SimpleITK.WriteImage(volume, str(root / folder / f"c{n}.{ext}"))
        items.append({"image": f"imagesTr/c{n}.nrrd", "label": f"labelsTr/c{n}.mha"})
    header = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "bright"}}
    (root / "dataset.json").write_text(json.dumps({**header, "training": items}))
    result = check(root, repair=tmp_path / "copy")
    assert result.can_train
    assert len(result.repairs) == 3  # the third: dataset.json has no numTraining
    image = SimpleITK.ReadImage(str(tmp_path / "copy/imagesTr/c0.nrrd"))
    label = SimpleITK.ReadImage(str(tmp_path / "copy/labelsTr/c0.mha"))
    np.testing.assert_allclose(label.GetOrigin(), image.GetOrigin())
    np.testing.assert_allclose(label.GetDirection(), image.GetDirection())
    np.testing.assert_array_equal(
        SimpleITK.GetArrayFromImage(label),
        SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(root / "labelsTr/c0.mha"))),
    )


def test_header_scaling_survives(folder: Folder, tmp_path: Path) -> None:
    path = folder.image(2)
    image = nib.load(path)
    data = voxels(path).astype(np.float32)
    data[3, 3, 3] = np.nan
    scaled = nib.Nifti1Image(data, image.affine)
    scaled.header.set_slope_inter(2.0, -1000.0)
    nib.save(scaled, path)
    old = voxels(path)
    check(folder.root, repair=tmp_path / "copy")
    new = voxels(tmp_path / "copy" / path.relative_to(folder.root))
    kept = np.isfinite(old)
    np.testing.assert_array_equal(new[kept], old[kept])


def test_refusals_leave_nothing_behind(folder: Folder, tmp_path: Path) -> None:
    used = tmp_path / "used"
    used.mkdir()
    (used / "file").touch()
    with pytest.raises(MedSSLError, match="exists and is not empty"):
        check(folder.root, repair=used)
    with pytest.raises(MedSSLError, match="inside the dataset"):
        check(folder.root, repair=folder.root / "copy")
    assert sorted(os.listdir(tmp_path)) == ["data", "used"]


def test_channels_are_put_on_the_first(folder: Folder, tmp_path: Path) -> None:
    """Two channel files whose headers differ slightly."""
    info = folder.info
    info["modality"] = {"0": "T1", "1": "T2"}
    for item in info["training"]:
        second = item["image"].replace(".nii", "_b.nii")
        shutil.copyfile(folder.root / item["image"], folder.root / second)
        edit(folder.root / second, lambda x: x * 2 + 1)
        item["image"] = [item["image"], second]
    info["unlabeled"] = info["test"] = []
    shutil.rmtree(folder.root / "imagesUn")
    folder.save()
    path = folder.root / info["training"][0]["image"][1]
    image = nib.load(path)
    nib.save(nib.Nifti1Image(voxels(path), image.affine @ np.diag([1.01, 1, 1, 1])), path)
    result = check(folder.root, repair=tmp_path / "copy")
    assert [p.check for p in result.report.problems if p.severity != "note"] == ["grid"]
    assert result.repaired is not None
    assert [p for p in result.repaired.problems if p.severity != "note"] == []
