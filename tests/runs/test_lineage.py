"""Lineage: whose labels and images a run saw, itself and through its ancestors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from helpers import small_recipe, write_dataset, write_itk, write_recipe

import medssl
from medssl.data.datasets.case import Case
from medssl.data.datasets.contents import Contents
from medssl.data.datasets.known_files import KnownFiles
from medssl.errors import MedSSLError
from medssl.progress import Display
from medssl.recipe.load import load_recipe
from medssl.runs.folder import RunFolder
from medssl.runs.lineage import (
    Lineage,
    predicted_by,
    read_ancestor,
    read_lineage,
    write_lineage,
)
from medssl.runs.seen import Seen, refuse_seen, who_was_seen
from medssl.training.cases import plan_cases
from medssl.workflows.training_order import refuse_seen_patients


def case(patient: str, image: Path = Path("none.nii")) -> Case:
    return Case(f"{patient}_scan", (image,), None, patient)


def nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = nib.load(path)
    return np.asarray(image.dataobj), image.affine


COARSE = Lineage(
    dataset="heart",
    labels=("a", "b"),
    selection=("c",),
    images={"a": ("11",), "b": (), "d": ("44",)},
    how="data.roi",
    source="runs/coarse",
)


def test_labels_of_an_ancestor_are_found_however_deep() -> None:
    middle = Lineage(dataset="heart", labels=("x",), ancestors=(COARSE,), how="k", source="s")
    run = Lineage(dataset="heart", labels=("e",), images={"e": (), "f": ()}, ancestors=(middle,))
    seen = who_was_seen(run, [case(p) for p in "abcdefg"], "heart")
    coarse = "data.roi: runs/coarse"
    assert seen.labels == {"a": coarse, "b": coarse, "c": coarse, "e": "the run itself"}
    assert seen.images == ("d", "f")
    assert seen.unknown == ()
    # Cases that may have chosen the checkpoint: c is none whose label was trained on.
    chosen = who_was_seen(run, [case("c")], "heart", chosen=True)
    assert (chosen.labels, chosen.images) == ({}, ())


def test_a_name_counts_within_its_dataset_and_an_image_everywhere(tmp_path: Path) -> None:
    image = write_dataset(tmp_path, cases=1) / "imagesTr" / "case_00.nii.gz"
    contents = Contents(KnownFiles(None))
    digest = contents.of(case("a", image))
    copy = write_itk(tmp_path / "renamed.nrrd", *nifti(image))
    run = Lineage(dataset="heart", labels=("a",), images={"a": (digest,), "b": ("0",)})
    assert who_was_seen(run, [case("a")], "liver").labels == {}
    renamed = who_was_seen(run, [case("other", copy)], "liver", contents=contents)
    assert renamed.labels == {"other": "the run itself"}
    unlabeled = Lineage(dataset="heart", images={"u": (digest,)})
    assert who_was_seen(unlabeled, [case("z", image)], "liver", contents=contents).images == ("z",)


def test_scores_of_seen_patients_are_refused_by_name() -> None:
    refuse_seen(Seen({}, ("p",), ("q",)), "test", where="run")
    many = {f"p{i}": "data.roi: coarse" for i in range(7)}
    with pytest.raises(MedSSLError) as caught:
        refuse_seen(Seen(many, (), ()), "test", where="run")
    text = str(caught.value)
    assert "p0, p1, p2, p3, p4 and 2 more (by data.roi: coarse)" in text
    assert "these test patients cannot be scored" in text


def test_the_record_is_read_back_and_a_damaged_one_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    lineage = Lineage("heart", ("a",), (), {"a": ("1", "2")}, (COARSE, Lineage(known=False)))
    write_lineage(lineage, run)
    assert read_lineage(run).as_dict() == lineage.as_dict()
    assert read_lineage(run).ancestors[0].source == "runs/coarse"
    for text in ("{", "{}", '{"format": 2}', "[]", '{"format": 1, "labels": 3}'):
        run.lineage.write_text(text)
        with pytest.raises(MedSSLError, match="whose labels the run saw is damaged"):
            read_lineage(run)


def test_of_what_recorded_nothing_splits_tell_or_nobody_knows(tmp_path: Path) -> None:
    write_recipe(tmp_path / "recipe.yaml", small_recipe(tmp_path, tmp_path))
    (tmp_path / "manifest.json").write_text(json.dumps({"dataset_name": "blobs"}))
    splits = {"labeled": ["c0"], "unlabeled": ["c1"], "validation": ["c2"], "test": ["c3"]}
    (tmp_path / "splits.json").write_text(json.dumps(splits))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "stage.pt").touch()
    for path in (tmp_path, tmp_path / "checkpoints" / "stage.pt"):
        found = read_ancestor("key", path)
        assert (found.dataset, found.labels, found.selection) == ("blobs", ("c0",), ("c2",))
        assert set(found.images) == {"c0", "c1"}
        assert found.known
    loose = tmp_path / "loose.pt"
    loose.touch()
    (tmp_path / "other").mkdir()
    shutil.move(loose, tmp_path / "other" / "loose.pt")
    assert not read_ancestor("key", tmp_path / "other" / "loose.pt").known
    with pytest.raises(MedSSLError, match="names a run that is not there"):
        read_ancestor("data.ancestors", tmp_path / "nowhere")


def test_folds_of_a_cross_validation_together_saw_all_labels(tmp_path: Path) -> None:
    (tmp_path / "crossval.json").write_text("{}")
    for fold, label in enumerate("ab"):
        run = RunFolder(tmp_path / f"fold_{fold}")
        run.path.mkdir()
        write_recipe(run.recipe, small_recipe(tmp_path, tmp_path))
        write_lineage(Lineage("heart", (label,)), run)
    seen = who_was_seen(read_ancestor("init", tmp_path), [case("a"), case("b")], "heart")
    assert set(seen.labels) == {"a", "b"}


def predicted(folder: Path, run: Path) -> None:
    """Write the record that lies beside predictions of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    model = {"model": str(run), "weights_sha256": "", "options": {}}
    content = {"format": 1, "models": {"k": model}, "predictions": {}}
    (folder / "predictions.json").write_text(json.dumps(content))


def test_pseudo_labels_carry_what_the_run_that_predicted_them_saw(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data", cases=5)
    first = RunFolder(tmp_path / "first")
    first.path.mkdir()
    write_recipe(first.recipe, small_recipe(root, tmp_path))
    write_lineage(Lineage("blobs", ("case_03",), (), {"case_03": ()}), first)
    recipe = write_recipe(tmp_path / "small.yaml", small_recipe(root, tmp_path / "cache"))
    split = ["data.labeled=[case_00, case_01]", "data.test=[case_02, case_03]"]
    plan_of(recipe, split)
    predicted(root / "labelsTr", first.path)
    with pytest.raises(MedSSLError, match=r"case_03 \(by predictions.json: .*first\)"):
        plan_of(recipe, split)


def test_only_labels_that_the_record_lists_were_predicted(tmp_path: Path) -> None:
    folder = tmp_path / "round" / "labels"
    folder.mkdir(parents=True)
    entries = {
        "a": {"model": "k", "files": ["a.nii.gz"]},
        "b": {"model": "m", "files": ["b.nii.gz"]},
    }
    models = {"k": {"model": "runs/k"}, "m": {"model": "runs/m, runs/n"}}
    content = {"format": 1, "models": models, "predictions": entries}
    (folder / "predictions.json").write_text(json.dumps(content))
    assert predicted_by([folder / "drawn.nii.gz", None]) == []
    assert predicted_by([folder / "a.nii.gz"]) == [("predictions.json", "runs/k")]
    (folder / "b.nii.gz").touch()
    linked = tmp_path / "labelsTr" / "b.nii.gz"
    linked.parent.mkdir()
    linked.symlink_to(folder / "b.nii.gz")
    assert [s for _, s in predicted_by([linked])] == ["runs/m", "runs/n"]
    (tmp_path / "runs" / "k").mkdir(parents=True)  # named from the folder of the round's command
    assert predicted_by([folder / "a.nii.gz"])[0][1] == str(tmp_path / "runs" / "k")


def plan_of(recipe: Path, overrides: list[str]) -> None:
    """Do what comes before a training: plan it, and refuse what could not be scored."""
    loaded = load_recipe(recipe, overrides)
    refuse_seen_patients(loaded, plan_cases(loaded, Display(quiet=True)))


def test_predictions_of_patients_whose_labels_their_run_saw_are_not_scored(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data", cases=2)
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    write_recipe(run.recipe, small_recipe(root, tmp_path))
    shutil.copytree(root / "labelsTr", tmp_path / "maps")
    predicted(tmp_path / "maps", run.path)
    for labels, scored in ((("case_01",), False), (("case_07",), True)):
        write_lineage(Lineage("blobs", labels), run)
        arguments = (tmp_path / "maps", root / "labelsTr", tmp_path / "out")
        if scored:
            found = medssl.evaluate(*arguments)
            assert found["n_cases"] == 2
            assert "unknown_ancestors" not in found
        else:
            with pytest.raises(MedSSLError, match=r"predicted patients cannot be scored.*case_01"):
                medssl.evaluate(*arguments)
            assert not (tmp_path / "out").exists()
    predicted(tmp_path / "maps", tmp_path / "gone")
    found = medssl.evaluate(*arguments)
    assert found["unknown_ancestors"] == [f"predictions.json: {tmp_path / 'gone'}"]


# ---------------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six labeled cases, three for training, two to test on."""
    folder = tmp_path_factory.mktemp("lineage")
    write_dataset(folder / "data", cases=6, unlabeled=1)
    content = small_recipe(folder / "data", folder / "cache", training={"iterations": 2})
    return write_recipe(folder / "small.yaml", content)


@pytest.fixture(scope="module")
def teacher(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that saw the labels of cases 0 and 1, and the images of 2 and 6."""
    output = tmp_path_factory.mktemp("teacher") / "run"
    data = ["data.labeled=[case_00, case_01]", "data.test=[case_03, case_04, case_05]"]
    medssl.train(recipe, overrides=data, output=output, device="cpu")
    return output


def train(recipe: Path, output: Path, *overrides: str) -> dict[str, Any]:
    result = medssl.train(recipe, overrides=overrides, output=output, device="cpu")
    return result.summaries


def test_a_run_records_whom_it_saw(teacher: Path) -> None:
    found = json.loads((teacher / "lineage.json").read_text())
    assert (found["dataset"], found["labels"], found["selection"]) == (
        "blobs",
        ["case_00", "case_01"],
        [],
    )
    assert set(found["images"]) == {"case_00", "case_01", "case_02", "case_06"}
    assert all(len(d) == 32 for own in found["images"].values() for d in own)
    assert found["ancestors"] == []


def test_no_patient_is_scored_whose_label_a_teacher_saw(
    recipe: Path, teacher: Path, tmp_path: Path
) -> None:
    """Refused before training, and again by evaluate where training did not score."""
    split = ["data.labeled=[case_03, case_04]", "data.test=[case_01, case_05]"]
    taught = [*split, f"data.ancestors=[{teacher}]"]
    with pytest.raises(MedSSLError, match=r"test patients cannot be scored.*: case_01 \(by"):
        train(recipe, tmp_path / "run", *taught)
    assert not (tmp_path / "run").exists()
    assert train(recipe, tmp_path / "run", *taught, "evaluation.splits=[]") == {}
    with pytest.raises(MedSSLError, match=r"case_01 \(by data.ancestors: .*run\)"):
        medssl.evaluate_run(tmp_path / "run", "test", device="cpu")
    assert not (tmp_path / "run" / "evaluation").exists()
    with pytest.raises(MedSSLError, match=r"calibration patients cannot be scored.*case_00"):
        medssl.calibrate(tmp_path / "run", cases=["case_00", "case_02"], device="cpu")
    # The next generation inherits it.
    grandchild = [*split, f"training.stages.pretrain.reuse={tmp_path / 'run'}"]
    with pytest.raises(MedSSLError, match="case_01"):
        train(recipe, tmp_path / "grandchild", *grandchild)


def test_a_score_is_marked_transductive_where_the_image_alone_was_seen(
    recipe: Path, teacher: Path, tmp_path: Path
) -> None:
    split = ["data.labeled=[case_03, case_04]", "data.test=[case_02, case_05]"]
    assert "transductive" not in train(recipe, tmp_path / "clean", *split)["test"]
    found = train(recipe, tmp_path / "run", *split, f"data.ancestors=[{teacher}]")["test"]
    assert found["transductive"] == ["case_02"]
    own = train(recipe, tmp_path / "own", *split, "data.transductive=true")["test"]
    assert own["transductive"] == ["case_02", "case_05"]
    warnings = medssl.compare([tmp_path / "clean", tmp_path / "own"])["warnings"]
    assert any("images of 2 of 2 patients (case_02, case_05)" in w for w in warnings)
    page = medssl.report(tmp_path / "own", pictures=False).read_text()
    assert "Transductive: images of 2 of 2 patients" in page
