"""DICOM series in, NIfTI or DICOM-SEG out: read back by other code, voxel by voxel."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from dicom_files import DATE, PATIENT, PATIENT_ID, write_enhanced, write_series
from torch import Tensor, nn

from medssl.data.datasets.case import LabelMap
from medssl.data.datasets.label_regions import LabelRegion
from medssl.data.dicom.series import find_series
from medssl.data.images.geometry import LPS
from medssl.data.importers.dicom_labels import paint_segmentations
from medssl.errors import MedSSLError
from medssl.inference.dicom_seg import check_names
from medssl.inference.folder import predict_files
from medssl.inference.inputs import find_cases
from medssl.inference.predictor import Predictor
from medssl.inference.search_box import RegionFinder
from medssl.inference.settings import PredictSettings
from medssl.inference.task import Task
from medssl.settings.recipe import InferenceSettings, RoiSettings
from medssl.settings.spec import DataSpec

pytest.importorskip("highdicom")
import pydicom

SHAPE = (6, 9, 7)  # slices, rows, columns
LABELS = LabelMap(values=(0, 5, 500), names=("background", "Liver", "odd thing"))
COS, SIN = float(np.cos(0.4)), float(np.sin(0.4))
OBLIQUE = (COS, SIN, 0.0, 0.0, 0.0, -1.0)  # rows run down, columns across a turned plane
NORMAL = np.array([-SIN, COS, 0.0])
SEGMENTATION = PredictSettings(format="dicom-seg")
REGIONS = (LabelRegion("both", (5, 500), 5), LabelRegion("core", (500,), 500))


class Hounsfield(nn.Module):
    """Call 0 HU the first structure and 200 HU the second; air is background."""

    def forward(self, x: Tensor) -> Tensor:
        levels = torch.tensor([-1000.0, 0.0, 200.0]).reshape(1, 3, *(1,) * (x.ndim - 2))
        return -((x - levels) ** 2) / 1000


def predictor(labels: LabelMap = LABELS) -> Predictor:
    return Predictor(
        Hounsfield(),
        Task(DataSpec(intensity={"rule": "none"}), labels, (8, 8, 8), in_channels=1),
        InferenceSettings(),
        device=torch.device("cpu"),
    )


def stored() -> tuple[np.ndarray, np.ndarray]:
    """Return stored values (slices, rows, columns) and the label values they stand for."""
    truth = np.zeros(SHAPE, np.uint16)
    truth[1:4, 1:6, 0:3] = 5
    truth[2, 2, 1] = 500
    truth[4, 8, 4:7] = 500
    return np.select([truth == 5, truth == 500], [1024, 1224], 24).astype(np.uint16), truth


def segment(
    source: Path, output: Path, suffix: str, labels: LabelMap = LABELS, **options: object
) -> Path:
    items, _ = find_cases([source], only_dicom=suffix == ".dcm")
    format_ = "dicom-seg" if suffix == ".dcm" else suffix[1:]
    settings = PredictSettings(format=format_, overwrite=True, **options)
    [result] = predict_files(predictor(labels), items, output, settings)
    assert result.error is None, result.error
    return result.path


def test_segmentation_and_nifti_say_the_same_of_every_voxel(tmp_path: Path) -> None:
    image, truth = stored()
    source = tmp_path / "ct"
    names = ["d", "a.dcm", "f", "b", "e", "c"]
    write_series(source, image, orientation=OBLIQUE, step=2.5 * NORMAL, names=names)
    nifti = nib.load(segment(source, tmp_path / "out", ".nii.gz"))
    assert np.array_equal(np.asarray(nifti.dataobj).T, truth)
    path = segment(source, tmp_path / "out", ".dcm")

    found = find_series(tmp_path, min_slices=2)
    [series], [segmentation] = found.series, found.segmentations
    painted = paint_segmentations(
        [segmentation], series, {"Liver": 5, "odd thing": 500}, ordered=False
    )
    assert np.array_equal(painted, np.asarray(nifti.dataobj))

    # The same, frame by frame and without our reader: PS3.3 C.7.6.2.1.1.
    data = pydicom.dcmread(path)
    seen = np.zeros(nifti.shape, int)
    for frame, group in zip(data.pixel_array, data.PerFrameFunctionalGroupsSequence, strict=True):
        place = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        for j, i in np.argwhere(frame):
            world = place + np.array(OBLIQUE[:3]) * 0.6 * i + np.array(OBLIQUE[3:]) * 0.8 * j
            index = np.linalg.inv(nifti.affine) @ LPS @ [*world, 1]
            np.testing.assert_allclose(index, np.rint(index), atol=1e-3)
            seen[tuple(np.rint(index[:3]).astype(int))] += LABELS.values[number]
    assert np.array_equal(seen, np.asarray(nifti.dataobj))


def test_nifti_of_a_series_lies_where_itk_sees_the_series(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", stored()[0], orientation=OBLIQUE, step=2.5 * NORMAL)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "ct")))
    series = reader.Execute()
    for suffix in (".nii.gz", ".nrrd"):
        ours = sitk.ReadImage(str(segment(tmp_path / "ct", tmp_path / "out", suffix)))
        assert ours.GetSize() == series.GetSize()
        assert np.allclose(ours.GetOrigin(), series.GetOrigin(), atol=1e-4)
        assert np.allclose(ours.GetSpacing(), series.GetSpacing(), atol=1e-5)
        assert np.allclose(ours.GetDirection(), series.GetDirection(), atol=1e-5)


def test_what_the_object_says_of_itself(tmp_path: Path) -> None:
    images = write_series(tmp_path / "ct", stored()[0])
    data = pydicom.dcmread(segment(tmp_path / "ct", tmp_path / "out", ".dcm"))
    assert data.Modality == "SEG"
    assert data.SegmentationType == "BINARY"
    assert (data.PatientID, data.PatientName, data.StudyDate) == (PATIENT_ID, PATIENT, DATE)
    assert data.StudyInstanceUID == images[0].StudyInstanceUID
    assert data.FrameOfReferenceUID == images[0].FrameOfReferenceUID
    assert data.ReferencedSeriesSequence[0].SeriesInstanceUID == images[0].SeriesInstanceUID
    liver, other = data.SegmentSequence
    assert [s.SegmentNumber for s in (liver, other)] == [1, 2]
    assert [s.SegmentLabel for s in (liver, other)] == ["Liver", "odd thing"]
    assert [s.SegmentDescription for s in (liver, other)] == ["label value 5", "label value 500"]
    assert liver.SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"
    assert other.SegmentedPropertyTypeCodeSequence[0].CodeValue == "123037004"
    assert liver.SegmentAlgorithmName == "medssl"
    assert len(data.PerFrameFunctionalGroupsSequence) == 3 + 2  # empty ones are left out


def test_multi_frame_source_in_shuffled_order(tmp_path: Path) -> None:
    image, truth = stored()
    order = np.array([3, 0, 5, 1, 4, 2])
    positions = np.array([[-10.0, -20.0, 30.0 + 2 * k] for k in order])
    pixels = (image.astype(np.int16) - 1024 + 5)[order]  # its intercept is -5
    write_enhanced(tmp_path / "ct" / "scan.dcm", pixels, positions, np.ones(6))
    path = segment(tmp_path / "ct", tmp_path / "out", ".dcm")
    found = find_series(tmp_path, min_slices=2)
    values = {"Liver": 5, "odd thing": 500}
    painted = paint_segmentations(found.segmentations, found.series[0], values, ordered=False)
    assert np.array_equal(painted.T, truth)
    data = pydicom.dcmread(path)
    for group in data.PerFrameFunctionalGroupsSequence:
        place = group.PlanePositionSequence[0].ImagePositionPatient[2]
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        assert positions[source.ReferencedFrameNumber - 1, 2] == place


def test_regions_are_segments_that_overlap(tmp_path: Path) -> None:
    image, truth = stored()
    write_series(tmp_path / "ct", image, orientation=OBLIQUE, step=2.5 * NORMAL)
    labels = replace(LABELS, regions=REGIONS)
    data = pydicom.dcmread(segment(tmp_path / "ct", tmp_path / "out", ".dcm", labels))
    described = [(s.SegmentLabel, s.SegmentDescription) for s in data.SegmentSequence]
    assert described == [("both", "label value 5+500"), ("core", "label value 500")]
    sizes = {1: 0, 2: 0}
    for frame, group in zip(data.pixel_array, data.PerFrameFunctionalGroupsSequence, strict=True):
        sizes[group.SegmentIdentificationSequence[0].ReferencedSegmentNumber] += int(frame.sum())
    assert sizes == {1: (truth > 0).sum(), 2: (truth == 500).sum()}
    found = find_series(tmp_path, min_slices=2)
    parts = (found.segmentations, found.series[0], {"both": 5, "core": 500})
    assert np.array_equal(paint_segmentations(*parts, ordered=True).T, truth)
    with pytest.raises(MedSSLError, match="'both' and 'core' overlap in 4 voxels"):
        paint_segmentations(*parts, ordered=False)
    write_series(tmp_path / "none", np.full(SHAPE, 24, np.uint16))
    data = pydicom.dcmread(segment(tmp_path / "none", tmp_path / "out", ".dcm", labels))
    assert (len(data.SegmentSequence), data.pixel_array.any()) == (2, False)


def test_nothing_found_is_written_and_not_predicted_again(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", np.full(SHAPE, 24, np.uint16))
    data = pydicom.dcmread(segment(tmp_path / "ct", tmp_path / "out", ".dcm"))
    assert not data.pixel_array.any()
    assert [s.SegmentLabel for s in data.SegmentSequence] == ["Liver", "odd thing"]
    items, _ = find_cases([tmp_path / "ct"])
    [again] = predict_files(predictor(), items, tmp_path / "out", SEGMENTATION)
    assert again.skipped


def test_series_that_an_anonymizer_has_thinned_out(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", stored()[0])
    for path in (tmp_path / "ct").iterdir():
        data = pydicom.dcmread(path)
        for keyword in ("PatientID", "PatientBirthDate", "AccessionNumber", "SliceThickness"):
            delattr(data, keyword)
        data.save_as(path)
    assert pydicom.dcmread(segment(tmp_path / "ct", tmp_path / "out", ".dcm")).PatientID == ""


def test_series_without_uids_is_named_before_it_is_predicted(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", stored()[0])
    for path in (tmp_path / "ct").iterdir():
        data = pydicom.dcmread(path)
        data.SOPInstanceUID = data.SeriesInstanceUID = ""
        data.save_as(path)
    items, _ = find_cases([tmp_path / "ct"])
    windows: list[int] = []
    [result] = predict_files(
        predictor(), items, tmp_path / "out", SEGMENTATION, on_window=lambda *n: windows.append(1)
    )
    assert (
        "series 1 'series a' in folder ct has no SOPInstanceUID, SeriesInstanceUID" in result.error
    )
    assert not windows
    [result] = predict_files(predictor(), items, tmp_path / "out", PredictSettings())
    assert result.error is None


def test_series_that_cannot_carry_a_segmentation_is_named(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", stored()[0], PatientSex="X")
    write_series(tmp_path / "ct", stored()[0], series="good", SeriesNumber=2)
    items, _ = find_cases([tmp_path / "ct"])
    bad, good = predict_files(predictor(), items, tmp_path / "out", SEGMENTATION)
    assert "no DICOM-SEG can be made of series 1 'series a'" in bad.error
    assert "'X'" in bad.error
    assert good.path.name == "ct_s2.dcm"
    assert sorted(os.listdir(tmp_path / "out")) == ["ct_s2.dcm", "predictions.json"]


def test_a_series_is_predicted_inside_its_region_of_interest(tmp_path: Path) -> None:
    """The coarse run gets the voxels of the series too, and its box does not outlive a slice."""
    image, truth = stored()
    write_series(tmp_path / "ct", image)
    fine = predictor()
    fine.regions = RegionFinder(
        predictor(),
        RoiSettings(run="coarse", margin_mm=0.0, labels=[500], pieces="all"),
        folder=tmp_path,
        patch=(1, 1, 1),
        cache=tmp_path / "cache",
    )
    items, _ = find_cases([tmp_path / "ct"])
    [result] = predict_files(fine, items, tmp_path / "out", PredictSettings())
    assert result.error is None
    inside = np.zeros(SHAPE, bool)
    inside[2:5, 2:9, 1:7] = True  # what holds both pieces of label 500, in whole voxels
    assert ((truth == 5) & ~inside).any()
    found = np.asarray(nib.load(result.path).dataobj).T
    assert np.array_equal(found, np.where(inside, truth, 0))
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_maps_beside_a_segmentation_are_nifti(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", stored()[0])
    out = tmp_path / "out"
    segment(tmp_path / "ct", out, ".dcm", probabilities=True, uncertainty=True)
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*.*")) == [
        "ct_s1.dcm",
        "predictions.json",
        "probabilities/ct_s1_Liver.nii.gz",
        "probabilities/ct_s1_odd-thing.nii.gz",
        "uncertainty/ct_s1.nii.gz",
    ]


def test_series_are_cases_with_names_that_stay(tmp_path: Path) -> None:
    study = tmp_path / "study"
    write_series(study / "p 1", stored()[0], series="a")
    write_series(study / "p 1", stored()[0], series="b", SeriesNumber=7)
    write_series(study / "p2" / "CT", stored()[0], series="c")
    write_series(study / "p2" / "CT", stored()[0], series="d")
    write_series(study / "p2" / "CT", stored()[0], series="scout", offsets=(0, 1, 2, 5, 6, 7))
    items, notes = find_cases([study, study / "p 1"])
    ids = [case for case, _ in items]
    assert ids[2:] == ["study_p_1_s1", "study_p_1_s7"]
    assert len(ids) == 4  # the second input repeats two of them
    assert all(i.startswith("study_p2_CT_s1_") for i in ids[:2])
    assert len(set(ids)) == 4
    [note] = notes
    assert "left out series 1 'series scout' in folder CT: about 2 slices are missing" in note


def test_a_folder_with_a_converted_copy_is_read_as_asked(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", stored()[0])
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), tmp_path / "ct" / "x.nii")
    assert [case for case, _ in find_cases([tmp_path / "ct"])[0]] == ["x"]
    assert [c for c, _ in find_cases([tmp_path / "ct"], only_dicom=True)[0]] == ["ct_s1"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("image.nii.gz", "DICOM-SEG and RTSTRUCT belong to a DICOM series, and there is none here"),
        ("empty", "DICOM-SEG and RTSTRUCT belong to a DICOM series, and there is none here"),
        ("gone", "there is no such file or folder"),
        ("a000.dcm", "no DICOM series here can become a volume"),
    ],
)
def test_input_that_is_no_series_is_refused(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "empty").mkdir()
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), tmp_path / "image.nii.gz")
    write_series(tmp_path, stored()[0])
    with pytest.raises(MedSSLError, match=says) as caught:
        find_cases([tmp_path / name], only_dicom=True)
    assert caught.value.where == str(tmp_path / name)


def test_output_among_the_slices_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "ct", stored()[0])
    items, _ = find_cases([tmp_path / "in"])
    for folder in (tmp_path / "in", tmp_path / "in" / "ct"):
        with pytest.raises(MedSSLError, match="would lie among the DICOM files"):
            predict_files(predictor(), items, folder, PredictSettings())


def test_names_that_dicom_cannot_hold_are_refused(tmp_path: Path) -> None:
    for name in ("x" * 65, "left\\right"):
        with pytest.raises(MedSSLError, match="DICOM cannot hold the structure name"):
            check_names(LabelMap((0, 1), ("background", name)))
    check_names(LabelMap((0, 1), ("background", "é" * 64)))
    with pytest.raises(MedSSLError, match="cannot hold the structure name"):
        check_names(replace(LABELS, regions=(LabelRegion("a" * 65, (5, 500), 5),)))


def test_damaged_slice_stops_its_series_alone(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "a", stored()[0])
    write_series(tmp_path / "in" / "b", stored()[0], series="b")
    path = tmp_path / "in" / "a" / "a002.dcm"
    path.write_bytes(path.read_bytes()[:-40])
    items, _ = find_cases([tmp_path / "in"])
    bad, good = predict_files(predictor(), items, tmp_path / "out", PredictSettings())
    assert str(path) in bad.error
    assert good.error is None


def test_without_highdicom_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import medssl

    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(MedSSLError, match="highdicom") as caught:
        medssl.predict(tmp_path, [tmp_path], tmp_path / "out", format="dicom-seg")
    assert caught.value.fix == 'install it with: pip install "medssl[dicom-seg]"'
