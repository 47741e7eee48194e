"""Errors of layer boundaries against hand-made truths."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from medssl.data.datasets.case import LabelMap
from medssl.evaluation.boundaries import (
    Depth,
    evaluate_boundaries,
    format_boundaries,
    summarize_boundaries,
    write_boundaries_csv,
)

LAYERS = LabelMap((0, 1, 2), ("background", "inner", "outer"))


def layers(top: int, middle: int, bottom: int, shape: tuple[int, int] = (4, 3)) -> np.ndarray:
    """``(A-scan, B-scan, depth)`` with the inner layer from ``top`` and the outer to ``bottom``."""
    out = np.zeros((*shape, 20), np.uint8)
    out[..., top:middle] = 1
    out[..., middle:bottom] = 2
    return out


def measured(prediction: np.ndarray, reference: np.ndarray, **changes: object) -> list[dict]:
    options = {"depth": Depth(2, 1, 4.0), "unit": "um", "case_id": "eye", "label_map": LAYERS}
    return evaluate_boundaries(prediction, reference, **(options | changes))


def test_shifted_boundaries_have_the_shift_as_error() -> None:
    rows = measured(layers(6, 9, 12), layers(5, 10, 12))
    assert [r["name"] for r in rows] == ["top of inner", "top of outer", "bottom of outer"]
    assert [r["mae_um"] for r in rows] == [4, 4, 0]
    assert [r["bias_um"] for r in rows] == [4, -4, 0]
    assert [r["max_um"] for r in rows] == [4, 4, 0]
    assert {r["a_scans"] for r in rows} == {12}


def test_depth_may_lie_along_any_axis_and_either_way() -> None:
    prediction, reference = layers(6, 9, 12), layers(5, 10, 12)
    expected = measured(prediction, reference)
    turned = [np.moveaxis(a, 2, 0)[::-1] for a in (prediction, reference)]
    assert measured(*turned, depth=Depth(0, -1, 4.0)) == expected


def test_mean_and_largest_error_over_a_scans() -> None:
    prediction = layers(5, 10, 12)
    prediction[0, 0, 5:8] = 0  # one A-scan of twelve: the inner layer begins 3 voxels too deep
    top = measured(prediction, layers(5, 10, 12))[0]
    assert (top["mae_um"], top["max_um"]) == (1.0, 12.0)
    stray = layers(5, 10, 12)
    stray[1, 1, 1] = 2  # an island in the vitreous moves a boundary by one voxel
    assert measured(stray, layers(5, 10, 12))[1]["max_um"] == 4


def test_an_island_in_the_choroid_moves_a_boundary_by_its_own_size() -> None:
    stray = layers(5, 10, 12)
    stray[..., 18] = 1
    rows = measured(stray, layers(5, 10, 12))
    assert [r["bias_um"] for r in rows] == [0, 4, 4]


def test_a_layer_that_fills_the_rest_has_no_lower_boundary() -> None:
    rows = measured(layers(5, 10, 20), layers(6, 10, 20))
    assert [r["name"] for r in rows] == ["top of inner", "top of outer"]
    assert rows[0]["bias_um"] == -4


def test_thin_and_missing_layers() -> None:
    fovea = layers(5, 10, 12)
    fovea[0, 0, 5:10] = 2  # the inner layer has no thickness here: both boundaries coincide
    assert [r["mae_um"] for r in measured(fovea, fovea)] == [0, 0, 0]
    lost = measured(np.where(fovea == 2, 0, fovea), layers(5, 10, 12))
    assert lost[1]["mae_um"] > 0
    nothing = measured(np.zeros_like(fovea), layers(5, 10, 12))
    assert [r["mae_um"] for r in nothing] == [60, 40, 32]  # to the lower end of the image


def test_unannotated_a_scans_do_not_count() -> None:
    reference, prediction = layers(5, 10, 12), layers(5, 10, 12)
    reference[:, 1] = 255
    prediction[:, 1] = 0
    rows = measured(prediction, reference)
    assert [r["mae_um"] for r in rows] == [0, 0, 0]
    assert {r["a_scans"] for r in rows} == {8}
    blank = measured(prediction, np.full_like(reference, 255))
    assert all(math.isnan(r["mae_um"]) and r["a_scans"] == 0 for r in blank)


def test_labels_that_are_no_layers_are_refused() -> None:
    mixed = layers(5, 10, 12)
    mixed[..., 14:16] = 1
    with pytest.raises(ValueError, match="do not count up with depth"):
        measured(mixed, mixed)
    mixed = layers(5, 10, 12, (10, 10))
    mixed[0, 0, 14:16] = 1  # one A-scan of a hundred is an annotator's slip
    assert measured(mixed, mixed)[0]["a_scans"] == 99


def test_summary_csv_and_table(tmp_path: Path) -> None:
    rows = []
    for case, shift in (("a", 0), ("b", 1), ("c", 2)):
        rows += measured(layers(5 + shift, 10, 12), layers(5, 10, 12), case_id=case)
    summary = summarize_boundaries(rows, {"a": "p", "b": "q", "c": "r"}, unit="um")
    top = summary["top of inner"]
    assert (top["n"], top["mae_um"]["mean"], top["bias_um"]["mean"]) == (3, 4, 4)
    assert top["mae_um"]["low"] < 4 < top["mae_um"]["high"]
    assert summary["mean"]["mae_um"]["mean"] == pytest.approx(4 / 3)
    write_boundaries_csv(rows, tmp_path / "boundaries.csv", unit="um")
    with (tmp_path / "boundaries.csv").open() as file:
        read = list(csv.DictReader(file))
    assert len(read) == 9
    assert (read[3]["case"], float(read[3]["mae_um"])) == ("b", 4.0)
    table = format_boundaries({"boundaries": summary, "unit": "um"})
    assert table.row_count == 4
    assert [str(c.header) for c in table.columns][1] == "error\num"
