"""Every planted fault is found in its file; sound datasets are silent."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from check_faults import FAULTS, Folder, Found
from decathlon_files import make_dataset

import medssl
from medssl.data.checks.run import CheckReport, check_dataset
from medssl.data.datasets.decathlon import read_dataset
from medssl.data.phantoms.dataset import write_phantom


def run(root: Path) -> CheckReport:
    return check_dataset(read_dataset(root, keep_missing=True), workers=2)


def serious(report: CheckReport) -> list[str]:
    return [f"{p.check} {p.file.name}: {p.what}" for p in report.problems if p.severity != "note"]


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("check") / "sound"
    return write_phantom(root, labeled=14, unlabeled=6, test=4, shape=(28, 24, 14))


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Folder:
    return Folder(shutil.copytree(sound, tmp_path / "data"))


def test_sound_phantom_is_silent(sound: Path) -> None:
    report = run(sound)
    assert serious(report) == []
    assert report.can_train
    assert len(report.facts) == 24
    assert [s.group for s in report.shifts] == ["unlabeled", "test"]


@pytest.mark.parametrize("plant", FAULTS, ids=lambda f: f.__name__)
def test_planted_fault(folder: Folder, plant: Callable[[Folder, int], Found]) -> None:
    expected = plant(folder, 3)
    report = run(folder.root)
    hits = [p for p in report.problems if p.check == expected.check and p.file == expected.file]
    assert len(hits) == 1, [(p.check, p.file.name, p.what) for p in report.problems]
    assert hits[0].severity == expected.severity
    assert hits[0].what
    assert hits[0].fix
    assert report.can_train == (expected.severity != "error")
    # The others were checked, and none of them is blamed.
    assert len(report.facts) >= 24
    paths = {expected.file, folder.image(3), folder.label(3), folder.label(4)}
    blamed = {p.file for p in report.problems if p.severity != "note"}
    assert blamed <= paths, serious(report)


def test_a_copy_in_a_folder_of_unlabeled_images_is_found(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "data", ["a", "b", "c"], real=True)
    (tmp_path / "more").mkdir()
    image = nib.load(root / "imagesTr" / "b.nii.gz")
    data = np.asarray(image.dataobj)[::-1].astype(np.float64)  # the same place, stored reversed
    turned = image.affine @ np.array([[-1, 0, 0, len(data) - 1], *np.eye(4)[1:]])
    nib.save(nib.Nifti1Image(data, turned), tmp_path / "more" / "x.nii")
    found = medssl.check(root, unlabeled=[str(tmp_path / "more")]).report.problems
    [copy] = [p for p in found if p.check == "duplicate"]
    assert copy.what == "the unlabeled case 'x' has exactly the voxels of the labeled case 'b'"
    assert not [p for p in medssl.check(root).report.problems if p.check == "duplicate"]
