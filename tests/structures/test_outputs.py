"""Contours, figures and surfaces beside label maps, read back by other programs."""

from __future__ import annotations

import csv
import json
import math
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from dicom_files import add_pixels, frame_group, header, write_series
from polygons import inside
from torch import Tensor, nn

from medssl import cli
from medssl.data.datasets.case import LabelMap
from medssl.data.dicom.series import find_series
from medssl.errors import MedSSLError
from medssl.inference.folder import predict_files
from medssl.inference.inputs import find_cases
from medssl.inference.predictor import Predictor
from medssl.inference.settings import PredictSettings
from medssl.inference.task import Task
from medssl.settings.recipe import InferenceSettings
from medssl.settings.spec import DataSpec
from medssl.structures.contours import signed_area
from medssl.structures.outputs import Outputs
from medssl.structures.statistics import write_table

pytest.importorskip("skimage")
pydicom = pytest.importorskip("pydicom")

LABELS = LabelMap((0, 5, 500, 7), ("background", "Liver", "odd thing", "nowhere"))
SHAPE = (18, 34, 40)  # slices, rows, columns
SPACING, STEP = (0.8, 0.6), 2.0
COS, SIN = float(np.cos(0.4)), float(np.sin(0.4))
OBLIQUE = (COS, SIN, 0.0, 0.0, 0.0, -1.0)
NORMAL = np.array([-SIN, COS, 0.0])


class Hounsfield(nn.Module):
    """Call 0 HU the first structure and 200 HU the second; nothing is the third."""

    def forward(self, x: Tensor) -> Tensor:
        levels = torch.tensor([-1000.0, 0.0, 200.0, 9e4]).reshape(1, 4, *(1,) * (x.ndim - 2))
        return -((x - levels) ** 2) / 1000


def predictor() -> Predictor:
    spec = DataSpec(intensity={"rule": "none"})
    task = Task(spec, LABELS, (16, 16, 16), in_channels=1)
    return Predictor(Hounsfield(), task, InferenceSettings(), device=torch.device("cpu"))


def truth() -> np.ndarray:
    """Return label values (slices, rows, columns): a shell of above 1,000 voxels, a small ball."""
    at = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    far = np.linalg.norm((at - [8, 14, 14]) * [STEP, *SPACING], axis=-1)
    near = np.linalg.norm((at - [11, 25, 33]) * [STEP, *SPACING], axis=-1)
    return np.select([(far < 8.0) & (far > 2.6), near < 3.9], [5, 500], 0).astype(np.uint16)


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A predicted oblique series: DICOM-SEG, contours, figures, STL."""
    place = tmp_path_factory.mktemp("outputs")
    labels = truth()
    image = np.select([labels == 5, labels == 500], [1024, 1224], 24).astype(np.uint16)
    kind = {"orientation": OBLIQUE, "spacing": SPACING, "step": NORMAL * STEP}
    write_series(place / "ct", image, **kind)
    pytest.importorskip("highdicom")
    settings = PredictSettings(format="dicom-seg", outputs=Outputs(True, True, "stl"))
    items, _ = find_cases([place / "ct"], only_dicom=True)
    for again in (False, True):
        [result] = predict_files(predictor(), items, place / "out", settings)
        assert result.error is None, result.error
        assert result.skipped is again
    write_table(place / "out")
    return place


def volumes_by_contours(data: pydicom.Dataset, series: sitk.Image) -> dict[str, float]:
    """Return what the contours enclose; each must lie in a slice and hold its voxels exactly."""
    names = {roi.ROINumber: roi.ROIName for roi in data.StructureSetROISequence}
    found = {}
    labels = truth()
    for roi in data.ROIContourSequence:
        name, total = names[roi.ReferencedROINumber], 0.0
        painted: dict[int, list[np.ndarray]] = {}
        for contour in roi.get("ContourSequence", []):
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            assert contour.NumberOfContourPoints == len(points)
            index = np.array([series.TransformPhysicalPointToContinuousIndex(p) for p in points])
            assert np.ptp(index[:, 2]) < 1e-4
            painted.setdefault(round(float(index[0, 2])), []).append(index[:, :2])
            total += abs(signed_area(index[:, :2]))
        value = LABELS.values[LABELS.names.index(name)]
        for z in range(SHAPE[0]):
            seen = inside(painted.get(z, []), SHAPE[:0:-1])
            assert np.array_equal(seen.T, labels[z] == value)
        found[name] = total * math.prod(series.GetSpacing())
    return found


def test_contours_enclose_what_was_segmented(predicted: Path) -> None:
    [path] = (predicted / "out" / "rtstruct").iterdir()
    data = pydicom.dcmread(path)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(predicted / "ct")))
    series = reader.Execute()
    labels, voxel = truth(), math.prod(series.GetSpacing())
    big, small = int((labels == 5).sum()), int((labels == 500).sum())
    assert big > 1000
    assert 200 < small < 1000
    volumes = volumes_by_contours(data, series)
    assert volumes["Liver"] == pytest.approx(big * voxel, rel=0.01)
    assert volumes["odd thing"] == pytest.approx(small * voxel, rel=0.03)
    assert volumes["nowhere"] == 0
    slices = {
        h.text("SOPInstanceUID")
        for h in find_series(predicted / "ct", min_slices=2).series[0].headers
    }
    first = pydicom.dcmread(next((predicted / "ct").iterdir()))
    assert data.SOPClassUID == "1.2.840.10008.5.1.4.1.1.481.3"
    assert (data.StudyInstanceUID, data.PatientID) == (first.StudyInstanceUID, first.PatientID)
    for roi in data.ROIContourSequence:
        for contour in roi.get("ContourSequence", []):
            assert contour.ContourImageSequence[0].ReferencedSOPInstanceUID in slices
            assert all(len(str(v.original_string)) <= 16 for v in contour.ContourData)


def test_the_segmentation_object_has_the_same_volumes(predicted: Path) -> None:
    hd = pytest.importorskip("highdicom")
    [path] = (predicted / "out").glob("*.dcm")
    seg = hd.seg.segread(path)
    groups = [f.SegmentIdentificationSequence[0] for f in seg.PerFrameFunctionalGroupsSequence]
    numbers = np.array([int(group.ReferencedSegmentNumber) for group in groups])
    for number, value in ((1, 5), (2, 500)):
        assert seg.pixel_array[numbers == number].sum() == (truth() == value).sum()


def test_figures_and_surfaces_agree(predicted: Path) -> None:
    out = predicted / "out"
    with (out / "statistics.csv").open(newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    [case] = json.loads((out / "statistics.json").read_text()).items()
    assert [one["name"] for one in case[1]] == list(rows) == list(LABELS.names[1:])
    liver, nowhere = rows["Liver"], rows["nowhere"]
    assert float(liver["voxels"]) == (truth() == 5).sum()
    assert (float(liver["mean"]), float(liver["standard_deviation"])) == (0, 0)
    assert float(rows["odd thing"]["mean"]) == 200
    assert (nowhere["mean"], float(nowhere["mesh_volume_mm3"])) == ("", 0)
    stl = out / "meshes" / f"{case[0]}_Liver.stl"
    data = stl.read_bytes()
    assert data[:80].startswith(b"medssl SPACE=LPS")
    kind = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("more", "<u2")])
    triangles = np.frombuffer(data[84:], kind)
    assert len(triangles) == int.from_bytes(data[80:84], "little")
    a, b, c = np.moveaxis(triangles["corners"].astype(float), 1, 0)
    volume = (a * np.cross(b, c)).sum() / 6
    assert volume == pytest.approx(float(liver["mesh_volume_mm3"]), rel=1e-3)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(predicted / "ct")))
    series = reader.Execute()
    places = np.argwhere(truth() == 5)[:, ::-1]
    index = np.array([series.TransformPhysicalPointToContinuousIndex(p) for p in a[::7].tolist()])
    for axis in range(3):  # the surface is half a voxel around the voxels, where ITK has them
        assert index[:, axis].min() >= places[:, axis].min() - 0.501
        assert index[:, axis].max() <= places[:, axis].max() + 0.501
    assert (out / "meshes" / f"{case[0]}_nowhere.stl").stat().st_size == 84


def test_files_without_dicom_have_figures_and_surfaces_too(tmp_path: Path) -> None:
    affine = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, -3], [0, 0, 3, 7], [0, 0, 0, 1.0]])
    image = np.full((9, 8, 7), -1000, np.int16)
    image[2:5, 3:5, 4] = 0
    nib.save(nib.Nifti1Image(image, affine), tmp_path / "a.nii.gz")
    settings = PredictSettings(outputs=Outputs(statistics=True, meshes="obj"))
    items, _ = find_cases([tmp_path / "a.nii.gz"])
    [result] = predict_files(predictor(), items, tmp_path / "out", settings)
    assert result.error is None, result.error
    rows = json.loads((tmp_path / "out" / "statistics" / "a.json").read_text())
    assert rows[0]["voxel_volume_mm3"] == pytest.approx(6 * 9)
    lines = (tmp_path / "out" / "meshes" / "a_Liver.obj").read_text().splitlines()
    points = np.array([line.split()[1:] for line in lines if line.startswith("v ")], float)
    world = (affine @ [3, 3.5, 4, 1])[:3] * [-1, -1, 1]  # its middle, in LPS
    assert np.allclose((points.min(0) + points.max(0)) / 2, world)
    assert np.allclose(np.ptp(points, axis=0), [2 * 2, 3 * 1.5, 3])


def test_frames_that_each_say_how_they_lie(tmp_path: Path) -> None:
    """A multi-frame file whose orientation and spacing stand in each frame's own groups."""
    hd = pytest.importorskip("highdicom")
    labels = truth()[4:14, 4:24, 4:24]
    stored = np.where(labels == 5, 0, -1000).astype(np.int16)
    data = header("1.2.840.10008.5.1.4.1.1.2.1", NumberOfFrames=len(stored))
    add_pixels(data, stored)
    data.SharedFunctionalGroupsSequence = pydicom.Sequence([pydicom.Dataset()])
    frames = []
    for k in range(len(stored)):
        group = frame_group(NORMAL * STEP * k, OBLIQUE, SPACING)
        rescale = pydicom.Dataset()
        rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = 1.0, 0.0, "HU"
        group.PixelValueTransformationSequence = pydicom.Sequence([rescale])
        frames.append(group)
    data.PerFrameFunctionalGroupsSequence = pydicom.Sequence(frames)
    (tmp_path / "ct").mkdir()
    data.save_as(tmp_path / "ct" / "scan.dcm", enforce_file_format=True)
    settings = PredictSettings(format="dicom-seg", outputs=Outputs(rtstruct=True))
    items, _ = find_cases([tmp_path / "ct"], only_dicom=True)
    [result] = predict_files(predictor(), items, tmp_path / "out", settings)
    assert result.error is None, result.error
    assert result.path is not None
    seg = hd.seg.segread(result.path)
    assert int(seg.pixel_array.sum()) == (labels == 5).sum()
    where = seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    assert np.allclose(where.ImageOrientationPatient, OBLIQUE)
    [path] = (tmp_path / "out" / "rtstruct").iterdir()
    contour = pydicom.dcmread(path).ROIContourSequence[0].ContourSequence[0]
    assert contour.ContourImageSequence[0].ReferencedFrameNumber == 1 + int(
        np.argmax((labels == 5).any((1, 2)))
    )


def test_what_cannot_be_written_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MedSSLError, match="no mesh format 'stle'"):
        Outputs(meshes="stle")
    write_series(tmp_path / "ct", np.full((4, 5, 6), 24, np.uint16), FrameOfReferenceUID="")
    settings = PredictSettings(outputs=Outputs(rtstruct=True))
    items, _ = find_cases([tmp_path / "ct"], only_dicom=True)
    [result] = predict_files(predictor(), items, tmp_path / "out", settings)
    assert "FrameOfReferenceUID" in str(result.error)
    monkeypatch.setitem(sys.modules, "skimage.measure", None)
    with pytest.raises(MedSSLError, match="medssl\\[outputs\\]"):
        Outputs(statistics=True).need_packages()
    assert cli.run(["predict", "--rtstruct", "nowhere", str(tmp_path), "--output", "x"]) == 2
