"""OCT files: voxels, micrometers, orientation and labels against the arrays they were made of.

Every format is read from a file that the test writes byte by byte. The Topcon, Bioptigen and .e2e
files were also read once with oct-converter 0.7, which found the same voxels.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import scipy.io
import SimpleITK as sitk  # noqa: N813
from dicom_files import add_pixels, header, item
from oct_files import (
    FLT_MAX,
    write_bioptigen,
    write_e2e,
    write_fda,
    write_mhd,
    write_vol,
)

from medssl.data.importers.dataset import import_dataset
from medssl.data.importers.oct_scan import check_raster, layer_labels, nominal_affine
from medssl.data.preprocessing.tensors import read_images
from medssl.errors import MedSSLError

pytest.importorskip("pydicom")

SHAPE = (3, 6, 5)  # B-scans, depth, A-scans


def voxels(seed: int = 0, shape: tuple[int, ...] = SHAPE, top: int = 4000) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, top, shape).astype(np.uint16)


def run(tmp_path: Path, **options: object) -> tuple[dict, nib.Nifti1Image, object]:
    """Import ``in``; return dataset.json, its first image and the result."""
    out = tmp_path / "out"
    shutil.rmtree(out, ignore_errors=True)
    result = import_dataset("oct", tmp_path / "in", out, options=options)
    info = json.loads((out / "dataset.json").read_text())
    first = (info["training"] + info["unlabeled"] + info["test"])[0]
    return info, nib.load(out / first["image"]), result


def refusal(tmp_path: Path, **options: object) -> str:
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    with pytest.raises(MedSSLError) as caught:
        import_dataset("oct", tmp_path / "in", tmp_path / "out", options=options)
    assert not (tmp_path / "out").exists()
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def assert_volume(
    image: nib.Nifti1Image, bscans: np.ndarray, spacing: tuple, *, upward: bool
) -> None:
    """Check voxels ``(B-scan, depth, A-scan)``, micrometers, orientation and center."""
    assert np.array_equal(np.asarray(image.dataobj), bscans.transpose(2, 0, 1))
    assert image.header.get_xyzt_units()[0] == "micron"
    assert np.allclose(image.header.get_zooms(), spacing, rtol=1e-6)
    assert nib.aff2axcodes(image.affine) == ("L", "S" if upward else "I", "P")
    assert int(image.header["sform_code"]) == 2
    read = read_images([image.get_filename()], spatial_unit="um")
    assert np.allclose(read.affine, image.affine, atol=1e-4)
    middle = (np.array(image.shape) - 1) / 2
    assert np.allclose(image.affine @ [*middle, 1], [0, 0, 0, 1], atol=1e-3)


def test_nominal_affine_by_hand() -> None:
    affine = nominal_affine((5, 3, 9), (10.0, 100.0, 4.0), upward=True)
    assert np.allclose(affine @ [0, 0, 0, 1], [20, 16, -100, 1])  # right, front, below
    assert np.allclose(affine @ [4, 2, 8, 1], [-20, -16, 100, 1])
    down = nominal_affine((5, 3, 9), (10.0, 100.0, 4.0), upward=False)
    assert np.allclose(down @ [4, 2, 8, 1], [-20, -16, -100, 1])


def test_layer_labels_by_hand() -> None:
    boundaries = np.array([[[1.0, 2.5, 1.0, 5.0]], [[3.0, 2.0, np.nan, 1.0]]])  # (N, A, B)
    label = layer_labels(boundaries, 6)[0]
    assert label[0].tolist() == [0, 1, 1, 2, 2, 2]
    assert label[1].tolist() == [0, 0, 0, 2, 2, 2]  # crossing by half a voxel: pushed down
    assert label[2].tolist() == [255] * 6  # missing
    assert label[3].tolist() == [255] * 6  # crossing by four voxels


def test_heidelberg_vol(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("eyepy")
    raw = np.random.default_rng(0).uniform(0.001, 1, SHAPE).astype(np.float32)
    raw[0, 0, 0], raw[2, 5, 4] = FLT_MAX, 0.5
    layers = np.full((3, 3, 5), FLT_MAX)
    layers[:, 0], layers[:, 1], layers[:2, 2] = 1.0, 4.5, 2.0  # ILM, BM, RNFL
    write_vol(folder / "Secret_Name.vol", raw, layers=layers)
    info, image, _ = run(tmp_path)
    shown = np.clip((np.log(raw.astype(np.float64) + 2.44e-4) + 8.3) / 8.285, 0, 1) * 255
    shown[0, 0, 0] = 0
    assert_volume(
        image, np.asarray(image.dataobj).transpose(1, 2, 0), (11.7, 120, 3.9), upward=True
    )
    assert np.abs(np.asarray(image.dataobj).transpose(1, 2, 0) - shown).max() <= 0.5
    entry = info["unlabeled"][0]
    assert re.fullmatch("p[0-9a-f]{12}", entry["patient"])
    assert entry["image"] == f"./imagesUn/{entry['patient']}_os_01.nii.gz"
    assert (entry["laterality"], entry["device"]) == ("OS", "Heidelberg Spectralis")
    side = np.load(tmp_path / "out" / entry["sidecar"])
    assert side["boundary_names"].tolist() == ["ILM", "BM", "RNFL"]
    assert np.allclose(side["boundaries_um"][1], 4.5 * 3.9)
    assert np.isnan(side["boundaries_um"][2, :, 2]).all()
    assert np.allclose(side["positions_mm"][2], [1.0, 4.76, 1.0585, 4.76], atol=1e-6)
    for path in (tmp_path / "out").rglob("*.*"):
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        assert b"Secret" not in content + str(path.relative_to(tmp_path)).encode(), path
    info, image, _ = run(tmp_path, layers="ILM,RNFL,BM")
    label = np.asarray(nib.load(tmp_path / "out" / info["training"][0]["label"]).dataobj)
    assert label[0, 0].tolist() == [0, 1, 2, 2, 2, 3]
    assert (label[:, 2] == 255).all()  # no RNFL boundary there
    expected = {"1": "ILM to RNFL", "2": "RNFL to BM", "3": "below BM", "255": "ignore"}
    assert info["labels"] == {"0": "background", **expected}
    assert "the file has no boundary 'ELM'" in refusal(tmp_path, layers="ILM,ELM")


def test_scans_that_are_no_horizontal_raster_are_named(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("eyepy")
    raw = np.random.default_rng(0).uniform(0.001, 1, SHAPE).astype(np.float32)
    write_vol(folder / "star.vol", raw, pattern=5)
    write_vol(folder / "good.vol", raw)
    _, _, result = run(tmp_path)
    assert "left out star.vol: a radial (star) scan" in result.notes
    (folder / "star.vol").unlink()
    write_vol(folder / "good.vol", raw, starts=[(2, 1, 2, 3), (3, 1, 3, 3), (4, 1, 4, 3)])
    assert "B-scans stand upright" in refusal(tmp_path)
    down = [(1, 1 + 0.12 * j, 2, 1 + 0.12 * j) for j in range(3)]
    write_vol(folder / "good.vol", raw, starts=down)
    _, image, _ = run(tmp_path)
    assert nib.aff2axcodes(image.affine) == ("L", "I", "P")
    (folder / "good.vol").write_bytes((folder / "good.vol").read_bytes()[:-8])
    assert "cannot be read" in refusal(tmp_path)


def test_heidelberg_e2e_needs_spacing(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("eyepy")
    # Values that the 16-bit float holds exactly.
    raw = np.random.default_rng(1).choice([2**-7, 2**-4, 0.5, 0.75, 1.0], SHAPE)
    write_e2e(folder / "scan.e2e", raw)
    message = refusal(tmp_path)
    assert "do not hold the spacing" in message
    assert "--option lateral_um=" in message
    info, image, _ = run(tmp_path, lateral_um=11.5, bscan_um=120)
    shown = np.clip((np.log(raw + 2.44e-4) + 8.3) / 8.285, 0, 1) * 255
    array = np.asarray(image.dataobj).transpose(1, 2, 0)
    assert_volume(image, array, (11.5, 120, 3.9), upward=True)
    assert np.abs(array - shown).max() <= 0.5
    assert info["unlabeled"][0]["laterality"] == "OS"
    write_e2e(folder / "scan.e2e", raw, pattern=2)
    assert "nothing of the format 'oct'" in refusal(tmp_path)


def test_a_gap_or_a_repeat_among_the_bscans_is_refused(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("eyepy")
    raw = np.random.default_rng(1).choice([2**-7, 2**-4, 0.5, 0.75, 1.0], (6, *SHAPE[1:]))
    spacing = {"lateral_um": 11.5, "bscan_um": 120}
    write_e2e(folder / "scan.e2e", raw, without=[2])
    assert "B-scan 3 of 6 has no image: the volume has a gap" in refusal(tmp_path, **spacing)
    write_e2e(folder / "scan.e2e", raw, announced=8)
    assert "B-scan 7 of 8 (and 1 more) has no image" in refusal(tmp_path, **spacing)
    for place, message in ((4.0, "after B-scan 3 of 6 the next is 2"), (2.0, "the next is 0")):
        write_e2e(folder / "scan.e2e", raw, places=[0, 1, 2, place, place + 1, place + 2])
        assert message in refusal(tmp_path, **spacing)


def test_bscans_without_data_and_every_other_one_missing_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("eyepy")
    raw = np.random.default_rng(1).choice([2**-7, 2**-4, 0.5, 0.75, 1.0], (6, *SHAPE[1:]))
    raw[:, 0, 0] = FLT_MAX  # a voxel without data is no missing B-scan
    write_vol(folder / "scan.vol", raw)
    assert run(tmp_path)[1].shape[2] == SHAPE[1]
    raw[[0, 5]] = FLT_MAX
    write_vol(folder / "scan.vol", raw)
    assert "B-scan 1 of 6 (and 1 more) has no image" in refusal(tmp_path)
    raw[[0, 5]] = 0.5
    starts = [(1.0, 5 - 0.24 * j, 2.0, 5 - 0.24 * j) for j in range(6)]
    write_vol(folder / "scan.vol", raw, starts=starts)
    assert "lie 0.24 apart, but the file says 0.12" in refusal(tmp_path)


def test_evenly_spaced_bscans() -> None:
    even = np.arange(8)[:, None] * [0.0, 0.12]
    check_raster(even, Path("a"))
    check_raster(even[::-1], Path("a"))
    check_raster(np.zeros((8, 2)), Path("a"))  # nothing recorded
    check_raster(even + np.random.default_rng(0).normal(0, 0.01, even.shape), Path("a"))
    with pytest.raises(MedSSLError, match=r"after B-scan 4 of 7 the next is 0.24 away, 0.12"):
        check_raster(np.delete(even, 4, axis=0), Path("a"))


@pytest.mark.parametrize("jpeg", [False, True])
def test_topcon_fda(folder: Path, tmp_path: Path, jpeg: bool) -> None:
    shape = (3, 16, 12)
    volume = voxels(2, shape, 255).astype(np.uint8) if jpeg else voxels(2, shape, 30000)
    write_fda(folder / "a.fda", volume, jpeg=jpeg, scan="02" if jpeg else "04", eye=1)
    info, image, _ = run(tmp_path)
    assert_volume(image, volume, (10, 100, 2.6), upward=False)
    assert info["unlabeled"][0]["device"] == "Topcon 3DOCT-2000"
    assert info["unlabeled"][0]["laterality"] == "OS"
    raw = (folder / "a.fda").read_bytes()
    (folder / "a.fda").write_bytes(raw[:100])
    assert "ends inside its chunk" in refusal(tmp_path)
    (folder / "a.fda").write_bytes(b"no" + raw)
    assert "no Topcon .fda file" in refusal(tmp_path)


def test_zeiss_img_by_size(folder: Path, tmp_path: Path) -> None:
    volume = voxels(3, (12, 40, 30), 255).astype(np.uint8)
    path = folder / "P42_Macular Cube 30x12_OD_sn1_cube_z.img"
    # In the file both axes of a B-scan run backwards.
    path.write_bytes(volume[:, ::-1, ::-1].tobytes())
    path.with_name(path.name.replace("_z", "_raw")).write_bytes(b"raw")
    path.with_name("P42_lslo.img").write_bytes(b"picture")
    assert "14400 bytes are not a Cirrus cube (512x128x1024 or 200x200x1024)" in refusal(tmp_path)
    info, image, result = run(tmp_path, size="30,12,40", lateral_um=6)
    assert_volume(image, volume, (6, 500, 50), upward=False)
    assert info["unlabeled"][0]["laterality"] == "OD"
    assert "a field of 6 x 6 mm, 2 mm deep, is assumed" in result.notes[0]
    _, image, _ = run(tmp_path, size="30x12x40", first_bscan="inferior")
    assert nib.aff2axcodes(image.affine) == ("L", "S", "P")
    path.rename(folder / "P42_Cube 200x200_OD.img")
    assert "the name says 200x200, but 14400 bytes are 30x12x40" in refusal(
        tmp_path, size="30,12,40"
    )


def test_zeiss_sizes_of_the_real_cubes(folder: Path) -> None:
    from medssl.data.importers.oct_raw import read_zeiss

    path = folder / "P1_Optic Disc Cube 200x200_OS_cube_z.img"
    with path.open("wb") as file:  # sparse: takes no room
        file.truncate(40_960_000)
        file.seek(40_960_000 - 200 * 1024 * 200)
        file.write(b"\x07")
    scan = read_zeiss(path, None)
    assert scan.image.shape == (200, 200, 1024)
    assert scan.spacing_um == (30, 30, 2000 / 1024)
    assert np.argwhere(scan.image).tolist() == [[199, 0, 1023]]


def test_bioptigen(folder: Path, tmp_path: Path) -> None:
    volume = voxels(4)  # B-scan, A-scan, depth in the file
    write_bioptigen(folder / "eye_OD.OCT", volume)
    message = refusal(tmp_path)
    assert "this one says 6 x 6 mm, 6 deep" in message
    _, image, _ = run(tmp_path, lateral_um=8, bscan_um=80, axial_um=3.2)
    assert_volume(image, volume.transpose(0, 2, 1), (8, 80, 3.2), upward=False)
    spacing = {"lateral_um": 8, "bscan_um": 80, "axial_um": 3.2}
    write_bioptigen(folder / "eye_OD.OCT", volume, kind=3)
    assert "a radial scan" in refusal(tmp_path, **spacing)
    write_bioptigen(folder / "eye_OD.OCT", volume, repeats=3)
    assert "3 frames at 1 places" in refusal(tmp_path, **spacing)


def write_opt(
    path: Path,
    volume: np.ndarray,
    lines: list[list[float]] | None,
    places: list[list[float]] | None = None,
    **measures,
) -> None:
    """Write a DICOM OPT with its spacing in the shared functional groups."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence
    from pydicom.uid import OphthalmicTomographyImageStorage

    data = header(OphthalmicTomographyImageStorage, Modality="OPT", NumberOfFrames=len(volume))
    data.ImageLaterality, data.Manufacturer = "R", "Maker"
    add_pixels(data, volume)
    shared = Dataset()
    shared.PixelMeasuresSequence = item(PixelSpacing=[0.004, 0.012], **measures)
    data.SharedFunctionalGroupsSequence = Sequence([shared])
    if lines is not None:
        frames = []
        for line in lines:
            group = Dataset()
            group.OphthalmicFrameLocationSequence = item(ReferenceCoordinates=line)
            frames.append(group)
        data.PerFrameFunctionalGroupsSequence = Sequence(frames)
    if places is not None:
        frames = []
        for place in places:
            group = Dataset()
            group.PlanePositionSequence = item(ImagePositionPatient=place)
            frames.append(group)
        data.PerFrameFunctionalGroupsSequence = Sequence(frames)
    data.save_as(path, enforce_file_format=True)


def test_dicom_opt_with_a_gap(folder: Path, tmp_path: Path) -> None:
    volume = np.random.default_rng(3).integers(0, 4000, (6, *SHAPE[1:])).astype(np.uint16)
    even = [[0.0, 0.12 * j, 0.0] for j in range(7)]
    write_opt(folder / "a.dcm", volume, None, places=even[:6], SliceThickness=0.3)
    assert run(tmp_path)[1].header.get_zooms()[:3] == pytest.approx((12, 120, 4))
    write_opt(folder / "a.dcm", volume, None, places=even[:3] + even[4:], SliceThickness=0.3)
    for options in ({}, {"bscan_um": 120}):  # neither tells where the gap is
        assert "after B-scan 3 of 6 the next is 0.24 away" in refusal(tmp_path, **options)


def test_dicom_opt(folder: Path, tmp_path: Path) -> None:
    volume = voxels(5)
    lines = [[300.0 - 10 * j, 20, 300.0 - 10 * j, 400] for j in range(3)]
    write_opt(folder / "a.dcm", volume, lines, SliceThickness=0.1)
    info, image, _ = run(tmp_path)
    assert_volume(image, volume, (12, 100, 4), upward=True)  # the first line is the lowest
    assert info["unlabeled"][0]["laterality"] == "OD"
    write_opt(folder / "a.dcm", volume, None, SliceThickness=0.1, SpacingBetweenSlices=0.06)
    _, image, _ = run(tmp_path)
    assert_volume(image, volume, (12, 60, 4), upward=False)
    write_opt(folder / "a.dcm", volume, None)
    assert "how far apart" in refusal(tmp_path)
    _, image, _ = run(tmp_path, bscan_um=50)
    assert_volume(image, volume, (12, 50, 4), upward=False)
    turned = [[200, 100, 200, 300], [100, 200, 300, 200.0], [130, 130, 270, 270]]
    write_opt(folder / "a.dcm", volume, turned, SliceThickness=0.1)
    assert "a radial scan: its B-scans turn by 90 degrees" in refusal(tmp_path)


def test_retouch(folder: Path, tmp_path: Path) -> None:
    shapes = {"Cirrus/TRAIN001": (3, 1024, 4), "Spectralis/TRAIN025": (3, 496, 4)}
    truth = {}
    for name, shape in shapes.items():
        image = voxels(6, shape, 200).astype(np.uint16 if "Spectralis" in name else np.uint8)
        label = np.zeros(shape, np.uint8)
        label[0, 10:20, 1], label[2, 30, 0], label[1, 400, 3] = 1, 2, 3
        write_mhd(folder / name / "oct.mhd", image, (0.0117, 0.0039, 0.12))
        write_mhd(folder / name / "reference.mhd", label, (0.0117, 0.0039, 0.12))
        truth[name.split("/")[1]] = image, label
    write_mhd(folder / "RETOUCH-TestSet" / "TEST005" / "oct.mhd", image, (0.01, 0.004, 0.1))
    info, image, _ = run(tmp_path)
    assert info["labels"] == {"0": "background", "1": "IRF", "2": "SRF", "3": "PED"}
    assert [e["patient"] for e in info["training"]] == ["TRAIN001", "TRAIN025"]
    assert [e["patient"] for e in info["test"]] == ["TEST005"]
    assert info["training"][1]["device"] == "Heidelberg Spectralis"
    for entry, upward in zip(info["training"], (False, True), strict=True):
        pixels, label = truth[entry["patient"]]
        image = nib.load(tmp_path / "out" / entry["image"])
        assert_volume(image, pixels, (11.7, 120, 3.9), upward=upward)
        written = nib.load(tmp_path / "out" / entry["label"])
        assert np.array_equal(np.asarray(written.dataobj), label.transpose(2, 0, 1))
        assert np.array_equal(written.affine, image.affine)
        # SimpleITK converts the file's micrometers to the millimeters it always uses.
        assert np.allclose(
            sitk.ReadImage(image.get_filename()).GetSpacing(), (0.0117, 0.12, 0.0039)
        )
    label[0, 0, 0] = 4
    write_mhd(folder / "Spectralis/TRAIN025" / "reference.mhd", label, (0.0117, 0.0039, 0.12))
    assert "not declared: 4 (1 voxels)" in refusal(tmp_path)


def write_duke(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Write a Duke DME file whose second B-scan alone is annotated, without its first A-scan."""
    depth, width, count = 30, 5, 3
    images = voxels(7, (depth, width, count), 255).astype(np.float64)
    layers = np.full((8, width, count), np.nan)
    layers[:, 1:, 1] = 3.0 + 3 * np.arange(8)[:, None]  # rows 3, 6, ... counted from 1
    fluid = np.zeros((depth, width, count))
    fluid[10:13, 2, 1], fluid[20, 4, 1] = 1, 2  # two pockets
    content = {"images": images, "manualLayers1": layers, "manualFluid1": fluid}
    scipy.io.savemat(path, content | {"manualLayers2": layers, "manualFluid2": 0 * fluid})
    return images, fluid


def test_duke_fluid_and_layers(folder: Path, tmp_path: Path) -> None:
    images, fluid = write_duke(folder / "Subject_01.mat")
    info, image, _ = run(tmp_path)
    assert_volume(image, images.transpose(2, 0, 1), (11.33, 123, 3.87), upward=True)
    assert info["labels"] == {"0": "background", "1": "fluid", "255": "ignore"}
    label = np.asarray(nib.load(tmp_path / "out" / info["training"][0]["label"]).dataobj)
    assert (label[:, [0, 2]] == 255).all()
    assert (label[0, 1] == 255).all()
    assert np.array_equal(label[1:, 1], (fluid[:, 1:, 1] > 0).T)
    info, _, _ = run(tmp_path, grader=2)
    label = np.asarray(nib.load(tmp_path / "out" / info["training"][0]["label"]).dataobj)
    assert not (label == 1).any()
    info, _, _ = run(tmp_path, target="layers")
    label = np.asarray(nib.load(tmp_path / "out" / info["training"][0]["label"]).dataobj)
    assert label[3, 1, :8].tolist() == [0, 0, 1, 1, 1, 2, 2, 2]  # row 3 of MATLAB is index 2
    assert (label[:, [0, 2]] == 255).all()
    assert label[4, 1].max() == 8
    assert info["labels"]["8"] == "below BM"
    side = np.load(tmp_path / "out" / info["training"][0]["sidecar"])
    assert np.allclose(side["boundaries_um"][0, 1:, 1], 2 * 3.87)
    scipy.io.savemat(folder / "other.mat", {"images": images})
    assert "no file of the Duke DME data" in refusal(tmp_path)


def test_missing_extra_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib

    real = importlib.import_module

    def without(name: str, *args: object) -> object:
        if name.startswith("eyepy"):
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(importlib, "import_module", without)
    write_vol(folder / "a.vol", np.full(SHAPE, 0.5, np.float32))
    assert 'pip install "medssl[oct]"' in refusal(tmp_path)


def test_several_eyes_of_one_patient(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("eyepy")
    raw = np.full(SHAPE, 0.5, np.float32)
    for number, side in enumerate((b"OD", b"OS", b"OS")):
        raw[0, 0, number] = 0.1
        write_vol(folder / f"{number}.vol", raw, side=side)
    info, _, _ = run(tmp_path)
    ids = [Path(e["image"]).name.removesuffix(".nii.gz") for e in info["unlabeled"]]
    [patient] = {e["patient"] for e in info["unlabeled"]}
    assert ids == [f"{patient}_{name}" for name in ("od_01", "os_01", "os_02")]
    info, _, _ = run(tmp_path, keep_patient_id=True)
    assert info["unlabeled"][0]["patient"] == "Secret_Name"
