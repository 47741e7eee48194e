"""``volumes.csv`` of every prediction: counted voxels times their size."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from medssl.data.datasets.case import LabelMap
from medssl.files import write_json
from medssl.inference.assessment import Assessment, StructureFindings
from medssl.inference.assessment_files import write_assessment
from medssl.inference.volumes import Volumes, volumes_of
from medssl.uncertainty.volumes_csv import NOT_ASSESSED, write_tables

LABELS = LabelMap(values=(0, 11, 400, 7), names=("background", "body", "core", "node"))


def label_map() -> np.ndarray:
    values = np.zeros((4, 5, 6), np.uint16)
    values[:2, :2, :2] = 11  # 8 voxels
    values[3, 4, :] = 400  # 6 voxels
    return values


def test_volumes_are_voxels_times_their_size() -> None:
    affine = np.diag([-0.5, 2.0, 3.0, 1.0])  # 3 mm3
    found = volumes_of(label_map(), affine, LABELS, "mm")
    assert [s[:2] for s in found.structures] == [(11, "body"), (400, "core"), (7, "node")]
    assert [size for _, _, size in found.structures] == pytest.approx([24, 18, 0])
    assert Volumes.from_dict(found.as_dict()) == found


def test_an_oblique_grid_and_micrometers() -> None:
    turn = np.eye(4)
    turn[:2, :2] = [[0.6, -0.8], [0.8, 0.6]]
    affine = turn @ np.diag([0.002, 0.003, 0.01, 1.0])  # 2 x 3 x 10 um
    found = volumes_of(label_map(), affine, LABELS, "um")
    assert found.unit == "um"
    assert [size for _, _, size in found.structures] == pytest.approx([480, 360, 0])


def record(folder: Path, **cases: Volumes | None) -> None:
    """Write a record of predictions with volumes; None is a case whose files are not whole."""
    entries = {
        name: {"model": "m", "images": [], "volumes": None}
        if found is None
        else {
            "model": "m",
            "images": [{"sha256": "x"}],
            "volumes": found.as_dict(),
            "unusual": ["dark"],
        }
        for name, found in cases.items()
    }
    write_json(folder / "predictions.json", {"predictions": entries})


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "volumes.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_of_predictions_without_assessments(tmp_path: Path) -> None:
    record(tmp_path, b=Volumes("mm", ((1, "arc", 24.5), (2, "node", 0.0))), a=None)
    write_tables(tmp_path, None, assessed=False)
    assert rows(tmp_path) == [
        {
            **{"case": "b", "label": "1", "name": "arc", "volume_mm3": "24.5", "low_mm3": ""},
            **{"high_mm3": "", "how": NOT_ASSESSED, "unusual": "dark"},
        },
        {
            **{"case": "b", "label": "2", "name": "node", "volume_mm3": "0", "low_mm3": ""},
            **{"high_mm3": "", "how": "not found", "unusual": "dark"},
        },
    ]
    assert not (tmp_path / "quality.csv").exists()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_intervals_of_an_earlier_call_stay(tmp_path: Path) -> None:
    one = StructureFindings(1, "arc", 10.0, 0.9, (9.0, 12.0))
    write_assessment(Assessment("mm", 1.0, (one,)), tmp_path / "uncertainty" / "a.json")
    record(tmp_path, a=Volumes("mm", ((1, "arc", 10.0),)))
    write_tables(tmp_path, None)
    before, quality = rows(tmp_path), (tmp_path / "quality.csv").read_bytes()
    assert (before[0]["low_mm3"], before[0]["high_mm3"]) == ("9", "12")
    more = Volumes("mm", ((1, "arc", 11.0),))
    record(tmp_path, a=Volumes("mm", ((1, "arc", 10.0),)), b=more)
    write_tables(tmp_path, None, assessed=False)
    after = rows(tmp_path)
    assert after[0] == before[0]
    assert (after[1]["case"], after[1]["volume_mm3"], after[1]["how"]) == ("b", "11", NOT_ASSESSED)
    assert (tmp_path / "quality.csv").read_bytes() == quality


@pytest.mark.parametrize("content", ["", "[]", '{"predictions": {"a": {}}}', "\x00"])
def test_a_damaged_record_makes_no_table(tmp_path: Path, content: str) -> None:
    (tmp_path / "predictions.json").write_text(content)
    write_tables(tmp_path, None, assessed=False)
    assert not (tmp_path / "volumes.csv").exists()
