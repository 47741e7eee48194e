"""`medssl atlas` from recipe to figures, and atlases beside a network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from anatomies import write_anatomies
from helpers import small_recipe, write_recipe

import medssl
from medssl.atlases.folder import open_atlases, read_record
from medssl.data.datasets.case import LabelMap
from medssl.inference.opinion import as_block, blended


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset, a recipe of three labeled and one test patient, and its atlases."""
    folder = tmp_path_factory.mktemp("atlas")
    root = write_anatomies(folder / "data", 5)
    changes = {"data": {"labeled": ["case_00", "case_01", "case_03"], "test": ["case_02"]}}
    write_recipe(folder / "a.yaml", small_recipe(root, folder / "cache", **changes))
    medssl.atlas(folder / "a.yaml", output=folder / "atlases", unlabeled=True)
    return folder


def read(path: Path) -> np.ndarray:
    """The voxels of a label map."""
    return np.asarray(nib.load(path).dataobj)


def test_labeled_scans_are_judged_by_each_other_and_test_scans_are_measured(place: Path) -> None:
    record = json.loads((place / "atlases" / "atlas.json").read_text())
    assert record["alignment"]["dice"] > 0.85
    assert record["alignment"]["patients"] == 3
    summary = json.loads((place / "atlases/evaluation/test/summary.json").read_text())
    assert summary["overall"]["metrics"]["dice"]["mean"] > 0.9
    assert {p.name for p in (place / "atlases/predictions/unlabeled").glob("*.nii.gz")} == {
        "case_04.nii.gz"
    }


def test_no_labeled_scan_is_labeled_by_itself(place: Path) -> None:
    found = read(place / "atlases/predictions/leave_one_out/case_03.nii.gz")
    own = read(place / "data/labelsTr/case_03.nii.gz")
    assert 0 < (found != own).mean() < 0.05


def test_the_same_call_goes_on_and_no_other_label_counts(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "atlases", tmp_path / "out")
    shutil.copytree(place / "data", tmp_path / "data")
    before = {}
    for part, case in (("test", "case_02"), ("unlabeled", "case_04")):
        label = tmp_path / "out/predictions" / part / f"{case}.nii.gz"
        before[label] = read(label)
        label.unlink()
        poisoned = tmp_path / "data/labelsTr" / f"{case}.nii.gz"
        nib.save(nib.Nifti1Image(np.ones((24, 22, 20), np.uint8), np.eye(4)), poisoned)
    kept = tmp_path / "out/predictions/leave_one_out/case_00.nii.gz"
    written = kept.stat().st_mtime_ns
    moved = [f"data.root={tmp_path / 'data'}"]
    medssl.atlas(place / "a.yaml", output=tmp_path / "out", overrides=moved, unlabeled=True)
    assert all(np.array_equal(read(label), voxels) for label, voxels in before.items())
    assert kept.stat().st_mtime_ns == written
    others = ["data.labeled=[case_00,case_01]"]
    with pytest.raises(medssl.MedSSLError, match="made with other atlases"):
        medssl.atlas(place / "a.yaml", output=tmp_path / "out", overrides=others)


def test_anatomy_that_does_not_align_is_refused_with_the_figure(tmp_path: Path) -> None:
    root = write_anatomies(tmp_path / "data", 3, aligned=False)
    data = {"labeled": ["case_00", "case_01"], "test": ["case_02"]}
    recipe = small_recipe(root, tmp_path / "cache", data=data)
    path = write_recipe(tmp_path / "a.yaml", recipe)
    loaded, other = medssl.load_recipe(path), LabelMap((0, 1), ("a", "b"))
    with pytest.raises(medssl.MedSSLError, match=r"mean Dice of 0\.\d+.* below 0\.7"):
        medssl.atlas(path, output=tmp_path / "out")
    assert not (tmp_path / "out/evaluation/test").exists()
    with pytest.raises(medssl.MedSSLError, match=r"below 0\.7"):
        open_atlases(tmp_path / "out", loaded.recipe.spec, other, force=False)
    with pytest.raises(medssl.MedSSLError, match="other structures than the network"):
        open_atlases(tmp_path / "out", loaded.recipe.spec, other, force=True)


def test_one_patient_and_a_missing_folder_are_refused(place: Path, tmp_path: Path) -> None:
    alone = ["data.labeled=[case_00]"]
    with pytest.raises(medssl.MedSSLError, match="takes 2 labeled patients, and here is 1"):
        medssl.atlas(place / "a.yaml", output=tmp_path / "a", overrides=alone)
    with pytest.raises(medssl.MedSSLError, match="not a folder of `medssl atlas`"):
        read_record(tmp_path)


def test_a_network_and_atlases_are_averaged(place: Path, tmp_path: Path) -> None:
    run = medssl.train(place / "a.yaml", output=tmp_path / "run").path
    image = place / "data/imagesTr/case_02.nii.gz"
    maps = {}
    for name, with_atlas in (("alone", None), ("both", place / "atlases")):
        (result,) = medssl.predict(
            run, image, tmp_path / name, probabilities=True, with_atlas=with_atlas
        )
        assert result.error is None
        maps[name] = read(tmp_path / name / "probabilities/case_02_right.nii.gz")
    record = json.loads((tmp_path / "both/predictions.json").read_text())
    (model,) = record["models"].values()
    assert model["model"].endswith(f", {place / 'atlases'}")
    says = 2 * maps["both"] - maps["alone"]
    own = read(place / "data/labelsTr/case_02.nii.gz") == 1
    assert says[own].mean() > 0.9
    assert says[~own].mean() < 0.05
    with pytest.raises(medssl.MedSSLError, match="made by another model"):
        medssl.predict(run, image, tmp_path / "both")


def test_a_weight_of_nothing_and_of_all() -> None:
    rng = np.random.default_rng(0)
    network, other = (torch.from_numpy(rng.random((3, 4, 4, 4))) for _ in range(2))
    (whole,) = as_block(network, (4, 4, 4))
    for weight, right in ((0.0, network), (1.0, other), (0.25, 0.75 * network + 0.25 * other)):
        ((_, found),) = blended([whole], other, weight)
        assert torch.allclose(found, right)
    two = torch.stack([network, other])
    ((_, found),) = blended([(whole[0], two)], other, 0.5)
    assert torch.allclose(found.mean(0), (two.mean(0) + other) / 2)
