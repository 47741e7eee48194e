"""Slices in doubt, numbered as viewers number them, and the files for these viewers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medssl.data.datasets.case import LabelMap
from medssl.rounds.doubt import slices_in_doubt
from medssl.rounds.editors import ITK_SNAP, SLICER, write_editor_files


def test_slices_are_named_by_plane_number_and_place() -> None:
    entropy = np.zeros((10, 12, 8))
    entropy[2, 3, 5] = 1.0
    entropy[2, 9, 5] = 0.75
    affine = np.array([[-1.0, 0, 0, 20], [0, -2, 0, 5], [0, 0, 3, -7], [0, 0, 0, 1]])  # LPS
    found = slices_in_doubt(entropy, affine, per_plane=2)
    assert [(s.plane, s.slice, s.ras_mm, s.doubt_voxels) for s in found] == [
        ("sagittal", 3, 18.0, 1.75),
        ("coronal", 4, -1.0, 1.0),
        ("coronal", 10, -13.0, 0.75),
        ("axial", 6, 8.0, 1.75),
    ]


def test_axes_of_the_file_are_told_from_those_of_the_body() -> None:
    entropy = np.zeros((6, 5, 4))
    entropy[4] = 0.9
    affine = np.zeros((4, 4))
    affine[2, 0] = affine[0, 1] = affine[1, 2] = affine[3, 3] = 1  # first axis leads up
    found = slices_in_doubt(entropy, affine, per_plane=1)
    assert [(s.plane, s.slice) for s in found][2] == ("axial", 5)


def test_neighbors_of_a_slice_are_not_named_and_a_sure_draft_has_none() -> None:
    entropy = np.zeros((100, 4, 4))
    entropy[50:53] = 0.9
    entropy[51] = 1.0
    entropy[80] = 0.5
    found = [s for s in slices_in_doubt(entropy, np.eye(4)) if s.plane == "sagittal"]
    assert [s.slice for s in found] == [52, 81]
    assert slices_in_doubt(np.full((9, 9, 9), 0.001), np.eye(4)) == []


def test_editor_files_hold_values_names_and_colors(tmp_path: Path) -> None:
    labels = LabelMap((0, 3, 7), ("background", 'left "A"', "right lobe"), 9)
    write_editor_files(labels, tmp_path)
    snap = (tmp_path / ITK_SNAP).read_text().splitlines()
    assert [line.split()[0] for line in snap if not line.startswith("#")] == ["0", "3", "7", "9"]
    assert snap[2].endswith('1  1  1    "left A"')
    slicer = (tmp_path / SLICER).read_text().splitlines()
    assert [line.split() for line in slicer[1:]][2] == [
        "7",
        "right_lobe",
        "255",
        "143",
        "177",
        "255",
    ]
