"""One scan in forty spellings: its prediction lies on it wherever ITK's viewers look."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
import torch
from helpers import write_itk
from nifti_headers import landmarks, write_raw
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from medssl.data.datasets.case import LabelMap
from medssl.inference.folder import predict_files
from medssl.inference.inputs import find_cases
from medssl.inference.predictor import Predictor
from medssl.inference.settings import PredictSettings
from medssl.inference.task import Task
from medssl.settings.recipe import InferenceSettings
from medssl.settings.spec import DataSpec

SHAPE = (18, 14, 9)
AFFINE = np.eye(4)
AFFINE[:3, :3] = Rotation.from_euler("zxy", (17, -9, 4), degrees=True).as_matrix() @ np.diag(
    [-1.3, -1.1, 3.0]
)
AFFINE[:3, 3] = 81.5, -33.25, -412.0
LABELS = LabelMap((0, 7), ("background", "mark"))

Write = Callable[[Path], Path]


def scan(dtype: type = np.int16) -> np.ndarray:
    """Dark, with five bright voxels."""
    image = np.zeros(SHAPE, dtype)
    image[tuple(landmarks(SHAPE).T)] = 100
    return image


def unit_columns(affine: np.ndarray) -> np.ndarray:
    out = affine.copy()
    out[:3, :3] /= np.linalg.norm(out[:3, :3], axis=0)
    return out


def moved(affine: np.ndarray) -> np.ndarray:
    out = affine.copy()
    out[:3, 3] += 11
    return out


def in_unit(scale: float) -> np.ndarray:
    return np.diag([scale, scale, scale, 1.0]) @ AFFINE


def nifti(suffix: str = ".nii", dtype: type = np.int16, **fields: object) -> Write:
    usual = {"qform": AFFINE, "sform": AFFINE, "codes": (1, 1)}
    return lambda folder: write_raw(
        folder / f"scan{suffix}",
        scan(dtype),
        **{**usual, **fields},  # type: ignore[arg-type]
    )


def turned(axes: str) -> Write:
    """Store the same scan with its axes in another order."""

    def write(folder: Path) -> Path:
        image = nib.Nifti1Image(scan(), AFFINE)
        turn = nib.orientations.ornt_transform(
            nib.io_orientation(AFFINE), nib.orientations.axcodes2ornt(axes)
        )
        other = image.as_reoriented(turn)
        return write_raw(
            folder / "scan.nii.gz",
            np.asarray(other.dataobj),
            qform=other.affine,
            sform=other.affine,
            codes=(1, 1),
        )

    return write


def itk(suffix: str, *, packed: bool = False, dtype: type = np.int16) -> Write:
    def write(folder: Path) -> Path:
        path = write_itk(folder / f"scan{suffix}", scan(dtype), AFFINE)
        if packed:
            sitk.WriteImage(sitk.ReadImage(str(path)), str(path), True)
        return path

    return write


def dicom(tilt: tuple[float, float, float]) -> Write:
    def write(folder: Path) -> Path:
        from dicom_files import write_series

        axes = Rotation.from_euler("zxy", tilt, degrees=True).as_matrix()
        stored = (scan().T + 1024).astype(np.uint16)
        orientation = [*axes[:, 0], *axes[:, 1]]
        write_series(folder / "scan", stored, orientation=orientation, step=3.0 * axes[:, 2])
        return folder / "scan"

    return write


BOTH = {"qform": AFFINE, "sform": AFFINE}
SPELLINGS: dict[str, Write] = {
    **{f"codes {q} {s}": nifti(codes=(q, s)) for q in (0, 1, 2) for s in (0, 1, 2, 4)},
    "unit sform": nifti(".nii.gz", sform=unit_columns(AFFINE), codes=(1, 2)),
    "unit sform of the scanner": nifti(sform=unit_columns(AFFINE), codes=(1, 1)),
    "moved sform": nifti(sform=moved(AFFINE), codes=(1, 2)),
    "moved sform of the scanner": nifti(sform=moved(AFFINE), codes=(1, 1)),
    "long quaternion": nifti(sform=None, codes=(1, 0), quatern_b=1.000003),
    **{
        f"in {unit}": nifti(qform=in_unit(scale), sform=in_unit(scale), unit=unit)
        for unit, scale in (("meter", 1e-3), ("unknown", 1.0), ("micron", 1000.0))
    },
    **{
        f"as {dtype.__name__}": nifti(".nii.gz", dtype=dtype)
        for dtype in (np.uint8, np.uint16, np.int32, np.float32, np.float64)
    },
    "scaled": nifti(scl_slope=0.5, scl_inter=50.0),
    "big-endian": nifti(endianness=">"),
    "big-endian packed": nifti(".nii.gz", endianness=">", dtype=np.float32),
    **{f"axes {axes}": turned(axes) for axes in ("RAS", "LPS", "SAR", "PIR")},
    ".nrrd": itk(".nrrd"),
    ".nrrd packed": itk(".nrrd", packed=True, dtype=np.float32),
    ".nhdr": itk(".nhdr"),
    ".mha": itk(".mha"),
    ".mha packed": itk(".mha", packed=True, dtype=np.uint8),
    ".mhd": itk(".mhd"),
    "dicom axial": dicom((0, 0, 0)),
    "dicom oblique": dicom((20, -8, 5)),
    "dicom sagittal": dicom((90, 0, 90)),
}


class Bright(nn.Module):
    """Take what is brighter than its surroundings for the structure."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(x), x - 75], dim=1).float()


def seen_by_itk(path: Path) -> sitk.Image:
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    if path.is_dir():
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(path)))
        return reader.Execute()
    return sitk.ReadImage(str(path))


def test_there_are_forty() -> None:
    assert len(SPELLINGS) >= 40


@pytest.mark.parametrize("name", SPELLINGS)
def test_prediction_lies_on_the_scan(tmp_path: Path, name: str) -> None:
    if name.startswith("dicom"):
        pytest.importorskip("pydicom")
    source = SPELLINGS[name](tmp_path)
    image = seen_by_itk(source)
    bright = np.argwhere(sitk.GetArrayFromImage(image).T >= 100 - 1e-3)[:, :3]
    assert len(bright) == 5
    predictor = Predictor(
        Bright(),
        Task(DataSpec(intensity={"rule": "none"}), LABELS, (16, 16, 16), 1),
        InferenceSettings(),
        device=torch.device("cpu"),
    )
    items, _ = find_cases([source], channels=1)
    for format_ in ("nii.gz", "nrrd", "mha"):
        settings = PredictSettings(format=format_)
        [result] = predict_files(predictor, items, tmp_path / "out", settings)
        assert result.error is None
        ours = seen_by_itk(result.path)
        assert ours.GetSize() == image.GetSize()
        for index in bright.tolist():
            truth = image.TransformIndexToPhysicalPoint(index)
            np.testing.assert_allclose(ours.TransformIndexToPhysicalPoint(index), truth, atol=1e-3)
            assert ours[index] == 7
        assert int(sitk.GetArrayFromImage(ours).sum()) == 5 * 7
