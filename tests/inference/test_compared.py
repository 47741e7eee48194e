"""Every way to predict compares a scan with the training scans: it says what is unusual."""

from __future__ import annotations

import csv
import json
import logging
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
import torch
from helpers import blob_case, small_recipe, write_dataset, write_recipe
from torch import Tensor, nn

import medssl
from medssl import cli
from medssl.data.datasets.case import LabelMap
from medssl.data.preprocessing.scan_facts import scan_facts
from medssl.data.preprocessing.tensors import make_image
from medssl.errors import MedSSLError
from medssl.inference.folder import predict_files
from medssl.inference.predictor import Predictor
from medssl.inference.settings import PredictSettings
from medssl.inference.task import Task
from medssl.inference.training_fingerprint import learn_fingerprint
from medssl.settings.recipe import InferenceSettings
from medssl.settings.spec import DataSpec

LABELS = LabelMap((0, 1), ("background", "bright"))
SHAPE = (20, 24, 12)
ONE_MM = np.eye(4)
HALF_MM = np.diag([0.5, 0.5, 1, 1])


class Bright(nn.Module):
    """Call what is above the mean bright."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([-x[:, :1], x[:, :1]], dim=1)


def picture(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = rng.uniform(50, 80, SHAPE)  # the mean of all lies above
    image[5:12, 6:18, 3:9] += 200
    return image.astype(np.float32)


def hounsfield() -> np.ndarray:
    return picture() * 4 - 1024


def as_ct(image: np.ndarray) -> np.ndarray:
    """The values of an image from -1000 to 1000."""
    low, high = float(image.min()), float(image.max())
    return ((image - low) / (high - low) * 2000 - 1000).astype(np.float32)


def make_predictor(spec: DataSpec | None = None, patch: tuple[int, ...] = (16, 16, 8)) -> Predictor:
    """A predictor that was trained on pictures with voxels of 1 mm."""
    spec = spec or DataSpec()
    images = (make_image(picture(s)[None], ONE_MM, files=["memory"]) for s in range(8))
    trained = learn_fingerprint([scan_facts(i, spec) for i in images], patients=8, modality="MR")
    task = Task(spec, LABELS, patch, 1, trained)
    return Predictor(Bright(), task, InferenceSettings(), device=torch.device("cpu"))


def save(path: Path, array: np.ndarray, affine: np.ndarray = ONE_MM) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


# ------------------------------------------------------------------ in memory


def test_an_image_in_memory_is_compared(caplog: pytest.LogCaptureFixture) -> None:
    predictor = make_predictor()
    with caplog.at_level(logging.WARNING, logger="medssl"):
        assert predictor.predict(picture(9), affine=ONE_MM).unusual == ()
    assert not caplog.records
    with caplog.at_level(logging.WARNING, logger="medssl"):
        found = predictor.predict(picture(9), affine=HALF_MM)
    assert found.unusual == (
        "voxels of 0.5 x 0.5 x 1 mm, in training 1 x 1 x 1; resampled to 1 x 1 x 1",
    )
    assert found.unusual[0] in caplog.text


@pytest.mark.parametrize("kind", ["array", "nibabel", "itk"])
def test_ct_in_memory_is_refused_unless_forced(kind: str) -> None:
    image = {
        "array": hounsfield(),
        "nibabel": nib.Nifti1Image(hounsfield(), ONE_MM),
        "itk": sitk.GetImageFromArray(hounsfield()),
    }[kind]
    place = {"affine": ONE_MM} if kind == "array" else {}
    with pytest.raises(MedSSLError, match=r"cannot be meant for the image.*Hounsfield") as caught:
        make_predictor().predict(image, **place)
    assert "--force" in str(caught.value)
    found = make_predictor().predict(image, force=True, **place)
    assert "Hounsfield" in found.unusual[0]
    assert found.values.any()


# ------------------------------------------------------------------ what is predicted


def test_a_native_run_sees_voxels_as_large_as_in_training() -> None:
    fine = np.repeat(np.repeat(picture(), 2, 0), 2, 1)
    found = make_predictor().predict(fine, affine=HALF_MM)
    assert tuple(found.prepared.image.shape[1:]) == SHAPE
    assert found.values.shape == fine.shape
    wanted = np.zeros(SHAPE, bool)
    wanted[5:12, 6:18, 3:9] = True
    wanted = np.repeat(np.repeat(wanted, 2, 0), 2, 1)
    dice = 2 * (found.values & wanted).sum() / (found.values.sum() + wanted.sum())
    assert dice > 0.85
    # Slice by slice, the distance between slices does not matter.
    sliced = make_predictor(patch=(16, 16)).predict(picture(), affine=np.diag([1, 1, 4, 1]))
    assert tuple(sliced.prepared.image.shape[1:]) == SHAPE


def test_a_scan_like_the_training_scans_is_prepared_as_ever() -> None:
    predictor = make_predictor()
    found = predictor.predict(picture(9), affine=ONE_MM)
    predictor.task = replace(predictor.task, fingerprint=None)  # a run of an older version
    before = predictor.predict(picture(9), affine=ONE_MM)
    assert torch.equal(found.prepared.image, before.prepared.image)
    np.testing.assert_array_equal(found.values, before.values)
    assert predictor.predict(hounsfield(), affine=HALF_MM).unusual == ()


# ------------------------------------------------------------------ files


def test_files_are_compared_and_one_that_is_refused_stops_no_other(tmp_path: Path) -> None:
    items = [
        ("ct", (save(tmp_path / "in" / "ct.nii.gz", hounsfield()),)),
        ("fine", (save(tmp_path / "in" / "fine.nii.gz", picture(9), HALF_MM),)),
        ("good", (save(tmp_path / "in" / "good.nii.gz", picture(9)),)),
    ]
    settings = PredictSettings(assess=True)
    results = {
        r.case_id: r for r in predict_files(make_predictor(), items, tmp_path / "out", settings)
    }
    assert "Hounsfield" in (results["ct"].error or "")
    assert str(tmp_path / "in" / "ct.nii.gz") in (results["ct"].error or "")
    assert results["good"].error is None
    assert results["good"].unusual == ()
    assert len(results["fine"].unusual) == 1
    kept = json.loads((tmp_path / "out" / "uncertainty" / "fine.json").read_text())
    assert kept["unusual"] == list(results["fine"].unusual)
    record = json.loads((tmp_path / "out" / "predictions.json").read_text())["predictions"]
    assert record["fine"]["unusual"] == kept["unusual"]
    assert "unusual" not in record["good"]
    assert not (tmp_path / "out" / "ct.nii.gz").exists()
    forced = replace(settings, force=True)
    [ct] = predict_files(make_predictor(), items[:1], tmp_path / "out", forced)
    assert ct.error is None
    assert "Hounsfield" in ct.unusual[0]


def test_the_modality_of_a_dataset_and_of_dicom_is_believed(tmp_path: Path) -> None:
    from dicom_files import write_series

    image = save(tmp_path / "set" / "imagesTs" / "a.nii.gz", picture(9))
    (tmp_path / "set" / "dataset.json").write_text(json.dumps({"modality": {"0": "CT"}}))
    with pytest.raises(MedSSLError, match="stated to be CT, the model was trained on MR"):
        make_predictor().predict_file(image)
    stored = (picture(9).T + 1024).astype(np.uint16)
    found = {}
    for code in ("PT", "CT", "MR", "OT"):
        folder = tmp_path / code
        write_series(folder, stored, spacing=(1.0, 1.0), step=(0, 0, 1.0), Modality=code)
        [result] = medssl_predict(folder, tmp_path / "out" / code)
        found[code] = result.error
        if code == "CT":  # of whose values none can be Hounsfield units
            [said] = [line for line in result.unusual if "stated to be CT" in line]
            assert "no Hounsfield units" in said
    assert "stated to be PET" in found["PT"]
    assert found["CT"] is None
    assert found["MR"] is None
    assert found["OT"] is None  # says nothing


def medssl_predict(folder: Path, output: Path):
    from medssl.inference.inputs import find_cases

    items, _ = find_cases([folder])
    return predict_files(make_predictor(), items, output, PredictSettings())


# ------------------------------------------------------------------ runs and bundles


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    data = write_dataset(folder / "data", cases=6)
    recipe = small_recipe(data, folder / "cache", method={"name": "supervised"})
    return medssl.train(write_recipe(folder / "recipe.yaml", recipe), output=folder / "run").path


def test_a_run_and_its_bundle_know_their_training_scans(run: Path, tmp_path: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    kept = manifest["training_fingerprint"]
    assert kept["modality"] == "MR"
    assert kept["scans"] == manifest["cases"]["labeled"]
    assert "case" not in json.dumps(kept)
    medssl.export(run, tmp_path / "bundle", torchscript=False)
    metadata = json.loads((tmp_path / "bundle" / "configs" / "metadata.json").read_text())
    assert metadata["medssl"]["training_fingerprint"] == kept


def test_runs_and_bundles_say_it_as_typed(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    medssl.export(run, tmp_path / "bundle", torchscript=False)
    spacing = np.diag([0.7, 0.7, 0.7, 1])
    image = blob_case(1)[0]
    save(tmp_path / "in" / "fine.nii.gz", image, spacing)
    save(tmp_path / "in" / "ct.nii.gz", as_ct(image))
    for source in (run, tmp_path / "bundle"):
        out = tmp_path / f"out_{source.name}"
        command = ["predict", str(source), str(tmp_path / "in"), "-o", str(out), "--device", "cpu"]
        assert cli.run([*command, "--uncertainty"]) == 1
        said = capsys.readouterr()
        text = " ".join((said.out + said.err).split())
        assert "warning: fine is unlike the training scans: voxels of 0.7 x 0.7 x 0.7 mm" in text
        assert "failed: ct" in text
        assert "this model cannot be meant for the image" in text
        rows = list(csv.DictReader((out / "volumes.csv").open()))
        assert {row["case"] for row in rows} == {"fine"}
        assert all(row["unusual"].startswith("voxels of 0.7") for row in rows)
        assert cli.run([*command, "--force"]) == 0
        said = capsys.readouterr()
        text = " ".join((said.out + said.err).split())
        assert "ct is unlike the training scans: its values" in text


def test_a_run_of_an_older_version_still_predicts(run: Path, tmp_path: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    old = {k: v for k, v in manifest.items() if k != "training_fingerprint"}
    (run / "manifest.json").write_text(json.dumps(old))
    try:
        image = save(tmp_path / "ct.nii.gz", as_ct(blob_case(1)[0]))
        [result] = medssl.predict(run, image, tmp_path / "out", device="cpu")
    finally:
        (run / "manifest.json").write_text(json.dumps(manifest))
    assert result.error is None
    assert result.unusual == ()
