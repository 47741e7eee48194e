"""Micrometers from the file to the figures and back into files, whatever unit the files are in."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from helpers import small_recipe, write_recipe

from medssl.comparison.compare import compare
from medssl.data.datasets.case import LabelMap
from medssl.data.images.write import write_label
from medssl.data.phantoms.dataset import write_phantom
from medssl.data.phantoms.oct import oct_affine
from medssl.data.preprocessing.pipeline import preprocess_image
from medssl.evaluation.case_metrics import Measures
from medssl.evaluation.folders import evaluate_folders
from medssl.settings.specs import load_spec
from medssl.workflows.evaluate_folders import evaluate
from medssl.workflows.train import train

SHAPE = (8, 5, 20)
MICRONS = oct_affine(SHAPE, upwards=False)
MILLIMETERS = np.diag([1e-3, 1e-3, 1e-3, 1]) @ MICRONS
ONE = LabelMap((0, 1), ("background", "fluid"))


def write(path: Path, array: np.ndarray, unit: str) -> Path:
    image = nib.Nifti1Image(array, MICRONS if unit == "micron" else MILLIMETERS)
    image.header.set_xyzt_units(unit)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def box(start: int) -> np.ndarray:
    out = np.zeros(SHAPE, np.uint8)
    out[2:6, 1:4, start : start + 6] = 1
    return out


@pytest.mark.parametrize("units", [("micron", "micron"), ("mm", "mm"), ("mm", "micron")])
@pytest.mark.parametrize("suffix", [".nii.gz", ".mha"])
def test_distances_are_in_the_unit_asked_for(
    tmp_path: Path, units: tuple[str, str], suffix: str
) -> None:
    """A box moved by 3 voxels of 4 um has its upper and lower faces 12 um away."""
    reference = write(tmp_path / "reference" / "eye.nii.gz", box(5), units[0])
    prediction = write(tmp_path / "prediction" / "eye.nii.gz", box(8), units[1])
    if suffix == ".mha":
        image = sitk.ReadImage(str(prediction))
        prediction.unlink()
        sitk.WriteImage(image, str(prediction.parent / "eye.mha"))
    folders = (prediction.parent, reference.parent)
    (um,), (mm,) = (
        evaluate_folders(*folders, Measures(4.0, unit), label_map=ONE) for unit in ("um", "mm")
    )
    assert um["hd95_um"] == pytest.approx(12, rel=1e-4)
    assert mm["hd95_mm"] == pytest.approx(0.012, rel=1e-4)
    volume = 4 * 3 * 6 * 24 * 120 * 4
    assert um["volume_reference_um3"] == pytest.approx(volume, rel=1e-4)
    assert mm["volume_prediction_mm3"] == pytest.approx(volume * 1e-9, rel=1e-4)
    assert um["dice"] == mm["dice"] == 0.5
    assert um["nsd"] < mm["nsd"] == 1  # 4 um are strict, 4 mm forgive all


def itk_geometry(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Spacing and origin in RAS, as an ITK viewer shows them (mm)."""
    image = sitk.ReadImage(str(path))
    return np.array(image.GetSpacing()), np.array(image.GetOrigin()) * [-1, -1, 1]


@pytest.mark.parametrize("unit", ["micron", "mm"])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mha", ".nrrd"])
def test_itk_and_nibabel_agree_on_written_files(tmp_path: Path, unit: str, suffix: str) -> None:
    source = write(tmp_path / "eye.nii.gz", np.ones(SHAPE, np.int16), unit)
    prepared = preprocess_image(source, load_spec("oct_fluid"))
    np.testing.assert_allclose(
        np.linalg.norm(prepared.affine[:3, :3], axis=0), [24, 4, 120], rtol=1e-5
    )
    target = tmp_path / f"out{suffix}"
    write_label(box(5), target, affine=MILLIMETERS, reference=source)
    spacing, origin = itk_geometry(target)
    np.testing.assert_allclose(spacing, np.array([24, 120, 4]) / 1000, rtol=1e-5)
    np.testing.assert_allclose(origin, MILLIMETERS[:3, 3], rtol=1e-5)
    if suffix.startswith(".nii"):
        # The unit the file came in is the unit it leaves in.
        written = nib.load(target)
        assert written.header.get_xyzt_units()[0] == unit
        np.testing.assert_allclose(written.affine, nib.load(source).affine, rtol=1e-6)
        scale = 1e-3 if unit == "micron" else 1.0
        np.testing.assert_allclose(np.array(written.header.get_zooms()) * scale, spacing, rtol=1e-5)


def test_resampling_depth_from_3_9_to_3_um_changes_the_shape(tmp_path: Path) -> None:
    """In millimeters these affines differ by less than MONAI's tolerance of 0.001."""
    affine = np.diag([11.7, 120.0, 3.9, 1.0])[[0, 2, 1, 3]] * np.array([[-1], [-1], [1], [1]])
    for unit, scale in (("micron", 1.0), ("mm", 1e-3)):
        image = nib.Nifti1Image(np.zeros((8, 5, 40), np.int16), np.diag([scale] * 3 + [1]) @ affine)
        image.header.set_xyzt_units(unit)
        nib.save(image, tmp_path / f"{unit}.nii.gz")
        spec = load_spec("oct_fluid", {"spacing": [11.7, 3.0, None]})
        prepared = preprocess_image(tmp_path / f"{unit}.nii.gz", spec)
        assert prepared.image.shape == (1, 8, round(39 * 3.9 / 3) + 1, 5)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two short trainings on the OCT phantom's layers, slices aligned."""
    folder = tmp_path_factory.mktemp("oct")
    root = folder / "eyes"
    write_phantom(
        root, kind="oct", labels="layers", labeled=5, unlabeled=1, test=0, shape=(32, 8, 48)
    )
    out = []
    for method in ("supervised", "mean_teacher"):
        recipe = small_recipe(
            root,
            folder / "cache",
            name=method,
            data={"labeled": 2, "test": 2},
            spec={"name": "oct_layers", "align_slices": True},
            method={"name": method},
            training={"iterations": 4, "patch": [16, 32, 8], "validate_every": 100},
        )
        del recipe["spec"]["intensity"], recipe["spec"]["flip_axes"]
        path = write_recipe(folder / f"{method}.yaml", recipe)
        out.append(train(path, output=folder / method, device="cpu").path)
    return out


def test_a_run_in_micrometers(runs: list[Path]) -> None:
    evaluation = runs[0] / "evaluation" / "test"
    with (evaluation / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {"hd95_um", "assd_um", "volume_reference_um3", "volume_prediction_um3"} <= set(rows[0])
    assert not any("mm" in column for column in rows[0])
    summary = json.loads((evaluation / "summary.json").read_text())
    assert summary["unit"] == "um"
    assert {"hd95_um", "assd_um"} <= set(summary["overall"]["metrics"])
    with (evaluation / "boundaries.csv").open() as file:
        boundaries = list(csv.DictReader(file))
    assert len(boundaries) == 2 * 6
    assert boundaries[0]["name"] == "top of RNFL"
    assert boundaries[5]["name"] == "bottom of RPE_BM"
    assert all(int(row["a_scans"]) == 32 * 8 for row in boundaries)
    assert summary["boundaries"]["mean"]["mae_um"]["mean"] > 0
    predicted = nib.load(next((runs[0] / "predictions" / "test").glob("*.nii.gz")))
    assert predicted.shape == (32, 8, 48)
    assert predicted.header.get_xyzt_units()[0] == "micron"
    assert list((runs[0] / "preview").glob("*.png"))


def test_comparisons_and_evaluations_keep_the_unit(runs: list[Path], tmp_path: Path) -> None:
    result = compare(runs, split="test", output=tmp_path / "comparison")
    assert result["unit"] == "um"
    assert "hd95_um" in (tmp_path / "comparison" / "compare.csv").read_text()
    root = runs[0].parent / "eyes"
    reference = tmp_path / "reference"
    reference.mkdir()
    for path in (runs[0] / "predictions" / "test").glob("*.nii.gz"):
        (reference / path.name).write_bytes((root / "labelsTr" / path.name).read_bytes())
    summary = evaluate(
        runs[0] / "predictions" / "test",
        reference,
        tmp_path / "evaluation",
        dataset_json=root / "dataset.json",
        nsd_tolerance=8.0,
    )
    own = json.loads((runs[0] / "evaluation" / "test" / "summary.json").read_text())
    assert summary["unit"] == "um"
    assert summary["overall"]["metrics"]["hd95_um"]["mean"] == pytest.approx(
        own["overall"]["metrics"]["hd95_um"]["mean"]
    )
