"""Scans of the test set under other names are found, named, and not trained on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
from helpers import small_recipe, write_dataset, write_recipe

import medssl
from medssl.progress import Display
from medssl.recipe.load import load_recipe
from medssl.training.cases import plan_cases


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "data", cases=6, unlabeled=2)
    return tmp_path


def recipe_of(folder: Path, method: str = "mean_teacher", **data: Any) -> Path:
    content = small_recipe(folder / "data", folder / "cache", method={"name": method})
    content["training"]["iterations"] = 2
    content["data"] |= data
    return write_recipe(folder / "recipe.yaml", content)


def roles(recipe: Path) -> dict[str, list[str]]:
    splits = plan_cases(load_recipe(recipe), Display(quiet=True)).splits
    names = ("labeled", "unlabeled", "validation", "test")
    return {name: [c.id for c in getattr(splits, name)] for name in names}


def same_bytes(source: Path, folder: Path) -> None:
    shutil.copy(source, folder / "zz.nii.gz")


def as_metaimage(source: Path, folder: Path) -> None:
    image = sitk.DICOMOrient(sitk.ReadImage(str(source)), "RAI")
    sitk.WriteImage(image, str(folder / "zz.mha"))


def uncompressed_floats(source: Path, folder: Path) -> None:
    image = nib.load(source)
    data = np.asarray(image.dataobj).astype(np.float64)
    nib.save(nib.Nifti2Image(data, image.affine), folder / "zz.nii")


def other_scale(image: np.ndarray) -> np.ndarray:
    return np.asarray(image.astype(np.float32) * 0.37 + 90, np.float32)


def one_byte(image: np.ndarray) -> np.ndarray:
    low, high = np.percentile(image, (0.5, 99.5))
    return np.asarray(np.clip((image - low) / (high - low), 0, 1) * 255, np.uint8)


def negative(image: np.ndarray) -> np.ndarray:
    return np.asarray(image.max() - image)


def cropped(image: nib.Nifti1Image) -> nib.Nifti1Image:
    return image.slicer[4:-2, 3:-1, 1:]


def padded(image: nib.Nifti1Image) -> nib.Nifti1Image:
    data = np.pad(np.asarray(image.dataobj, np.float32), ((5, 0), (0, 7), (2, 2)))
    return nib.Nifti1Image(data, image.affine)


@pytest.mark.parametrize("change", [cropped, padded])
def test_a_cropped_or_padded_copy_is_left_out(
    folder: Path,
    change: Callable[[nib.Nifti1Image], nib.Nifti1Image],
    caplog: pytest.LogCaptureFixture,
) -> None:
    shutil.rmtree(folder / "data")
    write_dataset(folder / "data", cases=6, unlabeled=2, shape=(64, 64, 24))
    recipe = recipe_of(folder)
    test = roles(recipe)["test"][0]
    image = nib.load(folder / f"data/imagesTr/{test}.nii.gz")
    nib.save(change(image), folder / "data/imagesUn/zz.nii.gz")
    medssl.train(recipe, output=folder / "run")
    assert f"'zz' is a cropped or padded copy of test case '{test}'" in caplog.text
    splits = json.loads((folder / "run/splits.json").read_text())
    assert [found["case"] for found in splits["left_out"]] == ["zz"]


@pytest.mark.parametrize("change", [other_scale, one_byte, negative])
def test_a_copy_in_other_intensities_is_left_out(
    folder: Path, change: Callable[[np.ndarray], np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    recipe = recipe_of(folder)
    test = roles(recipe)["test"][0]
    image = nib.load(folder / f"data/imagesTr/{test}.nii.gz")
    data = change(np.asarray(image.dataobj))
    nib.save(nib.Nifti1Image(data, image.affine), folder / "data/imagesUn/zz.nii.gz")
    medssl.train(recipe, output=folder / "run")
    assert f"'zz' is a copy in other intensities of test case '{test}'" in caplog.text
    splits = json.loads((folder / "run/splits.json").read_text())
    assert "zz" not in splits["unlabeled"]
    assert [found["case"] for found in splits["left_out"]] == ["zz"]


@pytest.mark.parametrize("copy", [same_bytes, as_metaimage, uncompressed_floats])
def test_a_test_scan_among_the_unlabeled_is_named_and_left_out(
    folder: Path, copy: Callable[[Path, Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    before = roles(recipe_of(folder))
    (folder / "more").mkdir()
    copy(folder / "data" / "imagesTr" / f"{before['test'][0]}.nii.gz", folder / "more")
    recipe = recipe_of(folder, unlabeled=[str(folder / "more")])
    assert "zz" in roles(recipe)["unlabeled"]
    with caplog.at_level("INFO", logger="medssl"):
        result = medssl.train(recipe, output=folder / "run", display=Display())
    told = f"unlabeled case 'zz' has exactly the voxels of test case '{before['test'][0]}'"
    assert f"{told}: left out of training" in " ".join(caplog.text.split())
    splits = json.loads((result.path / "splits.json").read_text())
    assert splits["unlabeled"] == before["unlabeled"]
    assert splits["test"] == before["test"]
    manifest = json.loads((result.path / "manifest.json").read_text())
    expected: dict[str, Any] = {"case": "zz", "role": "unlabeled", "copy_of": before["test"][0]}
    expected |= {"kept_as": "test", "exact": True, "nearly": False, "partly": False}
    assert manifest["left_out"] == [expected]
    assert manifest["cases"]["unlabeled"] == len(before["unlabeled"])
    # Going on, and looking at a batch again, mean the same cases.
    longer = ["training.iterations=3"]
    medssl.train(folder / "run", overrides=longer, output=folder / "run", resume=True)
    assert json.loads((result.path / "splits.json").read_text()) == splits
    assert medssl.replay(folder / "run", iteration=3).iteration == 3


def test_copies_among_the_labeled_and_for_validation_are_left_out_with_their_patient(
    folder: Path,
) -> None:
    before = roles(recipe_of(folder, "supervised", labeled=3, validation=1, test=1))
    images = folder / "data" / "imagesTr"
    for role in ("labeled", "validation"):
        shutil.copy(images / f"{before['test'][0]}.nii.gz", images / f"{before[role][0]}.nii.gz")
    recipe = recipe_of(folder, "supervised", labeled=3, validation=1, test=1)
    with pytest.raises(medssl.MedSSLError, match="no validation case is left"):
        medssl.train(recipe, output=folder / "run")
    assert not (folder / "run").exists()
    recipe = recipe_of(folder, "supervised", labeled=3, test=1)
    result = medssl.train(recipe, output=folder / "run")
    splits = json.loads((result.path / "splits.json").read_text())
    gone = {found["case"] for found in splits["left_out"]}
    assert gone == {before["labeled"][0], before["validation"][0]}
    assert not gone & {*splits["labeled"], *splits["test"]}
    assert "2 copies of validation and test scans are left out" in splits["notes"][-1]


def test_a_copy_that_appears_later_stops_the_resumed_run(folder: Path) -> None:
    recipe = recipe_of(folder)
    before = roles(recipe)
    medssl.train(recipe, output=folder / "run")
    images = folder / "data" / "imagesTr"
    shutil.copy(
        images / f"{before['test'][0]}.nii.gz",
        folder / "data" / "imagesUn" / f"{before['unlabeled'][-1]}.nii.gz",
    )
    record = (folder / "run" / "splits.json").read_bytes()
    longer = ["training.iterations=3"]
    with pytest.raises(medssl.MedSSLError, match="cases of the run have changed"):
        medssl.train(folder / "run", overrides=longer, output=folder / "run", resume=True)
    assert (folder / "run" / "splits.json").read_bytes() == record


def test_every_scan_is_read_once_to_check_it_and_to_know_its_voxels(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Preprocessing reads scans for itself; all else that is read, the check reads, once."""
    read: list[str] = []

    def counting(path: Path, **options: Any) -> Any:
        from medssl.data.images.volume import read_volume

        read.append(path.name)
        return read_volume(path, **options)

    monkeypatch.setattr("medssl.data.datasets.contents.read_volume", counting)
    medssl.train(recipe_of(folder), output=folder / "run")
    images = [name for name in read if name.startswith("case")]
    assert len(images) == len(read)
    # An image and a label a case: those of unlabeled ones are hidden.
    known = roles(recipe_of(folder))
    labels = len(known["labeled"]) + len(known["test"]) + len(known["validation"])
    assert len(read) == labels + sum(len(ids) for ids in known.values())
    read.clear()
    medssl.train(recipe_of(folder), output=folder / "again")
    assert read == []
