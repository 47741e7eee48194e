"""DICOM as it leaves clinics and anonymizers: nothing is merged or dropped without a word."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from dicom_files import (
    add_pixels,
    header,
    item,
    uid,
    write_segmentation,
    write_series,
)
from nifti_headers import landmarks, places

from medssl.data.dicom.files import is_dicom
from medssl.data.dicom.series import find_series
from medssl.data.importers.dataset import import_dataset
from medssl.errors import MedSSLError
from medssl.inference.inputs import find_inputs

pydicom = pytest.importorskip("pydicom")

SHAPE = (8, 7, 5)  # slices, rows, columns


def voxels(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3000, shape).astype(np.uint16)


def imported(source: Path, **options: object) -> tuple[dict, list[np.ndarray], list[np.ndarray]]:
    """Import; return dataset.json, the images and the labels, slices first."""
    out = source.parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    result = import_dataset("dicom", source, out, options=options)
    info = json.loads((out / "dataset.json").read_text())
    items = info["training"] + info["unlabeled"]
    read = [np.asarray(nib.load(out / i["image"]).dataobj).T for i in items]
    labels = [np.asarray(nib.load(out / i["label"]).dataobj).T for i in items if "label" in i]
    return info | {"notes": " | ".join(result.notes)}, read, labels


def notes_of(source: Path, least: int = 5) -> str:
    return " | ".join(find_series(source, min_slices=least).notes)


# ---------------------------------------------------------------------------------------- segments


def two_masks() -> list[tuple[str, np.ndarray]]:
    left, right = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    left[1:4, 1:6, 0:2], right[5:7, 2:5, 3:5] = True, True
    return [("LUNG", left), ("LUNG", right)]


def test_segments_of_one_name_are_told_apart(tmp_path: Path) -> None:
    images = write_series(tmp_path / "in", voxels())
    masks = two_masks()
    write_segmentation(tmp_path / "in" / "seg.dcm", images, masks)
    info, _, [label] = imported(tmp_path / "in")
    assert info["labels"] == {"0": "background", "1": "LUNG", "2": "LUNG 2"}
    assert "2 segments of one series are called 'LUNG'" in info["notes"]
    np.testing.assert_array_equal(label, 1 * masks[0][1] + 2 * masks[1][1])


def test_two_objects_with_one_name_are_two_structures(tmp_path: Path) -> None:
    images = write_series(tmp_path / "in", voxels())
    first, second = two_masks()
    write_segmentation(tmp_path / "in" / "seg1.dcm", images, [first])
    write_segmentation(tmp_path / "in" / "seg2.dcm", images, [second])
    info, _, [label] = imported(tmp_path / "in")
    assert info["labels"] == {"0": "background", "1": "LUNG", "2": "LUNG 2"}
    np.testing.assert_array_equal(label, 1 * first[1] + 2 * second[1])
    # Two readers of one lesion: nobody can say whose voxel counts.
    write_segmentation(tmp_path / "in" / "seg2.dcm", images, [first])
    with pytest.raises(MedSSLError, match="segments 'LUNG' and 'LUNG 2' overlap in 30 voxels"):
        imported(tmp_path / "in")


def test_a_name_with_a_number_keeps_its_own(tmp_path: Path) -> None:
    images = write_series(tmp_path / "in", voxels())
    masks = [(name, np.zeros(SHAPE, bool)) for name in ("a 2", "a", "a")]
    for k, (_, mask) in enumerate(masks):
        mask[k] = True
    write_segmentation(tmp_path / "in" / "seg.dcm", images, masks)
    info, _, [label] = imported(tmp_path / "in")
    assert set(info["labels"].values()) == {"background", "a", "a 2", "a 3"}
    assert len(np.unique(label)) == 4


def test_names_that_differ_in_letter_case_are_told(tmp_path: Path) -> None:
    images = write_series(tmp_path / "in", voxels())
    (_, left), (_, right) = two_masks()
    write_segmentation(tmp_path / "in" / "seg.dcm", images, [("Lung", left), ("LUNG", right)])
    info, _, _ = imported(tmp_path / "in")
    assert "the segments 'Lung' and 'LUNG' are taken for two structures" in info["notes"]
    assert len(info["labels"]) == 3


def test_segments_without_a_name_are_called_by_their_number(tmp_path: Path) -> None:
    images = write_series(tmp_path / "in", voxels())
    path = tmp_path / "in" / "seg.dcm"
    write_segmentation(path, images, two_masks())
    data = pydicom.dcmread(path)
    for segment in data.SegmentSequence:
        del segment.SegmentLabel
    data.save_as(path)
    info, _, _ = imported(tmp_path / "in")
    assert info["labels"] == {"0": "background", "1": "segment 1", "2": "segment 2"}


# --------------------------------------------------------------------------- what stays of a series


def test_a_scout_costs_the_scout_alone(tmp_path: Path) -> None:
    stored = voxels()
    write_series(tmp_path / "in", stored, series="a")
    scout = {"SeriesInstanceUID": uid("a"), "SeriesDescription": "series a"}
    localizer = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    write_series(tmp_path / "in", voxels(1, (1, 9, 9)), series="s", **scout, **localizer)
    _, [image], _ = imported(tmp_path / "in")
    np.testing.assert_array_equal(image, stored.astype(int) - 1024)
    assert "left out 1 of the 9 images of series 1 'series a'" in notes_of(tmp_path / "in")


@pytest.mark.parametrize("place", [{"orientation": (0, 1, 0, 0, 0, -1)}, {"spacing": (3.0, 3.0)}])
def test_a_scout_that_does_not_say_so(tmp_path: Path, place: dict) -> None:
    stored = voxels()
    write_series(tmp_path / "in", stored, series="a")
    write_series(
        tmp_path / "in", voxels(1, (1, 7, 5)), series="s", SeriesInstanceUID=uid("a"), **place
    )
    _, [image], _ = imported(tmp_path / "in")
    np.testing.assert_array_equal(image, stored.astype(int) - 1024)


def test_an_image_without_a_place_costs_itself_alone(tmp_path: Path) -> None:
    stored = voxels()
    write_series(tmp_path / "in", stored, series="a")
    [data] = write_series(tmp_path / "x", voxels(1, (1, 7, 5)), SeriesInstanceUID=uid("a"))
    del data.ImagePositionPatient
    data.SOPInstanceUID = uid("report")
    data.save_as(tmp_path / "in" / "report.dcm")
    _, [image], _ = imported(tmp_path / "in")
    np.testing.assert_array_equal(image, stored.astype(int) - 1024)


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "in color"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "inverted"),
    ],
)
def test_a_report_in_color_costs_itself_alone(tmp_path: Path, other: dict, what: str) -> None:
    stored = voxels()
    images = write_series(tmp_path / "in", stored)
    report = {"SOPInstanceUID": uid("report"), **other}
    for keyword, value in report.items():
        setattr(images[0], keyword, value)
    images[0].save_as(tmp_path / "in" / "0.dcm")  # the first of the folder
    _, [image], _ = imported(tmp_path / "in")
    np.testing.assert_array_equal(image, stored.astype(int) - 1024)
    assert "left out 1 of the 9 images" in notes_of(tmp_path / "in")
    for path in (tmp_path / "in").glob("a*.dcm"):
        path.unlink()
    assert what in notes_of(tmp_path / "in")


# ------------------------------------------------------------------------------------ UIDs, copies


def test_patients_of_one_set_of_uids_stay_two(tmp_path: Path) -> None:
    for patient, seed in (("PH-A", 1), ("PH-B", 2)):
        write_series(tmp_path / "in" / patient, voxels(seed), PatientID=patient)
    info, images, _ = imported(tmp_path / "in")
    assert len({i["patient"] for i in info["unlabeled"]}) == len(info["unlabeled"]) == 2
    for image, seed in zip(images, (1, 2), strict=True):
        np.testing.assert_array_equal(image, voxels(seed).astype(int) - 1024)
    assert "8 files have the SOPInstanceUID of another image or patient" in info["notes"]
    found = find_inputs([tmp_path / "in"]).cases()
    assert [case for case, _ in found] == ["in_PH-A_s1", "in_PH-B_s1"]


def test_scans_of_one_patient_and_one_set_of_uids_stay_two(tmp_path: Path) -> None:
    for folder, seed in (("one", 1), ("two", 2)):
        write_series(tmp_path / "in" / folder, voxels(seed))
    _, images, _ = imported(tmp_path / "in")
    assert len(images) == 2
    assert not np.array_equal(*images)


@pytest.mark.parametrize("counts", [(8, 11), (11, 8)])
def test_scans_of_one_set_of_uids_are_not_mixed(tmp_path: Path, counts: tuple[int, int]) -> None:
    stored = [voxels(seed, (count, 7, 5)) for seed, count in enumerate(counts)]
    for folder, planes in zip(("one", "two"), stored, strict=True):
        for k in (0, 1):  # a series may lie in several folders, too
            part = slice(None, 4) if k else slice(4, None)
            offsets = range(len(planes))[part]
            for place in offsets:
                write_series(
                    tmp_path / "in" / folder / str(k),
                    planes[place][None],
                    offsets=[place],
                    names=[f"{place}.dcm"],
                    SOPInstanceUID=uid("a", place),
                )
    _, images, _ = imported(tmp_path / "in")
    for image, planes in zip(images, stored, strict=True):
        np.testing.assert_array_equal(image, planes.astype(int) - 1024)


def test_scans_of_one_set_of_uids_in_one_folder_are_refused(tmp_path: Path) -> None:
    for name, count in (("a", 8), ("b", 11)):
        names = [f"{name}{k}.dcm" for k in range(count)]
        write_series(tmp_path, voxels(count, (count, 7, 5)), names=names)
    found = find_series(tmp_path, min_slices=5)
    assert found.series == []
    assert "put each scan into a folder of its own" in " ".join(found.notes)


def test_a_segmentation_of_another_patient_is_left_out(tmp_path: Path) -> None:
    """Two patients of one set of UIDs: the series of one has a gap and is left out."""
    masks = two_masks()
    write_series(tmp_path / "in" / "A", voxels(1), PatientID="A")
    gap = {"offsets": [0, 1, 2, 4, 5, 6, 7, 8], "PatientID": "B"}
    images = write_series(tmp_path / "in" / "B", voxels(2), **gap)
    for image in images:
        image.ImagePositionPatient = [-10, -20, 30 + 2 * images.index(image)]
    write_segmentation(tmp_path / "in" / "B" / "seg.dcm", images, masks)
    info, images, labels = imported(tmp_path / "in")
    assert len(images) == 1
    assert labels == []
    assert "names a series of another patient" in info["notes"]


def test_true_copies_are_one_scan(tmp_path: Path) -> None:
    """A copy of the bytes, and one whose header was edited."""
    write_series(tmp_path / "in" / "one", voxels())
    shutil.copytree(tmp_path / "in" / "one", tmp_path / "in" / "two")
    write_series(tmp_path / "in" / "three", voxels(), SeriesDescription="copied")
    info, images, _ = imported(tmp_path / "in")
    assert len(images) == 1
    assert "16 files are copies of others" in info["notes"]


def test_series_of_one_uid_and_folder_have_names_of_their_own(tmp_path: Path) -> None:
    write_series(tmp_path / "in", voxels(1), names=[f"a{k}" for k in range(8)], PatientID="A")
    write_series(tmp_path / "in", voxels(2), names=[f"b{k}" for k in range(8)], PatientID="B")
    ids = [case for case, _ in find_inputs([tmp_path / "in"]).cases()]
    assert len(set(ids)) == 2
    assert ids == [case for case, _ in find_inputs([tmp_path / "in", tmp_path / "in"]).cases()]


# -------------------------------------------------------------------------------- rounded numbers


def test_pixel_spacing_rounded_in_some_slices(tmp_path: Path) -> None:
    stored = voxels()
    for k, plane in enumerate(stored):
        write_series(
            tmp_path / "in",
            plane[None],
            series=f"s{k}",
            SeriesInstanceUID=uid("a"),
            offsets=[k],
            spacing=(1.0, 1.0) if k % 2 else (1.0000001, 1.0),
        )
    _, [image], _ = imported(tmp_path / "in")
    np.testing.assert_array_equal(image, stored.astype(int) - 1024)


@pytest.mark.parametrize(("gap", "decimals"), [(0.625, 1), (1.25, 1), (0.3, 2)])
def test_positions_rounded_to_a_decimal(tmp_path: Path, gap: float, decimals: int) -> None:
    stored = voxels(shape=(40, 7, 5))
    series = write_series(tmp_path / "in", stored, step=(0, 0, gap), origin=(-10.0, -20.0, 30.0))
    for k, data in enumerate(series):
        place = [-10.0, -20.0, round(30.0 + k * gap, decimals)]
        data.ImagePositionPatient = place
        data.save_as(tmp_path / "in" / f"a{k:03d}.dcm", enforce_file_format=True)
    [one] = find_series(tmp_path / "in", min_slices=5).series
    assert one.affine[2, 2] == pytest.approx(gap, abs=10.0**-decimals / 39)
    np.testing.assert_allclose(one.affine[:2, 2], 0, atol=1e-12)


def test_few_slices_with_rounded_positions_are_not_tilted(tmp_path: Path) -> None:
    """Half a tenth to the side over 2.4 mm would be a tilt of 1.2 degrees."""
    series = write_series(tmp_path / "in", voxels(shape=(5, 7, 5)), step=(0, 0, 0.6))
    for k, data in enumerate(series):
        data.ImagePositionPatient = [-10.0 + 0.1 * (k > 2), -20.0, round(30.0 + k * 0.6, 1)]
        data.save_as(tmp_path / "in" / f"a{k:03d}.dcm", enforce_file_format=True)
    [one] = find_series(tmp_path / "in", min_slices=5).series
    np.testing.assert_allclose(one.affine[:3, :3], np.diag([-0.6, -0.8, 0.6]), atol=1e-12)


def test_rounding_does_not_hide_a_missing_or_uneven_slice(tmp_path: Path) -> None:
    kept = [0, 1, 2, 3, 5, 6, 7, 8]
    write_series(tmp_path / "in", voxels(), step=(0, 0, 1.3), offsets=kept)
    assert "about 1 slices are missing" in notes_of(tmp_path / "in")
    uneven = [0, 1, 2, 3.3, 4, 5, 6, 7]
    write_series(tmp_path / "other", voxels(), step=(0, 0, 1.0), offsets=uneven)
    assert "unevenly spaced" in notes_of(tmp_path / "other")


# --------------------------------------------------------------------------- multi-frame, no header


def write_frames(path: Path, stored: np.ndarray, **elements: object) -> None:
    """Write a multi-frame CT whose frames have no functional groups."""
    data = header(pydicom.uid.EnhancedCTImageStorage, NumberOfFrames=len(stored), **elements)
    add_pixels(data, stored)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)


PLACE = {
    "PixelSpacing": [0.3, 0.25],
    "ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
    "ImagePositionPatient": [-10.0, -20.0, 30.0],
}


@pytest.mark.parametrize(
    ("stated", "says"),
    [
        ({"SpacingBetweenSlices": 0.2, "SliceThickness": 9.0}, "SpacingBetweenSlices, 0.2 mm"),
        ({"SliceThickness": 0.2}, "SliceThickness, 0.2 mm"),
        ({"GridFrameOffsetVector": [0.2 * k for k in range(8)]}, "GridFrameOffsetVector"),
        (
            {
                "SharedFunctionalGroupsSequence": item(
                    PixelMeasuresSequence=item(PixelSpacing=[0.3, 0.25], SliceThickness=0.2)
                )
            },
            "SliceThickness, 0.2 mm",
        ),
    ],
)
def test_frames_placed_by_the_spacing_that_is_stated(
    tmp_path: Path, stated: dict, says: str
) -> None:
    stored = voxels().astype(np.int16)
    slope = {"RescaleSlope": 2.0, "RescaleIntercept": -1000.0}
    write_frames(tmp_path / "in" / "cbct.dcm", stored, **PLACE, **stated, **slope)
    info, [image], _ = imported(tmp_path / "in")
    np.testing.assert_array_equal(image, stored * 2 - 1000)
    assert says in info["notes"]
    affine = nib.load(tmp_path / "out" / info["unlabeled"][0]["image"]).affine
    expected = np.diag([-0.25, -0.3, 0.2, 1.0])
    expected[:3, 3] = 10, 20, 30
    np.testing.assert_allclose(affine, expected, atol=1e-6)


def test_frames_without_any_spacing_are_refused(tmp_path: Path) -> None:
    write_frames(tmp_path / "in" / "cbct.dcm", voxels().astype(np.int16), **PLACE)
    with pytest.raises(MedSSLError, match="SpacingBetweenSlices or SliceThickness"):
        imported(tmp_path / "in")


@pytest.mark.parametrize("implicit", [True, False])
def test_files_without_their_header(tmp_path: Path, implicit: bool) -> None:
    stored = voxels()
    write_series(tmp_path / "in", stored, names=[f"IM{k}" for k in range(8)])
    for path in (tmp_path / "in").iterdir():
        data = pydicom.dcmread(path)
        del data.file_meta
        data.preamble = None
        pydicom.dcmwrite(path, data, implicit_vr=implicit, little_endian=True)
        assert is_dicom(path)
    _, [image], _ = imported(tmp_path / "in")
    np.testing.assert_array_equal(image, stored.astype(int) - 1024)
    assert [case for case, _ in find_inputs([tmp_path / "in"]).cases()] == ["in_s1"]


def test_a_multi_frame_file_without_its_header(tmp_path: Path) -> None:
    stored = voxels().astype(np.int16)
    path = tmp_path / "in" / "cbct"
    write_frames(path, stored, **PLACE, SliceThickness=0.2)
    data = pydicom.dcmread(path)
    del data.file_meta
    data.preamble = None
    pydicom.dcmwrite(path, data, implicit_vr=True, little_endian=True)
    _, [image], _ = imported(tmp_path / "in")
    np.testing.assert_array_equal(image, stored)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x08\x00", b"text that is long enough " * 9, bytes(500), b"\x08\x00\x05\x00" * 60],
)
def test_other_files_are_not_taken_for_dicom(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert not is_dicom(path)


# -------------------------------------------------------------------------------- where ITK sees it


@pytest.mark.parametrize("oblique", [False, True])
def test_series_lie_where_itk_shows_them(tmp_path: Path, oblique: bool) -> None:
    c, s = np.cos(0.3), np.sin(0.3)
    orientation = (c, s, 0, -s * c, c * c, s) if oblique else (1, 0, 0, 0, 1, 0)
    normal = np.cross(orientation[:3], orientation[3:])
    write_series(tmp_path / "in", voxels(), orientation=orientation, step=2.5 * normal)
    [one] = find_series(tmp_path / "in", min_slices=5).series
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(h.path) for h in one.headers])
    image = reader.Execute()
    indices = landmarks(one.shape)
    truth = [image.TransformContinuousIndexToPhysicalPoint(i) for i in indices.astype(float)]
    np.testing.assert_allclose(
        places(one.affine, indices), np.array(truth) * [-1, -1, 1], atol=1e-3
    )
