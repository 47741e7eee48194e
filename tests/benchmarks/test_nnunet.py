"""Side by side with nnU-Net: the same cases in its layout, and a table of what was measured."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medssl.errors import MedSSLError

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benchmarks"))

import nnunet  # noqa: E402


def write_decathlon(folder: Path, cases: list[str], channels: int) -> None:
    """Write scans whose channel k holds k everywhere, and labels of ones."""
    for kind in ("imagesTr", "labelsTr"):
        (folder / kind).mkdir(parents=True)
    for case in cases:
        scan = np.broadcast_to(np.arange(channels, dtype=np.float32), (3, 4, 5, channels))
        image = nib.Nifti1Image(scan if channels > 1 else scan[..., 0], np.diag([2, 1, 1, 1]))
        nib.save(image, folder / "imagesTr" / f"{case}.nii.gz")
        label = nib.Nifti1Image(np.ones((3, 4, 5), np.uint8), image.affine)
        nib.save(label, folder / "labelsTr" / f"{case}.nii.gz")
    described = {
        "modality": {str(k): "MRI" for k in range(channels)},
        "labels": {"0": "Background", "1": "front", "2": "back"},
    }
    (folder / "dataset.json").write_text(json.dumps(described))


def test_cases_are_kept_apart_until_the_test_is_asked_for() -> None:
    parts = json.loads(nnunet.CASES.read_text())
    chosen = nnunet.Cases.read(nnunet.CASES, test=False)
    assert list(chosen.measured) == parts["development"]
    assert set(chosen.held_back) == {*parts["development"], *parts["test"]}
    final = nnunet.Cases.read(nnunet.CASES, test=True)
    assert list(final.measured) == parts["test"] == list(final.held_back)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_decathlon_folder_becomes_nnunets_with_one_file_per_channel(
    tmp_path: Path, channels: int
) -> None:
    write_decathlon(tmp_path / "data", ["a", "b", "c"], channels)
    nnunet.convert(tmp_path / "data", nnunet.Cases(("a",), ("b",), ("b",)), tmp_path / "raw")
    files = {str(p.relative_to(tmp_path / "raw")) for p in (tmp_path / "raw").rglob("*.nii.gz")}
    images = {f"images{part}_000{k}.nii.gz" for part in ("Tr/a", "Ts/b") for k in range(channels)}
    assert files == images | {"labelsTr/a.nii.gz", "labelsTs/b.nii.gz"}
    last = nib.load(tmp_path / "raw" / "imagesTr" / f"a_000{channels - 1}.nii.gz")
    assert last.shape == (3, 4, 5)
    assert last.header.get_zooms() == (2, 1, 1)
    assert set(np.unique(last.dataobj)) == {channels - 1}
    described = json.loads((tmp_path / "raw" / "dataset.json").read_text())
    assert described["labels"] == {"background": 0, "front": 1, "back": 2}
    assert described["numTraining"] == 1


def test_the_table_pairs_cases_by_their_names() -> None:
    rows = [("a", 0.8), ("a", 0.6), ("b", 0.9), ("b", float("nan"))]
    theirs = nnunet.dice_of([{"case": case, "dice": dice} for case, dice in rows])
    assert theirs == pytest.approx({"a": 0.7, "b": 0.9})
    ours = {"b": 0.92, "a": 0.74}  # +0.02 and +0.04
    figures = {
        nnunet.NNUNET: {
            "iterations": 4,
            "seconds": 9.6,
            "dice": dict.fromkeys(nnunet.WAYS, theirs),
        },
        nnunet.ALONE: {"iterations": 4, "seconds": 5, "dice": dict.fromkeys(nnunet.WAYS, ours)},
    }
    lines = nnunet.table(figures).splitlines()
    assert "| nnU-Net | 4 | 10 | 0.8000 | 0.8000 |" in lines
    # Student's t with one degree of freedom: 0.03 and 12.706 times 0.01.
    assert lines[-1].endswith("equal iterations, mirrored: +0.0300 (-0.0971 to +0.1571, 2 cases)")


def test_what_is_missing_is_named_with_its_cure(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    os.chmod(python, 0o755)
    with pytest.raises(MedSSLError, match="no nnU-Net is there") as caught:
        nnunet.call_side(str(python), tmp_path, "version")
    assert "medssl[nnunet]" in str(caught.value)


def test_figures_of_another_call_are_not_mixed_with_these(tmp_path: Path) -> None:
    (tmp_path / "figures.json").write_text(json.dumps({"of": {"iterations": 3}}))
    with pytest.raises(SystemExit, match="figures of another call"):
        nnunet.main([str(tmp_path / "data"), "--output", str(tmp_path), "--iterations", "4"])
