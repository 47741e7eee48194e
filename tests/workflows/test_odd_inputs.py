"""Inputs that once gave a wrong figure or a crash, taken through whole commands."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from helpers import small_recipe, write_dataset, write_recipe
from nifti_headers import itk_places, write_raw

import medssl
from medssl.errors import MedSSLError

TRUE = np.array([[0, -1.5, 0, 20], [1.5, 0, 0, -7], [0, 0, 8, 3], [0, 0, 0, 1.0]])
UNIT = np.diag([-1.0, -1.0, 1.0, 1.0])


def with_unit_sform(path: Path, data: np.ndarray) -> Path:
    """Write a volume as ACDC does: the truth in the qform, a coded sform of unit columns."""
    return write_raw(path, data, qform=TRUE, sform=UNIT, codes=(1, 1))


def test_distances_are_in_the_voxels_that_viewers_show(tmp_path: Path) -> None:
    reference = np.zeros((20, 20, 8), np.uint8)
    reference[6:14, 6:14, 2:4] = 1
    with_unit_sform(tmp_path / "ref" / "a.nii.gz", reference)
    with_unit_sform(tmp_path / "pred" / "a.nii.gz", np.roll(reference, 1, axis=2))
    medssl.evaluate(tmp_path / "pred", tmp_path / "ref", tmp_path / "out")
    [row] = csv.DictReader((tmp_path / "out" / "cases.csv").open())
    assert float(row["hd95_mm"]) == pytest.approx(8)  # one slice
    assert float(row["dice"]) == pytest.approx(0.5)


def test_acdc_is_imported_with_the_voxels_that_viewers_show(tmp_path: Path) -> None:
    folder = tmp_path / "in" / "patient001"
    rng = np.random.default_rng(0)
    for frame in (1, 3):
        image = rng.integers(0, 500, (20, 20, 8)).astype(np.int16)
        with_unit_sform(folder / f"patient001_frame{frame:02d}.nii.gz", image)
        label = np.zeros(image.shape, np.uint8)
        label[5:9, 5:9, 3:5] = 2
        with_unit_sform(folder / f"patient001_frame{frame:02d}_gt.nii.gz", label)
    (folder / "Info.cfg").write_text("ED: 1\nES: 3\nGroup: DCM\nHeight: 180\nNbFrame: 4\n")
    medssl.import_dataset("acdc", tmp_path / "in", tmp_path / "out")
    written = sorted((tmp_path / "out").glob("*Tr/*.nii.gz"))
    assert len(written) == 4
    for path in written:
        np.testing.assert_allclose(nib.load(path).header.get_zooms(), (1.5, 1.5, 8), atol=1e-6)
        # Directions and origin are the sform's, which ITK prefers where it is coded 1.
        corners = np.array([(0, 0, 0), (19, 19, 7)])
        source = next(folder.glob("*_frame01.nii.gz"))
        seen = itk_places(source, corners)
        np.testing.assert_allclose(itk_places(path, corners), seen, atol=1e-4)


def test_volumes_of_one_slice_train_and_are_reported(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", cases=6, shape=(24, 24, 1))
    recipe = small_recipe(
        data,
        tmp_path / "cache",
        method={"name": "supervised"},
        spec={"spacing": "native"},
        training={"iterations": 2, "patch": [16, 16]},
    )
    result = medssl.train(write_recipe(tmp_path / "r.yaml", recipe), output=tmp_path / "run")
    page = medssl.report(result.path)
    assert "<img" in Path(page).read_text(encoding="utf-8")
    for path in (result.path / "predictions" / "test").glob("*.nii.gz"):
        assert nib.load(path).shape == (24, 24, 1)
    assert list((result.path / "preview").glob("test-worst-*.png"))


def test_two_values_of_one_name_are_refused_before_training(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", cases=4)
    info = json.loads((data / "dataset.json").read_text())
    info["labels"] = {"0": "background", "1": "tumor", "2": "tumor"}
    (data / "dataset.json").write_text(json.dumps(info))
    recipe = write_recipe(tmp_path / "r.yaml", small_recipe(data, tmp_path / "cache"))
    with pytest.raises(MedSSLError, match="the values 1 and 2 are both called 'tumor'"):
        medssl.train(recipe, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_sessions_of_a_patient_are_trained_on_or_tested(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", cases=8)
    info = json.loads((data / "dataset.json").read_text())
    for number, item in enumerate(info["training"]):
        name = f"sub-{number // 2:02d}_ses-{number % 2}_T1w.nii.gz"
        for key in ("image", "label"):
            path = data / item[key]
            item[key] = str(path.rename(path.with_name(name)).relative_to(data))
    (data / "dataset.json").write_text(json.dumps(info))
    recipe = small_recipe(data, tmp_path / "cache", method={"name": "supervised"})
    recipe["data"] |= {"labeled": 2, "test": 1}
    recipe["training"]["iterations"] = 2
    result = medssl.train(write_recipe(tmp_path / "r.yaml", recipe), output=tmp_path / "run")
    splits = json.loads((result.path / "splits.json").read_text())
    people = {role: {i[:6] for i in splits[role]} for role in ("labeled", "test")}
    assert [len(splits["labeled"]), len(splits["test"])] == [4, 2]
    assert [len(people["labeled"]), len(people["test"])] == [2, 1]
    assert not people["labeled"] & people["test"]
