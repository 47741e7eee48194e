"""Real folders: silent as they are, and every one of many planted faults found at once."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from check_faults import FAULTS, REPAIRABLE, Folder, Found, mirrored_label

from medssl.data.checks.run import CheckReport, check_dataset
from medssl.data.datasets.decathlon import read_dataset
from medssl.data.datasets.problem import Problem
from medssl.workflows.check import check

ACDC_TWINS = {"patient074", "patient076"}
"""In the preprocessed copies of ACDC these two patients have the same images."""


def run(root: Path) -> CheckReport:
    return check_dataset(read_dataset(root, keep_missing=True), workers=2)


def serious(report: CheckReport) -> list[Problem]:
    return [p for p in report.problems if p.severity != "note"]


@pytest.mark.parametrize("name", ["Task04_Hippocampus", "Task102_LeftAtrium"])
def test_sound_folder_is_silent(shared_data: Path, name: str) -> None:
    # Processor time of all threads: on a busy machine the clock tells of others.
    start = time.process_time()
    report = run(shared_data / name)
    assert serious(report) == []
    assert len(report.problems) <= 4
    assert time.process_time() - start < 60


def test_acdc_holds_one_patient_twice(shared_data: Path) -> None:
    found = serious(run(shared_data / "Task101_ACDC"))
    assert [p.check for p in found] == ["duplicate", "duplicate"]
    assert {p.case for p in found} == {"patient076_frame01", "patient076_frame02"}
    assert all("labeled case 'patient074_frame0" in p.what for p in found)


def copy_of(source: Path, target: Path) -> Folder:
    """Copy a folder, without the twin, and list its last cases as unlabeled and test."""
    shutil.copytree(source, target)
    for path in [target, *target.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    info = json.loads((target / "dataset.json").read_text())
    items = [i for i in info["training"] if not any(t in i["image"] for t in ACDC_TWINS)]
    info |= {
        "training": items[:-30],
        "unlabeled": [{"image": i["image"]} for i in items[-30:-10]],
        "test": [i["image"] for i in items[-10:]],
    }
    for item in items[-30:]:
        (target / item["label"]).unlink()
    for path in [p for p in target.rglob("*.nii.gz") if any(t in p.name for t in ACDC_TWINS)]:
        path.unlink()
    (target / "dataset.json").write_text(json.dumps(info))
    return Folder(target)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Task04_Hippocampus", "Task101_ACDC"])
def test_all_faults_are_found_at_once(shared_data: Path, tmp_path: Path, name: str) -> None:
    folder = copy_of(shared_data / name, tmp_path / "data")
    folder.save()
    assert serious(run(folder.root)) == []
    faults = (*FAULTS, mirrored_label) if name == "Task04_Hippocampus" else FAULTS
    planted: dict[Callable[[Folder, int], Found], Found] = {}
    for number, plant in enumerate(faults):
        planted[plant] = plant(folder, 4 * (number % 26) + 2 * (number // 26))
    report = run(folder.root)
    found = {(p.check, p.file, p.severity) for p in report.problems}
    missed = [
        plant.__name__ for plant, f in planted.items() if (f.check, f.file, f.severity) not in found
    ]
    assert missed == []
    touched = {f.file for f in planted.values()}
    touched |= {
        path
        for number in range(len(faults))
        for k in (4 * (number % 26) + 2 * (number // 26),)
        for path in (folder.image(k), folder.label(k), folder.image(k + 1), folder.label(k + 1))
    }
    assert {p.file for p in serious(report)} <= touched


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Task04_Hippocampus", "Task101_ACDC"])
def test_repaired_copy_of_a_real_folder_passes(
    shared_data: Path, tmp_path: Path, name: str
) -> None:
    folder = copy_of(shared_data / name, tmp_path / "data")
    info = folder.info
    info["training"], info["unlabeled"] = info["training"][:20], info["unlabeled"][:8]
    folder.save()
    planted = [plant(folder, number) for number, plant in enumerate(REPAIRABLE)]
    result = check(folder.root, repair=tmp_path / "copy")
    assert {p.file for p in serious(result.report)} == {f.file for f in planted}
    assert result.repaired is not None
    assert serious(result.repaired) == []
