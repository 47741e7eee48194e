"""Summaries, intervals, comparisons, and the evaluation of folders of files."""

from __future__ import annotations

import csv
import gzip
import json
import math
import os
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from rich.console import Console

from medssl.cli.console import out
from medssl.data.datasets.case import LabelMap
from medssl.data.images.labels import read_label
from medssl.errors import MedSSLError
from medssl.evaluation.case_metrics import POLICY, Measures, case_columns, evaluate_case
from medssl.evaluation.folders import evaluate_folders
from medssl.evaluation.summary import (
    read_cases_csv,
    summarize,
    write_cases_csv,
)
from medssl.evaluation.summary_table import format_table, summary_text
from medssl.files import write_json

LABELS = LabelMap(values=(0, 1, 7), names=("background", "liver", "tumor"))
AFFINE = np.array([[-1.5, 0, 0, 40.0], [0, 1.5, 0, -30.0], [0, 0, 4.0, 12.5], [0, 0, 0, 1]])


def row(case: str, dice: float, name: str = "liver", status: str = "ok", **more) -> dict:
    """Return a row of cases.csv whose other metrics follow from Dice."""
    label = dict(zip(LABELS.names, LABELS.values, strict=True))[name]
    return {
        "case": case,
        "label": label,
        "name": name,
        "dice": dice,
        "iou": dice / (2 - dice),
        "hd95_mm": 10 * (1 - dice),
        "assd_mm": 1 - dice,
        "nsd": dice,
        "volume_reference_mm3": 1000.0,
        "volume_prediction_mm3": 900.0,
        "status": status,
        **more,
    }


class TestSummary:
    def test_means_by_hand(self):
        nan = float("nan")
        rows = [
            row("a", 0.9),
            row("a", 0.5, "tumor"),
            row("b", 0.7),
            row("b", nan, "tumor", "absent"),
            row("c", 0.0, status="missed"),
            row("c", 0.0, "tumor", "false_positive"),
        ]
        summary = summarize(rows, nsd_tolerance=2.0)
        liver, tumor = summary["structures"]["liver"], summary["structures"]["tumor"]
        dice = liver["metrics"]["dice"]
        assert dice["mean"] == pytest.approx(1.6 / 3)
        assert dice["median"] == pytest.approx(0.7)
        assert dice["std"] == pytest.approx(np.std([0.9, 0.7, 0.0], ddof=1))
        assert tumor["metrics"]["dice"]["mean"] == pytest.approx(0.25)
        assert (liver["n"], liver["n_missed"], liver["label"]) == (3, 1, 1)
        assert (tumor["n"], tumor["n_false_positive"], tumor["n_absent"]) == (2, 1, 1)
        overall = summary["overall"]
        assert overall["metrics"]["dice"]["mean"] == pytest.approx((1.6 / 3 + 0.25) / 2)
        assert overall["metrics"]["dice"]["median"] == pytest.approx(0.7)
        assert (overall["n"], overall["n_missed"], overall["n_false_positive"]) == (3, 1, 1)
        assert summary["n_cases"] == summary["n_patients"] == 3
        assert (summary["unit"], summary["policy"]) == ("mm", POLICY)

    def test_a_missed_structure_lowers_the_mean(self):
        good = [row("a", 0.9), row("b", 0.9)]
        missed = [row("a", 0.9), row("b", 0.0, status="missed")]
        means = [summarize(r)["overall"]["metrics"]["dice"]["mean"] for r in (good, missed)]
        assert means == pytest.approx([0.9, 0.45])

    def test_the_interval_is_students_t_over_patients(self):
        # Mean 0.7, standard deviation 0.1, t of 2 degrees of freedom 4.30265.
        dice = summarize([row("a", 0.6), row("b", 0.7), row("c", 0.8)])["structures"]["liver"]
        found = dice["metrics"]["dice"]
        half = 4.302653 * 0.1 / math.sqrt(3)
        assert (found["low"], found["high"]) == pytest.approx((0.7 - half, 0.7 + half), abs=1e-6)
        assert (found["n"], found["no_interval"]) == (3, "")

    def test_the_interval_is_cut_off_where_a_score_ends(self):
        metrics = summarize([row("a", 0.9), row("b", 0.3)])["overall"]["metrics"]
        assert (metrics["dice"]["low"], metrics["dice"]["high"]) == (0, 1)
        # HD95 1 and 7 mm, t of 1 degree of freedom 12.7062: up to 4 + 12.7062 * 3 mm.
        assert metrics["hd95_mm"]["low"] == 0
        assert metrics["hd95_mm"]["high"] == pytest.approx(4 + 12.7062 * 3, abs=1e-3)

    def test_a_patient_counts_once_however_many_scans_it_has(self):
        rows = [row("a1", 0.9), row("a2", 0.7), row("a3", 0.8), row("b", 0.4), row("c", 0.6)]
        patients = {"a1": "a", "a2": "a", "a3": "a", "b": "b", "c": "c"}
        summary = summarize(rows, patients=patients)
        dice = summary["overall"]["metrics"]["dice"]
        assert summary["n_patients"] == dice["n"] == 3
        assert dice["mean"] == pytest.approx(0.6)  # of 0.8, 0.4 and 0.6
        alone = summarize([row("a", 0.8), row("b", 0.4), row("c", 0.6)])["overall"]
        for end in ("low", "high"):
            assert dice[end] == pytest.approx(alone["metrics"]["dice"][end])
        carried = summarize([{**r, "patient": patients[r["case"]]} for r in rows])
        assert carried == summary

    def test_one_patient_has_no_interval(self):
        dice = summarize([row("a", 0.5)])["overall"]["metrics"]["dice"]
        assert math.isnan(dice["low"])
        assert math.isnan(dice["std"])
        assert dice["mean"] == 0.5
        two_scans = [row("a", 0.5, patient="p"), row("b", 0.7, patient="p")]
        dice = summarize(two_scans)["overall"]["metrics"]["dice"]
        assert math.isnan(dice["low"])
        assert dice["no_interval"] == "a value of one patient only"

    def test_a_structure_of_one_case_gets_no_interval_and_neither_does_the_mean(self):
        nan = float("nan")
        rows = []
        for i in range(12):
            rows.append(row(f"c{i:02d}", 0.8 + 0.01 * i))
            rare = i == 3
            status = "ok" if rare else "absent"
            rows.append(row(f"c{i:02d}", 0.4 if rare else nan, "tumor", status))
        summary = summarize(rows)
        tumor = summary["structures"]["tumor"]["metrics"]["dice"]
        assert (tumor["mean"], tumor["n"]) == (0.4, 1)
        assert math.isnan(tumor["low"])
        assert math.isnan(tumor["high"])
        assert tumor["no_interval"] == "a value of one patient only"
        liver = summary["structures"]["liver"]["metrics"]["dice"]
        assert 0.8 < liver["low"] < liver["mean"] < liver["high"] < 0.91
        overall = summary["overall"]["metrics"]["dice"]
        assert overall["mean"] == pytest.approx((liver["mean"] + 0.4) / 2)
        assert math.isnan(overall["low"])
        assert overall["no_interval"] == "a structure rests on one patient"
        console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
        console.print(format_table(summary))
        assert "no interval" in console.export_text()

    def test_equal_values_get_no_interval(self):
        """Two patients that are both missed are no proof that all will be."""
        rows = [row(c, 0.0, status="missed") for c in "ab"]
        dice = summarize(rows)["overall"]["metrics"]["dice"]
        assert dice["mean"] == 0
        assert math.isnan(dice["low"])
        assert dice["no_interval"] == "the 2 patients have the same value"

    def test_the_mean_over_structures_where_all_have_all_is_that_of_the_patients_own(self):
        dice = np.array([[0.9, 0.5], [0.7, 0.6], [0.8, 0.1]])
        rows = [
            row(f"c{i}", float(dice[i, j]), name)
            for i in range(3)
            for j, name in enumerate(("liver", "tumor"))
        ]
        own = summarize(rows)["overall"]["metrics"]["dice"]
        alone = summarize([row(f"c{i}", float(d)) for i, d in enumerate(dice.mean(1))])
        for end in ("mean", "low", "high"):
            assert own[end] == pytest.approx(alone["overall"]["metrics"]["dice"][end])

    def test_the_rarest_structure_decides_the_degrees_of_freedom_of_the_mean(self):
        nan = float("nan")
        rows = [row(f"c{i}", 0.8 + 0.01 * (i % 3)) for i in range(6)]
        rare = [0.4, 0.6, nan, nan, nan, nan]
        rows += [
            row(f"c{i}", d, "tumor", "absent" if math.isnan(d) else "ok")
            for i, d in enumerate(rare)
        ]
        # Left out, the first patient moves the mean of the tumor from 0.5 to 0.6, and so on.
        liver = np.array([0.8, 0.81, 0.82, 0.8, 0.81, 0.82])
        whole = (liver.mean() + 0.5) / 2
        tumor = [0.6, 0.4, 0.5, 0.5, 0.5, 0.5]
        without = [(np.delete(liver, i).mean() + tumor[i]) / 2 for i in range(6)]
        own = 6 * whole - 5 * np.array(without)
        half = 12.7062 * own.std(ddof=1) / math.sqrt(6)  # one degree of freedom: two patients
        dice = summarize(rows)["overall"]["metrics"]["dice"]
        assert dice["mean"] == pytest.approx(whole)
        assert dice["low"] == pytest.approx(max(whole - half, 0), abs=1e-5)
        assert dice["high"] == pytest.approx(min(whole + half, 1), abs=1e-5)

    def test_failures_stand_beside_every_mean(self):
        rows = [row(f"c{i:02d}", 0.3 if i < 2 else 0.9) for i in range(12)]
        rows += [row(f"c{i:02d}", 0.45 if i < 3 else 0.8, "tumor") for i in range(12)]
        summary = summarize(rows)
        liver, tumor = (summary["structures"][n]["failures"] for n in ("liver", "tumor"))
        assert (liver["below"], tumor["below"], liver["patients"]) == (2, 3, 12)
        assert liver["threshold"] == 0.5
        assert summary["overall"]["failures"]["below"] == 2  # 0.375; the third has 0.675
        assert summarize(rows, failure_dice=0.7)["overall"]["failures"]["below"] == 3
        console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
        console.print(format_table(summary))
        text = " ".join(console.export_text().split())
        assert "2 of 12 patients below mean Dice 0.5; with 95% confidence at most 44% of" in text
        assert "2/12" in text
        assert "≤53%" in text

    def test_refuses_incomplete_rows(self):
        with pytest.raises(ValueError, match="nothing to summarize"):
            summarize([])
        with pytest.raises(ValueError, match="each structure once in each case"):
            summarize([row("a", 0.5), row("b", 0.5), row("b", 0.5, "tumor")])
        with pytest.raises(ValueError, match="each structure once in each case"):
            summarize([row("a", 0.5), row("a", 0.6)])

    def test_table_shows_numbers_policy_and_counts(self):
        voxels = {"hd95_medpy_vox": 12.345, "asd_medpy_vox": 1.234}
        rows = [row("a", 0.9, **voxels), row("b", 0.0, status="missed", **voxels)]
        console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
        console.print(format_table(summarize(rows, nsd_tolerance=2.0), title="test"))
        text = console.export_text()
        for expected in ("liver", "0.450", "[0.000 1.000]", "5.50", "2 mm", "missed"):
            assert expected in text
        assert "missed (only in the reference)" in text
        assert "pos." not in text  # no false positives: no column for them
        assert "…" not in text
        assert "missed" in text.split("liver")[0]

    @pytest.mark.parametrize("name", ["[/]", "[red]gland[/red]", ":heart:", "a[b]"])
    def test_names_in_brackets_are_text(self, name, capsys):
        summary = summarize([row("a", 0.9) | {"name": name}])
        assert name in summary_text(summary)
        out.print(format_table(summary))
        assert name in capsys.readouterr().out

    def test_a_notebook_does_not_take_the_text_of_the_log(self, monkeypatch):
        monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
        assert "0.900" in summary_text(summarize([row("a", 0.9)]))


class TestFiles:
    def test_cases_csv_round_trip(self, tmp_path):
        rows = [row("a", 1 / 3), row("a", float("nan"), "tumor", "absent", patient="p")]
        path = tmp_path / "evaluation" / "cases.csv"
        write_cases_csv(rows, path)
        with open(path, newline="") as file:
            header, first, second = list(csv.reader(file))
        assert header == case_columns()
        assert first[:4] == ["a", "1", "liver", "0.333333"]
        assert second[3:8] == [""] * 5
        assert second[-1] == "absent"
        back = read_cases_csv(path)
        assert back[0]["dice"] == pytest.approx(1 / 3, abs=1e-6)
        assert back[0]["label"] == 1
        assert math.isnan(back[1]["hd95_mm"])
        assert [p.name for p in path.parent.iterdir()] == ["cases.csv"]

    def test_voxel_columns_and_micrometers(self, tmp_path):
        empty = np.zeros((3, 3, 3), np.uint8)
        rows = evaluate_case(
            empty,
            empty,
            Measures(5, "um", voxel_metrics=True),
            spacing=(1, 1, 1),
            label_map=LABELS,
            case_id="eye",
        )
        write_cases_csv(rows, tmp_path / "cases.csv")
        header = (tmp_path / "cases.csv").read_text().splitlines()[0].split(",")
        assert header == case_columns("um", voxel_metrics=True)
        assert summarize(read_cases_csv(tmp_path / "cases.csv"))["unit"] == "um"

    def test_summary_json_is_strict(self, tmp_path):
        path = tmp_path / "summary.json"
        write_json(path, summarize([row("a", 0.5)]))

        def refuse(token: str) -> None:
            raise AssertionError(f"{token} is not JSON")

        parsed = json.loads(path.read_text(), parse_constant=refuse)
        assert parsed["overall"]["metrics"]["dice"]["low"] is None
        assert parsed["overall"]["metrics"]["dice"]["mean"] == 0.5

    def test_a_failed_write_leaves_the_old_file(self, tmp_path, monkeypatch):
        path = tmp_path / "cases.csv"
        write_cases_csv([row("a", 0.5)], path)
        before = path.read_text()

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(MedSSLError, match="No space left on device") as error:
            write_cases_csv([row("b", 0.7)], path)
        assert str(path) in str(error.value)
        assert path.read_text() == before
        assert [p.name for p in tmp_path.iterdir()] == ["cases.csv"]

    def test_reading_something_else(self, tmp_path):
        path = tmp_path / "cases.csv"
        path.write_text("case,score\na,1\n")
        with pytest.raises(MedSSLError, match="columns are case, score"):
            read_cases_csv(path)
        with pytest.raises(MedSSLError, match="No such file"):
            read_cases_csv(tmp_path / "none.csv")


def reference_label() -> np.ndarray:
    """Return a label map with dataset values."""
    label = np.zeros((24, 20, 10), np.uint8)
    label[5:12, 5:12, 2:8] = 1
    label[14:18, 14:18, 3:6] = 7
    return label


def save(path: Path, label: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    """Write a label map in the format of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if ".nii" in path.name:
        nib.save(nib.Nifti1Image(label, affine), path)
        return path
    image = SimpleITK.GetImageFromArray(label.T)
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    SimpleITK.WriteImage(image, str(path))
    return path


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    """Two cases: one predicted perfectly, one shifted by a voxel of 1.5 mm."""
    predictions, reference = tmp_path / "predictions", tmp_path / "labelsTr"
    for case, shift in (("case_1", 0), ("case_2", 1)):
        save(reference / f"{case}.nii.gz", reference_label())
        save(predictions / f"{case}.nii.gz", np.roll(reference_label(), shift, 0))
    return predictions, reference


def run(folders: tuple[Path, Path], **changes) -> list[dict]:
    """Evaluate folders with defaults that a test may change."""
    measures = Measures(1.0, voxel_metrics=changes.pop("voxel_metrics", False))
    return evaluate_folders(*folders, measures, **{"label_map": LABELS, **changes})


def message(folders: tuple[Path, Path], **changes) -> str:
    """Return the message of the refusal, which fits on six lines and says what to do."""
    with pytest.raises(MedSSLError) as error:
        run(folders, **changes)
    text = str(error.value)
    assert len(text.splitlines()) <= 6
    assert "fix:" in text
    return text


class TestFolders:
    def test_rows(self, folders):
        seen: list[str] = []
        (folders[1] / "._case_1.nii.gz").write_bytes(b"macOS debris")
        rows = run(folders, on_progress=seen.append)
        assert seen == ["case_1", "case_2"]
        assert [(r["case"], r["label"], r["name"]) for r in rows] == [
            ("case_1", 1, "liver"),
            ("case_1", 7, "tumor"),
            ("case_2", 1, "liver"),
            ("case_2", 7, "tumor"),
        ]
        assert [r["dice"] for r in rows] == pytest.approx([1, 1, 6 / 7, 3 / 4])
        assert rows[2]["hd95_mm"] == pytest.approx(1.5)
        assert rows[0]["volume_reference_mm3"] == pytest.approx(7 * 7 * 6 * 9)

    def test_patients_travel_with_the_rows(self, folders):
        rows = run(folders, patients={"case_1": "p", "case_2": "p"})
        assert summarize(rows)["n_patients"] == 1
        assert summarize(run(folders))["n_patients"] == 2

    def test_any_two_formats(self, folders):
        predictions, reference = folders
        expected = run(folders, voxel_metrics=True)
        for case, suffix in (("case_1", ".nrrd"), ("case_2", ".mha")):
            label, affine = read_label(predictions / f"{case}.nii.gz")
            (predictions / f"{case}.nii.gz").unlink()
            save(predictions / f"{case}{suffix}", label, affine)
        assert run((predictions, reference), voxel_metrics=True) == expected

    def test_two_files(self, folders):
        pair = folders[0] / "case_2.nii.gz", folders[1] / "case_1.nii.gz"
        assert {r["case"] for r in run(pair)} == {"case_1"}

    @pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
    def test_oblique_geometry_survives_reading(self, tmp_path, suffix):
        angle = math.radians(20)
        turn = np.array(
            [[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0]]
        )
        affine = np.eye(4)
        affine[:3, :3] = np.vstack((turn, [0, 0, 1])) @ np.diag([-0.8, 1.2, 3.0])
        affine[:3, 3] = [11.5, -70.25, 402.0]
        label = reference_label()
        found, found_affine = read_label(save(tmp_path / f"a{suffix}", label, affine))
        np.testing.assert_array_equal(found, label)
        np.testing.assert_allclose(found_affine, affine, atol=1e-4)

    def test_float_labels_with_rounding_are_accepted(self, folders):
        label = reference_label().astype(np.float32) + 2e-4
        save(folders[0] / "case_1.nii.gz", label)
        assert run(folders)[0]["dice"] == 1

    def test_two_dimensional_files(self, tmp_path):
        for name in ("p/a.nii.gz", "r/a.nii.gz"):
            save(tmp_path / name, reference_label()[:, :, 4])
        row = run((tmp_path / "p", tmp_path / "r"))[0]
        assert (row["dice"], row["hd95_mm"], row["status"]) == (1, 0, "ok")

    def test_labels_found_without_a_map(self, folders):
        rows = run(folders, label_map=None)
        assert [r["name"] for r in rows[:2]] == ["label_1", "label_7"]
        label = reference_label()
        label[:, :, 8:] = 255
        save(folders[1] / "case_1.nii.gz", label)
        assert len(run(folders, label_map=None)) == 4  # 255 beside others: not annotated

    def test_masks_of_0_and_255(self, folders):
        for folder in folders:
            for path in folder.iterdir():
                save(path, (reference_label() > 0).astype(np.uint8) * 255)
        rows = run(folders, label_map=None)
        assert [(r["label"], r["dice"]) for r in rows] == [(255, 1.0)] * 2

    def test_shapes_differ(self, folders):
        save(folders[0] / "case_2.nii.gz", reference_label()[:-1])
        text = message(folders)
        assert "case_2: prediction and reference lie on different grids" in text
        assert "(23, 20, 10)" in text
        assert "(24, 20, 10)" in text
        assert all(str(folder / "case_2.nii.gz") in text for folder in folders)

    @pytest.mark.parametrize(
        ("axis", "column", "change", "shown"),
        [(2, 2, 1.0, "spacing (1.5, 1.5, 5)"), (0, 3, 2.0, "origin (42, -30, 12.5)")],
    )
    def test_affines_differ(self, folders, axis, column, change, shown):
        other = AFFINE.copy()
        other[axis, column] += change
        save(folders[0] / "case_1.nii.gz", reference_label(), other)
        assert shown in message(folders)

    def test_flipped_prediction_is_refused(self, folders):
        other = AFFINE @ np.diag([-1.0, 1, 1, 1])
        other[0, 3] = AFFINE[0, 3] - 1.5 * 23  # the same box in space, voxels in reverse
        save(folders[0] / "case_1.nii.gz", reference_label()[::-1], other)
        text = message(folders)
        assert "axes RAS" in text
        assert "axes LAS" in text

    def test_rounded_headers_are_the_same_grid(self, folders):
        save(folders[0] / "case_1.nii.gz", reference_label(), AFFINE * (1 + 1e-5))
        assert run(folders)[0]["dice"] == 1

    def test_sheared_grids_are_refused(self, folders):
        for folder in folders:
            tilted = SimpleITK.GetImageFromArray(np.ones((3, 4, 5), np.uint8))
            tilted.SetDirection((1, 0, 0, 0, 1, 0.5, 0, 0, 1))
            (folder / "case_1.nii.gz").unlink()
            SimpleITK.WriteImage(tilted, folder / "case_1.nrrd")
        text = message(folders)
        assert "not at right angles" in text
        assert str(folders[1] / "case_1.nrrd") in text

    def test_missing_predictions_are_listed(self, folders):
        (folders[0] / "case_2.nii.gz").unlink()
        assert "1 of 2 reference cases have no prediction: case_2" in message(folders)

    def test_predictions_without_reference_are_left_out(self, folders, caplog):
        save(folders[0] / "case_9.nii.gz", reference_label())
        assert {r["case"] for r in run(folders)} == {"case_1", "case_2"}
        assert "case_9" in caplog.text

    def test_undeclared_values(self, folders):
        label = reference_label()
        label[0, 0, :3] = 4
        path = save(folders[0] / "case_1.nii.gz", label)
        text = message(folders)
        assert "4 (3 voxels)" in text
        assert str(path) in text
        assert "declared are 0, 1, 7" in text

    def test_a_structure_that_no_reference_has(self, folders):
        label = reference_label()
        label[0, 0, :3] = 4
        path = save(folders[0] / "case_1.nii.gz", label)
        text = message(folders, label_map=None)
        assert "no reference has the label 4 that this prediction has" in text
        assert str(path) in text
        assert "name all of them with a dataset.json" in text

    def test_prediction_must_not_say_not_annotated(self, folders):
        labels = LabelMap(LABELS.values, LABELS.names, ignore_value=9)
        label = reference_label()
        label[0, 0, :3] = 9
        save(folders[1] / "case_1.nii.gz", label)
        save(folders[0] / "case_1.nii.gz", label)
        assert run(folders, label_map=labels)[0]["dice"] == 1
        save(folders[1] / "case_1.nii.gz", reference_label())
        assert "3 voxels hold 9" in message(folders, label_map=labels)

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            (np.full((24, 20, 10), 0.25), "4800 voxels are not whole numbers, the first is 0.25"),
            (np.full((24, 20, 10), np.nan), "4800 voxels are not whole numbers, the first is nan"),
            (np.zeros((24, 20, 10, 2)), "shape (24, 20, 10, 2)"),
        ],
    )
    def test_what_is_no_label_map(self, folders, values, expected):
        path = save(folders[0] / "case_1.nii.gz", values.astype(np.float32))
        text = message(folders)
        assert expected in text
        assert str(path) in text

    def test_damaged_files(self, folders):
        path = folders[1] / "case_2.nii.gz"
        whole = path.read_bytes()
        for damage in (whole[: len(whole) // 2], b"", b"not a NIfTI file", gzip.compress(b"short")):
            path.write_bytes(damage)
            text = message(folders)
            assert re.search("cannot be read|truncated or damaged|is empty", text)
            assert str(path) in text
        path.unlink()
        (folders[1] / "case_2.mha").write_text("ObjectType = Image\nNDims = 3\n")
        assert "cannot be read" in message(folders)

    def test_folders_that_are_not(self, folders, tmp_path):
        assert "does not exist" in message((tmp_path / "none", folders[1]))
        (tmp_path / "empty").mkdir()
        assert "no label maps here" in message((folders[0], tmp_path / "empty"))
        save(folders[1] / "case_1.nrrd", reference_label())
        assert "two files of case case_1" in message(folders)

    def test_real_labels(self, shared_data, tmp_path):
        source = shared_data / "Task04_Hippocampus" / "labelsTr"
        paths = sorted(source.glob("hippocampus_*.nii.gz"))[:2]
        for path in paths:
            label, affine = read_label(path)
            save(tmp_path / path.name, label.astype(np.uint8), affine)
        names = LabelMap((0, 1, 2), ("background", "anterior", "posterior"))
        (tmp_path / "reference").mkdir()
        for path in paths:
            (tmp_path / "reference" / path.name).symlink_to(path)
        rows = run((tmp_path, tmp_path / "reference"), label_map=names)
        assert [r["dice"] for r in rows] == [1.0] * 4
        assert all(500 < r["volume_reference_mm3"] < 5000 for r in rows)
