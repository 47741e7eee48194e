"""The measures behind the checks, on arrays whose answer is known; teeth; memory; the outputs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from check_faults import Folder, few_nan, label_shifted, truncated_image, unlike_unlabeled
from decathlon_files import make_dataset, write, write_json
from PIL import Image

from medssl import MedSSLError, check
from medssl.cli import run
from medssl.data.checks.label_measures import measure_structures
from medssl.data.checks.measures import repeated_slices, thumbnail
from medssl.data.checks.outliers import stand_alone
from medssl.data.checks.run import CheckReport, check_dataset
from medssl.data.checks.shift import frechet_distance
from medssl.data.checks.teeth import tooth_problems, tooth_values
from medssl.data.datasets.case import LabelMap
from medssl.data.datasets.decathlon import read_dataset
from medssl.data.phantoms.dataset import write_phantom
from medssl.reports.thumbnails import EDGE, draw_thumbnail

FDI = [10 * q + n for q in (1, 2, 3, 4) for n in range(1, 9)]


def test_thumbnail_keeps_the_mean_of_boxes() -> None:
    rng = np.random.default_rng(0)
    data = rng.normal(size=(64, 32, 96)).astype(np.float32)
    boxes = data.reshape(32, 2, 32, 1, 32, 3).mean((1, 3, 5)).ravel()
    boxes -= boxes.mean()
    np.testing.assert_allclose(thumbnail(data), boxes / np.linalg.norm(boxes), atol=1e-5)
    assert np.dot(thumbnail(data), thumbnail(3 * data + 9)) == pytest.approx(1, abs=1e-5)
    assert not thumbnail(np.full((9, 9, 9), 4.0)).any()


def test_frechet_distance_of_known_normals() -> None:
    # Samples with exactly these means and covariances: the corners of a box.
    corners = np.array([[x, y] for x in (-1, 1) for y in (-1, 1)], float)
    first, second = corners * [1, 2] * np.sqrt(3 / 4), corners * [3, 2] * np.sqrt(3 / 4) + [5, 0]
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(first, second) == pytest.approx(25 + (3 - 1) ** 2)


def test_structures() -> None:
    label = np.zeros((10, 10, 10), np.uint8)
    label[2:4, 4:6, 0:2] = 3
    label[8, 8, 8] = 3
    label[:, :, 9] = 5
    label[0, 0, 9] = 0
    label[5, 5, 5] = 7  # not declared
    found = measure_structures(label, (0, 3, 5, 6))
    assert set(found) == {3, 5}
    assert (found[3].voxels, found[3].isolated, found[3].full_planes) == (9, 1, ())
    assert found[3].center == pytest.approx(
        ((8 * 3 + 8.5) / 90, (8 * 5 + 8.5) / 90, (8 * 1 + 8.5) / 90)
    )
    assert (found[5].voxels, found[5].full_planes) == (99, ((2, 9),))


def test_repeated_slices_ignore_padding() -> None:
    data = np.random.default_rng(0).normal(size=(6, 7, 8))
    assert repeated_slices(data) == (0, [])
    data[:, 3:5] = data[:, 2:3]
    assert repeated_slices(data) == (1, [3, 4])
    data[:4] = 0
    assert repeated_slices(data)[1] == [3, 4]


def test_two_groups_do_not_stand_alone() -> None:
    column = np.array([[0.0], [0.1], [0.2], [5.0], [5.1]])
    assert not stand_alone(column)[3:].any()
    assert stand_alone(np.array([[0.0], [0.1], [0.2], [5.0]])).ravel().tolist()[3]


def mouth() -> tuple[np.ndarray, np.ndarray]:
    """Return a label map of 32 teeth in two arches, and its RAS affine (1 mm)."""
    label = np.zeros((60, 40, 30), np.uint8)
    for code in FDI:
        quadrant, number = divmod(code, 10)
        x = 30 + (1 if quadrant in (1, 4) else -1) * (3 * number - 1)
        y = 34 - 4 * (number - 1)
        z = 20 if quadrant in (1, 2) else 8
        label[x - 1 : x + 1, y - 1 : y + 1, z : z + 3] = code
    return label, np.eye(4)


def found_teeth(label: np.ndarray, affine: np.ndarray, values: list[int]) -> list[str]:
    labels = LabelMap((0, *values), ("background", *(f"tooth {v}" for v in values)))
    return [p.check for p in tooth_problems(label, affine, labels, Path("l.nii.gz"), "c")]


def test_teeth() -> None:
    label, affine = mouth()
    assert found_teeth(label, affine, FDI) == []
    assert found_teeth(label, np.diag([-1.0, 1, 1, 1]), FDI) == ["anatomy"]
    assert found_teeth(label, np.diag([1.0, -1, 1, 1]), FDI) == ["anatomy"]
    assert found_teeth(label, np.diag([1.0, 1, -1, 1]), FDI) == ["anatomy"]
    far = label.copy()
    far[far == 18] = 28
    assert found_teeth(far, affine, FDI) == ["tooth_pieces"]
    milk = label.copy()
    milk[0:2, 0:2, 0:2] = 55
    assert sorted(found_teeth(milk, affine, FDI)) == ["deciduous", "tooth_count"]
    assert found_teeth((label > 0).astype(np.uint8), affine, [1]) == []
    assert tooth_values(LabelMap((0, 1, 2), ("background", "jaw", "canal"))) == frozenset()


def test_mixed_offsets_of_cbct(tmp_path: Path) -> None:
    root = make_dataset(tmp_path, [f"c{n}" for n in range(5)], real=True, modality={"0": "CBCT"})
    for n in range(5):
        data = np.random.default_rng(n).normal(500, 100, (6, 5, 4)).astype(np.float32)
        data[:3] = -1000 if n != 2 else 0
        write(root / f"imagesTr/c{n}.nii.gz", data)
    report = check_dataset(read_dataset(root))
    offsets = [p for p in report.problems if p.check == "offset"]
    assert [p.file.name for p in offsets] == ["c2.nii.gz"]
    assert "about 0 in 1 cases (c2), at about -1000 in 4" in offsets[0].what


def test_hounsfield_outlier(tmp_path: Path) -> None:
    root = make_dataset(tmp_path, [f"c{n}" for n in range(7)], real=True, modality={"0": "CT"})
    for n in range(7):
        data = np.random.default_rng(n).normal(0, 100, (6, 5, 4))
        write(root / f"imagesTr/c{n}.nii.gz", (data + 1024 * (n == 4)).astype(np.int16))
    report = check_dataset(read_dataset(root))
    assert [p.file.name for p in report.problems if p.check == "intensity"] == ["c4.nii.gz"]


def test_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_dataset(tmp_path, ["a", "b"], real=True)
    write(root / "imagesTr/b.nii.gz", np.random.default_rng(0).normal(size=(60, 50, 40)))
    write(root / "labelsTr/b.nii.gz", np.ones((60, 50, 40), np.uint8))
    report = check_dataset(read_dataset(root))
    assert report.memory is not None
    assert report.memory.case == "b"
    assert report.memory.ram_gb == pytest.approx(40 * 120_000 / 1e9)
    assert report.memory.cache_gb == pytest.approx(3 * 120_120 / 1e9)

    class Small:
        available = 1_000_000

        @classmethod
        def virtual_memory(cls) -> type[Small]:
            return cls

    # Of this module alone: readers refuse files that do not fit into memory.
    monkeypatch.setattr("medssl.data.checks.resources.psutil", Small)
    again = check_dataset(read_dataset(root))
    assert [p.file.name for p in again.problems if p.check == "memory"] == ["b.nii.gz"]


def test_lists(tmp_path: Path) -> None:
    root = make_dataset(tmp_path, ["a_frame01", "p1_ED"], real=True)
    write(root / "imagesTr/extra.nii.gz", np.random.default_rng(5).normal(size=(6, 5, 4)))
    write(root / "imagesUn/p1_ES.nii.gz", np.random.default_rng(6).normal(size=(6, 5, 4)))
    report = check_dataset(read_dataset(root))
    notes = {p.check: p for p in report.problems if p.severity == "note"}
    assert notes["unlisted"].file.name == "extra.nii.gz"
    assert notes["patient"].file.name == "p1_ES.nii.gz"


def test_no_label_at_all_cannot_train(tmp_path: Path) -> None:
    root = make_dataset(tmp_path, ["a", "b"], real=True)
    info = json.loads((root / "dataset.json").read_text())
    info["training"] = [{"image": i["image"]} for i in info["training"]]
    write_json(root, info)
    report = check_dataset(read_dataset(root))
    assert not report.can_train
    assert "no_label" in {p.check for p in report.problems}


def test_an_unforeseen_failure_is_one_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_dataset(tmp_path, ["a", "b"], real=True)

    def fail(data: np.ndarray) -> np.ndarray:
        raise ZeroDivisionError("boom")

    monkeypatch.setattr("medssl.data.checks.read_case.thumbnail", fail)
    report = check_dataset(read_dataset(root))
    assert [p.what for p in report.problems if p.severity == "error"] == [
        "the case could not be checked (ZeroDivisionError: boom)"
    ] * 2


@pytest.fixture
def faulty(tmp_path: Path) -> Folder:
    root = tmp_path / "data"
    folder = Folder(write_phantom(root, labeled=6, unlabeled=4, test=2, shape=(28, 24, 14)))
    truncated_image(folder, 0)
    few_nan(folder, 1)
    label_shifted(folder, 2)
    unlike_unlabeled(folder, 3)
    return folder


def test_command_and_files(
    faulty: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, data = tmp_path / "page.html", tmp_path / "found.json"
    code = run(["check", str(faulty.root), "--html", str(page), "--json", str(data)])
    text = capsys.readouterr().out
    assert code == 2
    assert "13 cases: 3 errors, " in text
    assert "training cannot start" in text
    content = json.loads(data.read_text())
    assert content["can_train"] is False
    assert content["counts"]["error"] == 3
    severities = [p["severity"] for p in content["problems"]]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    repairable = {Path(p["file"]).name for p in content["problems"] if p["repairable"]}
    assert repairable == {"mr_002.nii.gz"}
    html = page.read_text()
    assert not re.findall(r'(?:src|href)="(?!data:)', html)
    assert "http" not in html
    assert html.count("data:image/jpeg;base64,") == 12  # the truncated one has no picture
    assert html.count("<figure>") == 13
    assert html.index("mr_001</b>") < html.index("mr_005</b>")  # problems first


def test_command_on_a_sound_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_phantom(tmp_path / "d", labeled=6, unlabeled=4, test=2, shape=(28, 24, 14))
    assert run(["check", str(root), "--spec", "mr_phantom"]) == 0
    assert "training can start" in capsys.readouterr().out


def test_command_with_repair(
    faulty: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(["check", str(faulty.root), "--repair", str(tmp_path / "copy")])
    text = capsys.readouterr().out
    assert code == 2
    assert "imagesTr/mr_002.nii.gz: 4 voxels get the value of the nearest voxel" in text
    assert "not repaired: imagesTr/mr_001.nii.gz" in text
    assert "not repaired: labelsTr/mr_003.nii.gz" in text


def test_refusals_before_any_work(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "d", ["a"], real=True)
    with pytest.raises(MedSSLError, match="its folder does not exist"):
        check(root, json_file=tmp_path / "no/where.json")
    with pytest.raises(MedSSLError, match="it is a folder"):
        check(root, html_file=tmp_path)
    with pytest.raises(MedSSLError, match="no such data spec"):
        check(root, spec="mr_hart")
    with pytest.raises(MedSSLError, match=r"no dataset\.json"):
        check(tmp_path)


def test_picture_has_true_proportions(tmp_path: Path) -> None:
    image = np.random.default_rng(0).normal(size=(40, 20, 10))
    label = np.zeros(image.shape, np.uint8)
    label[10:20, 5:15, 3:7] = 1
    path = tmp_path / "x.jpg"
    path.write_bytes(draw_thumbnail(image, label, np.diag([1.0, 1.0, 3.0, 1.0])))
    # Extents 40, 20 and 30: sagittal 20 x 30, coronal 40 x 30, axial 40 x 20.
    scale = EDGE / 40
    with Image.open(path) as picture:
        width, height = picture.size
        colors = np.asarray(picture).astype(int)
    assert width == pytest.approx(round(20 * scale) + 2 * EDGE + 8, abs=2)
    assert height == pytest.approx(30 * scale, abs=2)
    assert (colors[..., 0] - colors[..., 1]).max() > 60  # the outline is red, the letters are not


def test_report_of_unreadable_folder(tmp_path: Path) -> None:
    root = make_dataset(tmp_path, ["a", "b"])  # empty files
    report: CheckReport = check_dataset(read_dataset(root))
    assert report.count("error") == 4
    assert report.memory is None
