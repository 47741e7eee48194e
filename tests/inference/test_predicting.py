"""`medssl predict` as typed: which files come out, where viewers see them, what is said."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
from helpers import blob_case, small_recipe, write_dataset, write_itk, write_recipe

import medssl
from medssl import cli


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a one-channel network."""
    folder = tmp_path_factory.mktemp("run")
    data = write_dataset(folder / "data", cases=6)
    recipe = small_recipe(data, folder / "cache", method={"name": "supervised"})
    return medssl.train(write_recipe(folder / "recipe.yaml", recipe), output=folder / "run").path


@pytest.fixture
def ten(tmp_path: Path) -> Path:
    """Ten images: one cut short, one with a fourth axis, eight good ones."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(10):
        image, _ = blob_case(number)
        image = np.stack([image, image], -1) if number == 6 else image
        nib.save(nib.Nifti1Image(image, np.diag([-1, -1, 2, 1])), folder / f"c{number}.nii.gz")
    cut = folder / "c3.nii.gz"
    cut.write_bytes(cut.read_bytes()[:4000])
    return folder


def test_ten_images_two_of_them_bad(
    run: Path, ten: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["predict", str(run), str(ten), "--output", str(out), "--device", "cpu"]
    good = [f"c{n}.nii.gz" for n in range(10) if n not in (3, 6)]
    good += ["predictions.json", "volumes.csv"]

    assert cli.run(command) == 1
    assert sorted(p.name for p in out.iterdir()) == good
    said = capsys.readouterr()
    assert "8 predictions" in said.out
    first, second = said.err.strip().split("failed: ")[1:]  # the last that is printed
    assert first.startswith("c3: the file is truncated or damaged")
    assert f"where: {ten / 'c3.nii.gz'}" in first
    assert second.startswith("c6: the network takes 1 image channel(s), this image has 2")
    assert f"where: {ten / 'c6.nii.gz'}" in second
    assert first.count("fix: ") == second.count("fix: ") == 1

    (out / "c5.nii.gz").unlink()
    stamps = {p.name: p.stat().st_mtime_ns for p in out.glob("*.nii.gz")}
    image, _ = blob_case(3)
    nib.save(nib.Nifti1Image(image, np.eye(4)), ten / "c3.nii.gz")
    assert cli.run(command) == 1
    assert sorted(p.name for p in out.iterdir()) == sorted([*good, "c3.nii.gz"])
    assert {n: (out / n).stat().st_mtime_ns for n in stamps} == stamps
    said = capsys.readouterr()
    assert "9 predictions" in said.out
    assert "7 of them were there" in said.out
    assert said.err.count("failed: ") == 1

    (ten / "c6.nii.gz").unlink()
    assert cli.run(command) == 0


def oblique_lps() -> np.ndarray:
    """Return a RAS affine of axes near L, P, S, turned about two of them, off the origin."""
    a, b = np.deg2rad(14), np.deg2rad(-11)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_y @ np.diag([-1.4, -1.1, 3.0])
    affine[:3, 3] = [64.5, 101.25, -730.0]
    return affine


@pytest.mark.parametrize(
    ("suffix", "code"),
    [(".nii.gz", "sform"), (".nii.gz", "qform"), (".nii.gz", "both"), (".nrrd", ""), (".mha", "")],
)
def test_itk_sees_image_and_prediction_in_one_place(
    run: Path, tmp_path: Path, suffix: str, code: str
) -> None:
    source = tmp_path / f"image{suffix}"
    array, affine = blob_case(1)[0], oblique_lps()
    if suffix == ".nii.gz":
        image = nib.Nifti1Image(array, affine)
        image.set_sform(affine, code=0 if code == "qform" else 1)
        image.set_qform(affine, code=0 if code == "sform" else 1)
        nib.save(image, source)
    else:
        write_itk(source, array, affine)
    seen = sitk.ReadImage(str(source))
    for name in ("nii.gz", "nii", "nrrd", "mha"):
        [result] = medssl.predict(run, [source], tmp_path / "out", device="cpu", format=name)
        assert result.path == tmp_path / "out" / f"image.{name}"
        ours = sitk.ReadImage(str(result.path))
        assert ours.GetSize() == seen.GetSize()
        for asked in ("GetOrigin", "GetSpacing", "GetDirection"):
            # NIfTI keeps float32: 730 mm off the origin that is good to 3e-5 mm.
            np.testing.assert_allclose(
                getattr(ours, asked)(), getattr(seen, asked)(), atol=1e-4, err_msg=f"{name} {asked}"
            )


def unopened_run(folder: Path) -> Path:
    """Return what passes for a run until it is opened."""
    (folder / "gone").mkdir()
    (folder / "gone" / "recipe.yaml").write_text("")
    return folder / "gone"


def test_a_format_that_does_not_exist_is_refused_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = unopened_run(tmp_path)
    command = ["predict", str(run), str(tmp_path), "--output", str(tmp_path / "out")]
    assert cli.run([*command, "--format", "dicom"]) == 2
    said = capsys.readouterr().err
    assert "there is no output format 'dicom'" in said
    assert "nii.gz, nii, nrrd, mha, dicom-seg" in said
    assert not (tmp_path / "out").exists()


def test_dicom_seg_of_a_nifti_is_refused_by_name(
    ten: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("highdicom")
    run = unopened_run(tmp_path)
    command = ["predict", str(run), str(ten), "--output", str(tmp_path / "out")]
    assert cli.run([*command, "--format", "dicom-seg"]) == 2
    said = capsys.readouterr().err
    assert "DICOM-SEG and RTSTRUCT belong to a DICOM series" in said
    assert str(ten) in said
    assert not (tmp_path / "out").exists()


def test_a_dicom_study_as_typed(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("highdicom")
    from dicom_files import write_series

    for seed, name in ((1, "a"), (2, "b")):
        stored = (blob_case(seed)[0].T + 1024).clip(0).astype(np.uint16)
        write_series(
            tmp_path / "study" / name, stored, series=name, spacing=(1.0, 1.0), Modality="MR"
        )
    command = ["predict", str(run), str(tmp_path / "study"), "--output", str(tmp_path / "out")]
    assert cli.run([*command, "--device", "cpu", "--format", "dicom-seg"]) == 0
    assert "2 predictions" in capsys.readouterr().out
    assert cli.run([*command, "--device", "cpu"]) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        *(
            "predictions.json",
            "study_a_s1.dcm",
            "study_a_s1.nii.gz",
            "study_b_s1.dcm",
            "study_b_s1.nii.gz",
            "volumes.csv",
        )
    ]


def test_one_bad_input_does_not_stop_the_others(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = tmp_path / "good.nii"
    nib.save(nib.Nifti1Image(blob_case(1)[0], np.eye(4)), good)
    (tmp_path / "empty").mkdir()
    bad = [tmp_path / "gone.nii", tmp_path / "empty"]
    out = ["--output", str(tmp_path / "out"), "--device", "cpu"]
    assert cli.run(["predict", str(run), *map(str, [bad[0], good, bad[1]]), *out]) == 1
    said = capsys.readouterr()
    assert "1 predictions" in said.out
    assert f"failed: {bad[0]}: there is no such file or folder" in said.err
    assert f"failed: {bad[1]}: no image found" in said.err
    assert cli.run(["predict", str(run), *map(str, bad), *out]) == 2


def test_scans_numbered_from_0000_are_scans(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for n in range(3):
        nib.save(nib.Nifti1Image(blob_case(n)[0], np.eye(4)), folder / f"scan_{n:04d}.nii")
    results = medssl.predict(run, [folder], tmp_path / "out", device="cpu")
    assert [r.case_id for r in results] == ["scan_0000", "scan_0001", "scan_0002"]
    assert all(r.error is None for r in results)


def test_a_sheared_image_is_written_where_it_lies_or_refused(run: Path, tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(blob_case(1)[0].T)
    c, s = np.cos(0.2), np.sin(0.2)
    image.SetDirection((1, 0, 0, 0, 1, s, 0, 0, c))
    image.SetOrigin((20, 30, 10))
    sitk.WriteImage(image, str(tmp_path / "tilt.nrrd"))
    [result] = medssl.predict(run, [tmp_path / "tilt.nrrd"], tmp_path / "out", device="cpu")
    assert result.path is None
    assert "not at right angles" in str(result.error)
    assert "--format nrrd" in str(result.error)
    for name in ("nrrd", "mha"):
        [result] = medssl.predict(
            run, [tmp_path / "tilt.nrrd"], tmp_path / "out", device="cpu", format=name
        )
        ours = sitk.ReadImage(str(result.path))
        assert ours.GetSize() == image.GetSize()
        for index in [(0, 0, 0), (23, 23, 11), (5, 0, 11)]:
            np.testing.assert_allclose(
                ours.TransformIndexToPhysicalPoint(index),
                image.TransformIndexToPhysicalPoint(index),
                atol=1e-3,
            )


def test_a_header_read_in_another_way_is_told_once(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from nifti_headers import write_raw

    for n in range(3):
        write_raw(tmp_path / "in" / f"c{n}.nii", blob_case(n)[0], pixdim=(1, 1, 2))
    command = ["predict", str(run), str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    with caplog.at_level("INFO", logger="medssl"):
        assert cli.run([*command, "--device", "cpu"]) == 0
    said = " ".join(caplog.text.split())
    assert said.count("codes no orientation") == 1
    assert "note: c0: the header codes no orientation" in said
    assert "(3 such images)" in said


def test_each_structure_has_a_probability_file(tmp_path: Path) -> None:
    import json

    data = write_dataset(tmp_path / "data", cases=6)
    header = json.loads((data / "dataset.json").read_text())
    header["labels"] = {"0": "background", "1": "肝脏", "2": "肿瘤"}
    (data / "dataset.json").write_text(json.dumps(header))
    recipe = small_recipe(data, tmp_path / "cache", method={"name": "supervised"})
    path = write_recipe(tmp_path / "recipe.yaml", recipe)
    own = medssl.train(path, output=tmp_path / "run").path
    image = next((data / "imagesTr").iterdir())
    medssl.predict(own, [image], tmp_path / "out", device="cpu", probabilities=True)
    stem = image.name.removesuffix(".nii.gz")
    maps = sorted((tmp_path / "out" / "probabilities").iterdir())
    assert [p.name for p in maps] == [f"{stem}_{n}.nii.gz" for n in ("肝脏", "肿瘤")]
    first, second = (np.asarray(nib.load(p).dataobj) for p in maps)
    assert not np.array_equal(first, second)


def test_a_gallery_and_volumes_beside_the_maps(
    run: Path, ten: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["predict", str(run), str(ten), "--output", str(out), "--device", "cpu"]
    assert cli.run([*command, "--gallery"]) == 1
    page = (out / "gallery.html").read_text()
    assert f"gallery: {out / 'gallery.html'}" in capsys.readouterr().out.replace("\n", "")
    assert page.count("data:image/jpeg") == 8
    assert "8 predicted" in page
    assert "2 failed" in page
    assert "the file is truncated or damaged" in page
    with (out / "volumes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["case"] for row in rows} == {f"c{n}" for n in range(10) if n not in (3, 6)}
    for row in rows:
        values = np.asarray(nib.load(out / f"{row['case']}.nii.gz").dataobj)
        assert float(row["volume_mm3"]) == 2 * (values == int(row["label"])).sum()
    stamps = {p.name: p.stat().st_mtime_ns for p in out.glob("*.nii.gz")}
    (out / "volumes.csv").unlink()
    assert cli.run([*command, "--gallery"]) == 1  # what is there is drawn, not predicted again
    assert {p.name: p.stat().st_mtime_ns for p in out.glob("*.nii.gz")} == stamps
    assert (out / "gallery.html").read_text() == page


def test_a_scan_is_opened_four_times_and_unpacked_once(run: Path, tmp_path: Path) -> None:
    """Its header before anything is read, its voxels, its header for the map, its bytes' hash."""
    image, _ = blob_case(0)
    scan, opened, listening = tmp_path / "one.nii.gz", [], True
    nib.save(nib.Nifti1Image(image, np.diag([-1, -1, 2, 1])), scan)

    def listen(event: str, arguments: tuple[object, ...]) -> None:
        if listening and event == "open" and str(arguments[0]) == str(scan):
            opened.append(sys._getframe(1).f_code.co_filename)

    sys.addaudithook(listen)
    medssl.predict(run, scan, tmp_path / "out", device="cpu")
    listening = False
    assert len(opened) == 4, opened
