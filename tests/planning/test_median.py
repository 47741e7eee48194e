"""A data spec may ask for the median voxel size: it becomes numbers before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from helpers import small_recipe, write_dataset, write_recipe

import medssl
from medssl.data.preprocessing.pipeline import preprocess_image
from medssl.errors import MedSSLError
from medssl.planning.median import with_spacing
from medssl.progress import Display
from medssl.recipe.load import load_recipe
from medssl.settings.spec import DataSpec
from medssl.settings.specs import load_spec


def respace(data: Path, sizes: list[tuple[float, float, float]]) -> None:
    """Give the cases of a dataset these voxel sizes, in order."""
    for number, size in enumerate(sizes):
        for folder in ("imagesTr", "labelsTr"):
            path = data / folder / f"case_{number:02d}.nii.gz"
            image = nib.load(path)
            nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), np.diag([*size, 1])), path)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    data = write_dataset(tmp_path / "data", cases=5)
    respace(data, [(1, 1, 2), (1.2, 1, 2), (1.4, 1, 2.5), (1.3, 1, 2), (1.1, 1, 3)])
    content = small_recipe(data, tmp_path / "cache", method={"name": "supervised"})
    content["spec"] = {**content["spec"], "spacing": "median"}
    return write_recipe(tmp_path / "recipe.yaml", content)


def test_the_median_is_that_of_all_labeled_scans(recipe: Path) -> None:
    found = with_spacing(load_recipe(recipe), Display(quiet=True)).recipe.spec
    assert found.spacing == [1.2, 1.0, 2.0]
    # However many of the labels are used: folds, sweeps and labels alone share one grid.
    other = load_recipe(recipe, ["data.labeled=1", "data.test=3"])
    assert with_spacing(other, Display(quiet=True)).recipe.spec.spacing == [1.2, 1.0, 2.0]


def test_numbers_and_native_stay(recipe: Path) -> None:
    for spacing in ("native", "[1,1,2]"):
        loaded = load_recipe(recipe, [f"spec.spacing={spacing}"])
        assert with_spacing(loaded, Display(quiet=True)) is loaded


def test_a_run_holds_the_numbers_and_goes_on_with_them(recipe: Path, tmp_path: Path) -> None:
    run = medssl.train(recipe, output=tmp_path / "run").path
    assert yaml.safe_load((run / "recipe.yaml").read_text())["spec"]["spacing"] == [1.2, 1.0, 2.0]
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    # The dataset has changed, the grid of the run has not.
    respace(tmp_path / "data", [(3, 3, 3)] * 0)
    before = (run / "recipe.yaml").read_bytes()
    medssl.train(recipe, output=run, resume=True)
    assert (run / "recipe.yaml").read_bytes() == before


def test_an_unresolved_median_is_never_native_by_accident(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(MedSSLError, match="median spacing of a dataset is found before"):
        preprocess_image(tmp_path / "a.nii", DataSpec(spacing="median"))


@pytest.mark.parametrize(
    ("name", "spacing"),
    [
        ("mr", "median"),
        ("ct", "median"),
        ("mr_atrium", [0.625] * 3),
        ("mr_hippocampus", [1.0] * 3),
    ],
)
def test_shipped_specs_have_a_target(name: str, spacing: object) -> None:
    assert load_spec(name).spacing == spacing


def test_a_target_that_scans_have_already_changes_no_voxel(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    affine = np.array([[0, 0, -0.625, 7], [-0.625, 0, 0, 8], [0, 0.625, 0, 9], [0, 0, 0, 1]])
    image = rng.normal(100, 30, (17, 21, 13)).astype(np.float32)
    nib.save(nib.Nifti1Image(image, affine), tmp_path / "a.nii")
    target = preprocess_image(tmp_path / "a.nii", load_spec("mr_atrium"))
    native = preprocess_image(tmp_path / "a.nii", load_spec("mr_atrium", {"spacing": "native"}))
    np.testing.assert_array_equal(target.image.numpy(), native.image.numpy())
    labels = rng.integers(0, 2, target.image.shape[1:]).astype(np.uint8)
    np.testing.assert_array_equal(target.restore(labels), native.restore(labels))
