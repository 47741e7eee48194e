"""Regions measured: overlaps and distances of unions of labels, by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from medssl.data.datasets.case import CachedCase, LabelMap
from medssl.data.datasets.label_regions import LabelRegion
from medssl.evaluation.case_metrics import Measures, evaluate_case
from medssl.evaluation.folders import evaluate_folders
from medssl.evaluation.summary import read_cases_csv, summarize, write_cases_csv
from medssl.inference.volumes import Volumes, volumes_of
from medssl.training.validation import case_dice

REGIONS = (
    LabelRegion("whole", (1, 2, 4), 1),
    LabelRegion("core", (2, 4), 2),
    LabelRegion("enhancing", (4,), 4),
)
LABELS = LabelMap((0, 1, 2, 4), ("background", "edema", "necrosis", "enhancing"), 9, REGIONS)


def maps() -> tuple[np.ndarray, np.ndarray]:
    """Return class indices of a prediction and a reference, 4 x 4 x 4.

    Reference: edema 16 voxels (x = 0), necrosis 8 (half of x = 1), enhancing 8 (the other half).
    Prediction: all of x = 0 and 1 is necrosis, and so is x = 2.
    """
    truth = np.zeros((4, 4, 4), np.uint8)
    truth[0], truth[1, :2], truth[1, 2:] = 1, 2, 3
    said = np.zeros_like(truth)
    said[:3] = 2
    return said, truth


def rows_of(said: np.ndarray, truth: np.ndarray, labels: LabelMap = LABELS) -> dict[str, dict]:
    found = evaluate_case(
        said, truth, Measures(1.0), spacing=(2.0, 1.0, 1.0), label_map=labels, case_id="c"
    )
    return {row["name"]: row for row in found}


def test_the_metrics_of_regions_by_hand() -> None:
    rows = rows_of(*maps())
    assert list(rows) == ["whole", "core", "enhancing"]
    assert [row["label"] for row in rows.values()] == ["1+2+4", "2+4", 4]
    assert rows["whole"]["dice"] == pytest.approx(2 * 32 / (48 + 32))
    assert rows["whole"]["iou"] == pytest.approx(32 / 48)
    assert rows["core"]["dice"] == pytest.approx(2 * 16 / (48 + 16)), "necrosis for enhancing"
    assert (rows["enhancing"]["dice"], rows["enhancing"]["status"]) == (0, "missed")
    assert rows["whole"]["volume_reference_mm3"] == 64
    assert rows["core"]["volume_prediction_mm3"] == 96
    # Of x = 0, 1 and 0, 1, 2 the far walls are one voxel of 2 mm apart.
    assert rows["whole"]["hd95_mm"] == pytest.approx(2.0)
    assert rows_of(maps()[0], maps()[1], replace(LABELS, regions=()))["edema"]["dice"] == 0


def test_a_region_is_measured_as_if_it_were_one_label() -> None:
    """Every column of a region is that of a map in which its labels are one."""
    rng = np.random.default_rng(0)
    said, truth = (rng.integers(0, 4, (7, 6, 5)).astype(np.uint8) for _ in range(2))
    for labels in (said, truth):  # each somewhere else
        labels[:4] *= labels[:4] == 1
        labels[4:] *= labels[4:] != 1
    said[6:], truth[:2], truth[3, 3] = 0, 0, 255
    rows = rows_of(said, truth)
    for region in REGIONS:
        inside = LABELS.classes_of(region)
        one = LabelMap((0, 1), ("background", region.name))
        joined = [
            np.where(m == 255, 255, np.isin(m, inside)).astype(np.uint8) for m in (said, truth)
        ]
        alone = rows_of(*joined, one)[region.name]
        assert {**rows[region.name], "label": 1} == alone


def test_a_region_that_lacks_one_of_its_labels() -> None:
    truth = np.zeros((4, 4, 4), np.uint8)
    truth[1, 1, 1] = 2
    assert rows_of(truth, truth)["whole"]["nsd"] == 1
    assert rows_of(truth, truth)["enhancing"]["status"] == "absent"


def test_tables_and_summaries_name_regions(tmp_path: Path) -> None:
    rows = list(rows_of(*maps()).values())
    write_cases_csv(rows, tmp_path / "cases.csv")
    read = read_cases_csv(tmp_path / "cases.csv")
    assert [row["label"] for row in read] == ["1+2+4", "2+4", 4]
    summary = summarize(read)
    assert list(summary["structures"]) == ["whole", "core", "enhancing"]
    assert summary["structures"]["core"]["label"] == "2+4"
    assert summary["overall"]["metrics"]["dice"]["mean"] == pytest.approx((0.8 + 0.5 + 0) / 3)


def test_folders_are_measured_by_region(tmp_path: Path) -> None:
    for name, classes in zip(("said", "truth"), maps(), strict=True):
        (tmp_path / name).mkdir()
        values = LABELS.to_values(classes)
        values[3, 3, 3] = 9 if name == "truth" else 4  # nobody annotated it
        nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / name / "c.nii.gz")
    rows = evaluate_folders(tmp_path / "said", tmp_path / "truth", Measures(1.0), label_map=LABELS)
    assert [row["dice"] for row in rows] == pytest.approx([0.8, 0.5, 0.0])


def test_the_best_checkpoint_is_chosen_by_regions() -> None:
    said, truth = maps()
    case = CachedCase("a", "a", np.zeros((1, *truth.shape), np.float16), truth, {})
    predictor = SimpleNamespace(classes=lambda _: said)
    assert case_dice(predictor, case, LABELS).tolist() == pytest.approx([0.8, 0.5, 0.0])  # type: ignore[arg-type]


def test_volumes_of_regions() -> None:
    found = volumes_of(LABELS.to_values(maps()[1]), np.diag([2.0, 1, 1, 1]), LABELS, "mm")
    assert found.structures == (
        ("1+2+4", "whole", 64.0),
        ("2+4", "core", 32.0),
        (4, "enhancing", 16.0),
    )
    assert Volumes.from_dict(found.as_dict()) == found
