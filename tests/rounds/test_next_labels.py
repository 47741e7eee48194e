"""A round, from a trained run to the folder that a labeling program opens."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from helpers import AFFINE, blob_case, small_recipe, write_dataset, write_recipe

import medssl
from medssl import cli
from medssl.data.datasets.decathlon import read_dataset
from medssl.data.images.volume import read_header
from medssl.errors import MedSSLError
from medssl.rounds.record import read_round


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of one recipe, alone and as the folds of a cross-validation.

    Cases 0 to 5 have labels; 6 to 9 have none; ``copy`` has none and is case 0 once more.
    """
    here = tmp_path_factory.mktemp("next")
    write_dataset(here / "data", cases=6, unlabeled=4)
    shutil.copyfile(
        here / "data" / "imagesTr" / "case_00.nii.gz", here / "data" / "imagesUn" / "copy.nii.gz"
    )
    content = small_recipe(
        here / "data",
        here / "cache",
        data={"labeled": 4, "test": 2},
        method={"name": "supervised"},
        training={"iterations": 2, "checkpoint_every": 2, "validate_every": 2},
        evaluation={"splits": []},
    )
    recipe = write_recipe(here / "small.yaml", content)
    medssl.train(recipe, output=here / "run", device="cpu")
    for fold in (0, 1):
        shutil.copytree(here / "run", here / "cv" / f"fold_{fold}")
    medssl.train(recipe, output=here / "other", overrides=["seed=9"], device="cpu")
    shutil.copyfile(
        here / "other" / "checkpoints" / "last.pt", here / "cv/fold_1/checkpoints/last.pt"
    )
    record = {"status": "finished", "members": ["fold_0", "fold_1"]}
    (here / "cv" / "crossval.json").write_text(json.dumps(record))
    return here


def test_a_round_has_images_drafts_and_where_they_are_in_doubt(
    folder: Path, tmp_path: Path
) -> None:
    found = medssl.next_labels(
        folder / "run", tmp_path / "round1", count=2, rule="combined", device="cpu"
    )
    assert len(found.ids) == 2
    assert set(found.ids) < {"case_06", "case_07", "case_08", "case_09"}
    assert any("copy is left out: it is a copy of case_00" in note for note in found.notes)
    for scan in found.round.scans:
        place = tmp_path / "round1" / scan.id
        source = folder / "data" / "imagesUn" / f"{scan.id}.nii.gz"
        assert (place / "image.nii.gz").read_bytes() == source.read_bytes()
        assert (place / "label.nii.gz").read_bytes() == (place / "draft.nii.gz").read_bytes()
        header = read_header(place / "label.nii.gz")
        assert header.shape == (24, 24, 12)
        assert np.allclose(header.affine, AFFINE)
        assert set(np.unique(nib.load(place / "draft.nii.gz").get_fdata())) <= {0, 1, 2}
        assert 0 < (scan.expected_dice or 0) < 1
        assert {s.plane for s in scan.slices} == {"sagittal", "coronal", "axial"}
    assert read_round(tmp_path / "round1") == found.round
    with (tmp_path / "round1" / "slices.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(s.slices) for s in found.round.scans)
    page = (tmp_path / "round1" / "round.html").read_text()
    for scan in found.round.scans:
        assert f'id="{scan.id}"' in page
    assert 'src="http' not in page
    assert {"itksnap_labels.txt", "slicer_colors.ctbl"} < {
        p.name for p in (tmp_path / "round1").iterdir()
    }


def test_the_folds_of_a_cross_validation_draw_one_draft(folder: Path, tmp_path: Path) -> None:
    one = medssl.next_labels(folder / "run", tmp_path / "a", count=9, device="cpu")
    both = medssl.next_labels(folder / "cv", tmp_path / "b", count=9, device="cpu")
    assert sorted(both.ids) == sorted(one.ids)
    assert "9 scans are wanted and 4 can be chosen" in both.notes
    assert both.round.model_sha256 != one.round.model_sha256
    assert both.round.model.count("fold_") == 2
    run = medssl.predict(folder / "cv", folder / "data" / "imagesUn", tmp_path / "p", device="cpu")
    for result in run:
        if result.case_id in both.ids:
            own = nib.load(tmp_path / "b" / result.case_id / "draft.nii.gz")
            assert np.array_equal(own.get_fdata(), nib.load(result.path).get_fdata())


def test_test_patients_and_what_is_labeled_are_never_chosen(folder: Path, tmp_path: Path) -> None:
    splits = json.loads((folder / "run" / "splits.json").read_text())
    assert len(splits["test"]) == 2
    pool = tmp_path / "pool"
    pool.mkdir()
    dataset = read_dataset(folder / "data")
    for case in dataset.training:  # under other names, in other files
        image = nib.load(case.images[0])
        nib.save(image, pool / f"x_{case.id}.nii")
    faint = 0.3 * np.asarray(image.dataobj, np.float32) + 7
    nib.save(nib.Nifti1Image(faint, AFFINE), pool / "faint.nii")
    nib.save(nib.Nifti1Image(blob_case(20)[0], AFFINE), pool / "case_07.nii.gz")
    nib.save(nib.Nifti1Image(blob_case(21)[0], AFFINE), pool / "new.nii.gz")
    (pool / "broken.nii.gz").write_bytes(b"no image")
    found = medssl.next_labels(
        folder / "run", tmp_path / "r", pool=pool, count=9, rule="diversity", device="cpu"
    )
    # An id that the dataset has already is told apart by the folder.
    assert sorted(found.ids) == ["new", "pool_case_07"]
    assert not any(scan.of_dataset for scan in found.round.scans)
    assert sum("it is a copy of" in note for note in found.notes) == 7
    assert any(f"a copy of {case.id} in other intensities" in note for note in found.notes)
    assert any("broken is left out" in note for note in found.notes)
    with pytest.raises(MedSSLError, match="no scan is left that could be labeled"):
        medssl.next_labels(
            folder / "run", tmp_path / "s", pool=folder / "data" / "imagesTr", device="cpu"
        )
    assert not (tmp_path / "s").exists()


def test_what_was_drawn_can_be_labeled_and_taken(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDSSL_CACHE", str(tmp_path / "cache"))
    shutil.copytree(folder / "data", tmp_path / "data")
    options = {"count": 2, "rule": "random", "seed": 1, "device": "cpu"}
    found = medssl.next_labels(folder / "run", tmp_path / "r", **options)
    again = medssl.next_labels(folder / "run", tmp_path / "again", **options)
    assert again.round == found.round
    for name in found.ids:
        label = blob_case(int(name[-2:]))[1]
        nib.save(nib.Nifti1Image(label, AFFINE), tmp_path / "r" / name / "label.nii.gz")
    # Drafts after two iterations are noise: where labels lie says nothing yet.
    accepted = medssl.accept(tmp_path / "r", tmp_path / "data", confirmed=True)
    assert sorted(accepted.accepted) == sorted(found.ids)
    assert len(read_dataset(tmp_path / "data").training) == 8


def test_what_cannot_work_is_refused_first_and_nothing_is_left(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled = tmp_path / "filled"
    filled.mkdir()
    (filled / "mine.txt").write_text("mine")
    for options, message in (
        ({"rule": "guess"}, "there is no rule 'guess'"),
        ({"count": 0}, "0 scans are asked for"),
        ({"output": filled}, "the folder of the round exists and is not empty"),
        ({"run": tmp_path / "none"}, "none"),
    ):
        given = {"run": folder / "run", "output": tmp_path / "out", "device": "cpu", **options}
        with pytest.raises(MedSSLError, match=message):
            medssl.next_labels(**given)
    assert [p.name for p in filled.iterdir()] == ["mine.txt"]

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medssl.rounds.next_labels.write_round_page", fails)
    with pytest.raises(MedSSLError, match="No space left"):
        medssl.next_labels(folder / "run", tmp_path / "out", rule="random", device="cpu")
    assert not (tmp_path / "out").exists()


def test_the_command_names_the_scans_and_what_comes_next(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    round1 = tmp_path / "round1"
    words = ["next", str(folder / "run"), "--count", "1", "--output", str(round1)]
    assert cli.run([*words, "--rule", "uncertainty", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "  1  case_0" in said
    assert f"medssl accept {round1} --dataset {folder / 'data'}" in said
    assert cli.run([*words, "--device", "cpu"]) == 2
    assert "exists and is not empty" in capsys.readouterr().err
