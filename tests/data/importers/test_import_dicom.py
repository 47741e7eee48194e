"""DICOM series: voxels and world positions against the standard's formula, labels, privacy."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from dicom_files import (
    AXIAL,
    DATE,
    PATIENT_ID,
    uid,
    write_enhanced,
    write_segmentation,
    write_series,
)

from medssl.data.importers.dataset import import_dataset
from medssl.data.importers.pseudonyms import KEY_NAME, pseudonym, read_key
from medssl.errors import MedSSLError

SHAPE = (6, 7, 5)  # slices, rows, columns


def voxels(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3000, shape).astype(np.uint16)


def run(source: Path, tmp_path: Path, **options: object) -> tuple[dict, nib.Nifti1Image, object]:
    """Import, and return dataset.json, its first image and the result."""
    out = tmp_path / "out"
    shutil.rmtree(out, ignore_errors=True)
    result = import_dataset("dicom", source, out, options=options)
    info = json.loads((out / "dataset.json").read_text())
    first = (info["training"] + info["unlabeled"])[0]
    return info, nib.load(out / first["image"]), result


def label_of(tmp_path: Path, info: dict, number: int = 0) -> np.ndarray:
    return np.asarray(nib.load(tmp_path / "out" / info["training"][number]["label"]).dataobj)


def refusal(source: Path, tmp_path: Path, **options: object) -> str:
    with pytest.raises(MedSSLError) as caught:
        import_dataset("dicom", source, tmp_path / "out", options=options)
    assert not (tmp_path / "out").exists()
    return str(caught.value)


def oblique() -> tuple[list[float], np.ndarray]:
    """Return an ImageOrientationPatient in general position, and the slices' normal."""
    angles = np.radians([20.0, -35.0, 50.0])
    c, s = np.cos(angles), np.sin(angles)
    x = np.array([[1, 0, 0], [0, c[0], -s[0]], [0, s[0], c[0]]])
    y = np.array([[c[1], 0, s[1]], [0, 1, 0], [-s[1], 0, c[1]]])
    z = np.array([[c[2], -s[2], 0], [s[2], c[2], 0], [0, 0, 1]])
    axes = x @ y @ z
    return [*axes[:, 0], *axes[:, 1]], axes[:, 2]


def test_oblique_series_in_shuffled_files(tmp_path: Path) -> None:
    orientation, normal = oblique()
    origin, spacing, stored = np.array([3.0, -41.5, 12.25]), (0.8, 0.6), voxels()
    write_series(
        tmp_path / "in",
        stored,
        orientation=orientation,
        origin=origin,
        spacing=spacing,
        step=2.5 * normal,
        names=["d", "a.dcm", "f.ima", "b", "e.dcm", "c"],
        rescale=(0.5, -1000.0),
    )
    _, image, _ = run(tmp_path / "in", tmp_path)
    array = np.asarray(image.dataobj)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert np.allclose(image.header.get_zooms(), (0.6, 0.8, 2.5), atol=1e-6)
    assert array.shape == (5, 7, 6)
    for k, j, i in ((0, 0, 0), (5, 6, 4), (2, 3, 1), (4, 0, 3)):
        # DICOM PS3.3 C.7.6.2.1.1: columns advance along the first triple, rows along the second.
        place = origin + 2.5 * k * normal
        place = place + np.multiply(orientation[:3], spacing[1] * i)
        place = place + np.multiply(orientation[3:], spacing[0] * j)
        world = place * (-1, -1, 1)
        index = np.linalg.inv(image.affine) @ np.append(world, 1)
        assert np.allclose(index[:3], (i, j, k), atol=1e-4)
        assert array[i, j, k] == stored[k, j, i] * 0.5 - 1000


def test_rounded_direction_cosines_keep_the_spacing(tmp_path: Path) -> None:
    orientation, normal = oblique()
    rounded = [round(v, 2) for v in orientation]
    write_series(tmp_path / "in", voxels(), orientation=rounded, step=2.5 * normal)
    _, image, _ = run(tmp_path / "in", tmp_path)
    written = sitk.ReadImage(image.get_filename())  # refuses sheared axes
    assert np.allclose(written.GetSpacing(), (0.6, 0.8, 2.5), atol=1e-6)
    assert np.allclose(written.GetDirection(), np.transpose(axes(orientation)).ravel(), atol=0.01)


def axes(orientation: list[float]) -> np.ndarray:
    """Return the directions of columns, rows and slices as rows of a matrix."""
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    return np.stack([row, column, np.cross(row, column)])


def test_sitk_sees_the_same_image_in_the_written_file(tmp_path: Path) -> None:
    orientation, normal = oblique()
    write_series(tmp_path / "in", voxels(), orientation=orientation, step=2 * normal)
    _, image, _ = run(tmp_path / "in", tmp_path)
    reader = sitk.ImageSeriesReader()
    expected = sitk.ReadImage(reader.GetGDCMSeriesFileNames(str(tmp_path / "in")))
    written = sitk.ReadImage(image.get_filename())
    assert np.allclose(written.GetSpacing(), expected.GetSpacing(), atol=1e-5)
    assert np.allclose(written.GetDirection(), expected.GetDirection(), atol=1e-5)
    assert np.allclose(written.GetOrigin(), expected.GetOrigin(), atol=1e-4)
    assert np.array_equal(sitk.GetArrayFromImage(written), sitk.GetArrayFromImage(expected))


def test_real_ct(tmp_path: Path, shared_data: Path) -> None:
    source = shared_data / "ct_example" / "dicom"
    if not source.is_dir():
        pytest.skip("the example CT is absent")
    _, image, _ = run(source, tmp_path)
    expected = sitk.ReadImage(sitk.ImageSeriesReader().GetGDCMSeriesFileNames(str(source)))
    written = sitk.ReadImage(image.get_filename())
    # Slices of 3 mm are 2 mm apart: the positions count, not SliceThickness.
    assert written.GetSpacing() == expected.GetSpacing() == (0.9765625, 0.9765625, 2.0)
    assert written.GetDirection() == expected.GetDirection()
    assert np.allclose(written.GetOrigin(), expected.GetOrigin(), atol=1e-4)
    assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
    array = np.asarray(image.dataobj)
    assert np.array_equal(array.T, sitk.GetArrayFromImage(expected))
    assert array.min() == -1024  # air


def test_nothing_written_names_the_patient(tmp_path: Path) -> None:
    folder = tmp_path / PATIENT_ID / DATE
    write_series(folder, voxels())
    write_series(folder, voxels(), series="scout", ImageType=["DERIVED", "PRIMARY", "LOCALIZER"])
    info, _, result = run(tmp_path / PATIENT_ID, tmp_path)
    [name] = {c["patient"] for c in info["unlabeled"]}
    assert name == pseudonym(PATIENT_ID, read_key(tmp_path / KEY_NAME))
    assert any("localizer" in note for note in result.notes)
    secrets = [b"Surname", b"Given", PATIENT_ID.encode(), DATE.encode(), uid("study").encode()]
    for path in (tmp_path / "out").rglob("*.*"):
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        found = [
            s for s in secrets if s in content or s.decode() in str(path.relative_to(tmp_path))
        ]
        assert not found, path
    info, _, _ = run(tmp_path / PATIENT_ID, tmp_path, keep_patient_id=True)
    assert info["unlabeled"][0]["patient"] == PATIENT_ID


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"offsets": (0, 1, 2, 5, 6, 7)}, "about 2 slices are missing"),
        ({"offsets": (0, 1, 2.2, 3, 4, 5)}, "unevenly spaced (1.6 to 2.4 mm)"),
        ({"offsets": (0, 1, 2, 0, 1, 2)}, "3 of 6 slices share their position"),
        ({"step": (0, 0.5, 2.0)}, "sheared by 14.0 degrees"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "it is a localizer"),
        ({"min": 7}, "it has 6 slices (min_slices is 7)"),
        ({"Modality": "OPT"}, "use `medssl import oct`"),
        ({"orientation": (1, 0, 0, 0.1, 0.995, 0)}, "not two perpendicular unit vectors"),
    ],
)
def test_what_is_no_volume_is_named(tmp_path: Path, changes: dict, says: str) -> None:
    least = changes.pop("min", 5)
    write_series(tmp_path / "in", voxels(), **changes)
    message = refusal(tmp_path / "in", tmp_path, min_slices=least)
    assert says in message
    assert "series 1 'series a'" in message


def test_one_series_with_two_orientations_is_left_out(tmp_path: Path) -> None:
    write_series(tmp_path / "in", voxels(), series="a")
    write_series(
        tmp_path / "in",
        voxels(),
        series="b",
        orientation=(0, 1, 0, 0, 0, -1),
        step=(2, 0, 0),
        SeriesInstanceUID=uid("a"),
    )
    assert "different orientations" in refusal(tmp_path / "in", tmp_path)


def test_series_of_one_folder_become_cases_or_are_chosen(tmp_path: Path) -> None:
    first, second = voxels(1), voxels(2)
    write_series(tmp_path / "in", first, series="arterial", SeriesNumber=3)
    write_series(tmp_path / "in", second, series="venous", SeriesNumber=4)
    write_series(tmp_path / "in" / "other", voxels(3), series="x", PatientID="second")
    shutil.copy(tmp_path / "in" / "venous000.dcm", tmp_path / "in" / "copy.dcm")
    (tmp_path / "in" / "notes.dcm").write_text("no DICOM")
    (tmp_path / "in" / "IM0009").symlink_to("nowhere")
    info, _, result = run(tmp_path / "in", tmp_path)
    pairs = [(c["image"], c["patient"]) for c in info["unlabeled"]]
    first_one, again, second_one = (p for _, p in pairs)
    assert first_one == again != second_one
    assert "1 files are copies" in result.notes[0]
    assert "1 files are called DICOM but are not (first: notes.dcm)" in result.notes[1]
    assert "links that lead nowhere (first: IM0009)" in result.notes[2]
    assert [c["series_number"] for c in info["unlabeled"]] == ["3", "4", "1"]
    for options in ({"series": "VENOUS"}, {"series": "4"}):
        info, image, _ = run(tmp_path / "in", tmp_path, **options)
        assert len(info["unlabeled"]) == 1
        assert np.array_equal(np.asarray(image.dataobj).T, second.astype(int) - 1024)
    assert "there are: series 3 'series arterial'" in refusal_after(tmp_path, series="liver")
    write_series(tmp_path / "in", voxels(), series="mr", Modality="MR")
    assert "different modalities: 3 CT, 1 MR" in refusal_after(tmp_path)
    info, _, _ = run(tmp_path / "in", tmp_path, modality="mr")
    assert info["modality"] == {"0": "MRI"}


def refusal_after(tmp_path: Path, **options: object) -> str:
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    return refusal(tmp_path / "in", tmp_path, **options)


def test_multi_frame_file(tmp_path: Path) -> None:
    stored = voxels().astype(np.int16)
    order = np.array([3, 0, 5, 1, 4, 2])  # frame f shows slice order[f]
    positions = np.array([[-10.0, -20.0, 30.0 + 2 * k] for k in order])
    slopes = 1.0 + np.arange(6)
    write_enhanced(tmp_path / "in" / "ct.dcm", stored[order], positions, slopes)
    _, image, _ = run(tmp_path / "in", tmp_path)
    assert np.allclose(image.affine, np.array(AFFINE), atol=1e-5)
    for frame, k in enumerate(order):
        plane = np.asarray(image.dataobj)[:, :, k].T
        assert np.array_equal(plane, stored[k] * slopes[frame] - 5)


AFFINE = [[-0.6, 0, 0, 10], [0, -0.8, 0, 20], [0, 0, 2, 30], [0, 0, 0, 1]]


def test_multi_frame_file_with_two_time_points_is_refused(tmp_path: Path) -> None:
    positions = np.array([[0.0, 0.0, 2.0 * (f // 2)] for f in range(6)])
    write_enhanced(tmp_path / "in" / "ct.dcm", voxels(), positions, np.ones(6))
    assert "share their position" in refusal(tmp_path / "in", tmp_path)


def blocks() -> dict[str, np.ndarray]:
    """Return two masks (slices, rows, columns) without symmetry, in slices 1-3 and 4 only."""
    liver, tumor = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    liver[1:4, 1:6, 0:2] = True
    tumor[4, 6, 3:5] = True
    return {"Tumor": tumor, "Liver": liver}


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_dicom_seg_lands_on_the_image(tmp_path: Path, kind: str) -> None:
    orientation, normal = oblique()
    names = ["d", "a.dcm", "f", "b", "e", "c"]
    images = write_series(
        tmp_path / "in", voxels(), orientation=orientation, step=2.0 * normal, names=names
    )
    masks = blocks()
    write_segmentation(tmp_path / "in" / "seg.dcm", images, masks, kind)
    info, _, _ = run(tmp_path / "in", tmp_path)
    assert info["labels"] == {"0": "background", "1": "Liver", "2": "Tumor"}
    expected = 1 * masks["Liver"] + 2 * masks["Tumor"]
    assert np.array_equal(label_of(tmp_path, info).T, expected)
    info, _, _ = run(tmp_path / "in", tmp_path, labels="5:Tumor")
    assert np.array_equal(label_of(tmp_path, info).T, 5 * masks["Tumor"])


def test_overlapping_segments_are_refused_or_ordered(tmp_path: Path) -> None:
    images = write_series(tmp_path / "in", voxels())
    masks = blocks()
    masks["Tumor"] = masks["Tumor"] | (masks["Liver"] & (np.arange(5) == 1))
    write_segmentation(tmp_path / "in" / "seg.dcm", images, masks)
    message = refusal(tmp_path / "in", tmp_path)
    assert "segments 'Liver' and 'Tumor' overlap in 15 voxels" in message
    info, _, _ = run(tmp_path / "in", tmp_path, labels="1:Liver,2:Tumor")
    label = label_of(tmp_path, info).T
    assert np.array_equal(label == 2, masks["Tumor"])
    assert np.array_equal(label == 1, masks["Liver"] & ~masks["Tumor"])
    info, _, _ = run(tmp_path / "in", tmp_path, labels="2:Tumor,1:Liver")
    assert np.array_equal(label_of(tmp_path, info).T == 1, masks["Liver"])
    assert "no segmentation has a segment named 'spleen'" in refusal_after(
        tmp_path, labels="1:spleen"
    )


def test_fractional_segmentation_is_refused(tmp_path: Path) -> None:
    images = write_series(tmp_path / "in", voxels())
    masks = {name: mask.astype(np.float64) for name, mask in blocks().items()}
    write_segmentation(tmp_path / "in" / "seg.dcm", images, masks, "FRACTIONAL")
    assert "of type FRACTIONAL: probabilities" in refusal(tmp_path / "in", tmp_path)


def test_segmentation_of_another_grid_is_refused(tmp_path: Path) -> None:
    drawn = write_series(tmp_path / "drawn", voxels(), origin=(-10.0, -20.0, 30.9))
    write_series(tmp_path / "in", voxels())
    write_segmentation(tmp_path / "in" / "seg.dcm", drawn, blocks())
    assert "0.45 voxels off the grid" in refusal(tmp_path / "in", tmp_path)


@pytest.mark.parametrize("place", ["in/ct", "in"])
def test_label_file_beside_the_slices_may_be_flipped(tmp_path: Path, place: str) -> None:
    write_series(tmp_path / "in" / "ct", voxels())
    label = (blocks()["Liver"] + 3 * blocks()["Tumor"]).astype(np.uint8).T
    # As converters store it: rows bottom up, columns left to right, and the axes swapped.
    affine = np.array(AFFINE, float)
    flipped, stored = affine.copy(), label[::-1, ::-1]
    flipped[:, :2] *= -1
    flipped[:3, 3] = (affine @ [4, 6, 0, 1])[:3]
    stored, flipped = stored.transpose(2, 0, 1), flipped[:, [2, 0, 1, 3]]
    nib.save(nib.Nifti1Image(stored, flipped), tmp_path / place / "seg.nii.gz")
    info, _, _ = run(tmp_path / "in", tmp_path, labels="1:liver,3:tumor")
    assert info["labels"] == {"0": "background", "1": "liver", "3": "tumor"}
    assert np.array_equal(label_of(tmp_path, info), label)


def test_label_file_off_the_grid_leaves_the_series_unlabeled(tmp_path: Path) -> None:
    write_series(tmp_path / "in", voxels())
    shifted = np.array(AFFINE, float)
    shifted[0, 3] += 0.3
    label = np.ones((5, 7, 6), np.uint8)
    nib.save(nib.Nifti1Image(label, shifted), tmp_path / "in" / "seg.nii.gz")
    info, _, result = run(tmp_path / "in", tmp_path)
    assert not info["training"]
    assert "lies on the grid of series 1 'series a'" in result.notes[0]
    nib.save(nib.Nifti1Image(label, np.array(AFFINE)), tmp_path / "in" / "seg.nii.gz")
    nib.save(nib.Nifti1Image(label, np.array(AFFINE)), tmp_path / "in" / "seg2.nii.gz")
    assert "2 files could be the label" in refusal_after(tmp_path)
    (tmp_path / "in" / "seg2.nii.gz").rename(tmp_path / "in" / "ct.nii.gz")
    info, _, _ = run(tmp_path / "in", tmp_path)
    assert len(info["training"]) == 1


def test_converted_copy_of_the_image_is_not_its_label(tmp_path: Path) -> None:
    write_series(tmp_path / "in", voxels())
    copy = voxels().astype(np.int16).T - 1024
    nib.save(nib.Nifti1Image(copy, np.array(AFFINE)), tmp_path / "in" / "ct.nii.gz")
    info, _, result = run(tmp_path / "in", tmp_path)
    assert not info["training"]
    assert any("ct.nii.gz is the image itself" in w for w in result.warnings)


def test_damaged_slice_is_named(tmp_path: Path) -> None:
    write_series(tmp_path / "in", voxels(), orientation=AXIAL)
    path = tmp_path / "in" / "a002.dcm"
    path.write_bytes(path.read_bytes()[:-40])
    message = refusal(tmp_path / "in", tmp_path)
    assert "a002.dcm" in message
