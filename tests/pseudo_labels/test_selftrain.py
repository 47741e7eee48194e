"""Rounds of self-training: who labels, who is never labeled, what is compared, what stands."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from anatomies import write_anatomies
from crossval_folders import same_weights
from helpers import crash_after, small_recipe, write_dataset, write_recipe

import medssl
from medssl.atlases.scans import Atlases
from medssl.cross_validation.deal import deal
from medssl.data.checks.sketches import look
from medssl.data.datasets.case import Case
from medssl.data.datasets.contents import Contents
from medssl.data.datasets.decathlon import read_dataset
from medssl.data.datasets.known_files import KnownFiles
from medssl.errors import MedSSLError
from medssl.progress import Display
from medssl.pseudo_labels.judge import compare_rounds
from medssl.pseudo_labels.labels import LABELS, Maker, Pool, Rules, labels_stand, write_labels
from medssl.pseudo_labels.plan import Members, Planner
from medssl.pseudo_labels.show import format_selftrain
from medssl.recipe.load import load_recipe
from medssl.runs.folder import RunFolder
from medssl.runs.lineage import predicted_by, read_lineage
from medssl.training.cases import plan_cases
from medssl.workflows.atlas import of_labeled_patients

QUIET = Display(quiet=True)
TWICE: dict[str, Any] = {"folds": 2, "members": "seeds:2", "rounds": 1}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of four labeled patients, two for the test, and three scans without a label.

    Two more files are copies under other names: of a test scan, and of a labeled one.
    """
    folder = tmp_path_factory.mktemp("selftrain")
    root = write_dataset(folder / "data", cases=6, unlabeled=3)
    for copy, case in (("copy_of_test", "case_05"), ("copy_of_labeled", "case_00")):
        image = nib.load(root / "imagesTr" / f"{case}.nii.gz")
        values = np.asarray(image.dataobj, np.float32)
        nib.save(nib.Nifti1Image(values, image.affine), root / "imagesUn" / f"{copy}.nii.gz")
    data = {
        "labeled": [f"case_0{n}" for n in range(4)],
        "test": ["case_04", "case_05"],
    }
    content = small_recipe(
        root,
        folder / "cache",
        data=data,
        method={"name": "supervised"},
        training={"iterations": 10, "checkpoint_every": 4},
    )
    write_recipe(folder / "small.yaml", content)
    return folder


@pytest.fixture(scope="module")
def done(place: Path) -> Path:
    """The folder of a finished self-training: two folds, two seeds, one round."""
    return medssl.selftrain(place / "small.yaml", output=place / "done", **TWICE).path


def planned(place: Path, members: str, *, whole: bool = False, folds: int = 4) -> Planner:
    loaded = load_recipe(place / "small.yaml")
    dealt = deal(loaded, folds, display=QUIET)
    who = Members.parse(members)
    return Planner(str(place / "small.yaml"), (), loaded, dealt, who, place / "plan", whole)


# ---------------------------------------------------------------------- who labels for whom


@pytest.mark.parametrize("members", ["seeds:2", "folds", "methods:supervised,mean_teacher"])
def test_no_member_of_a_fold_uses_its_patients(place: Path, members: str) -> None:
    plan = planned(place, members)
    for fold in plan.folds:
        held = set(plan.dealt.divisions[0][fold]) | {"case_04", "case_05"}
        runs = plan.members_by_fold[fold]
        assert len(runs) == (3 if members == "folds" else 2)
        for run in runs:
            splits = plan_cases(run.loaded, QUIET).splits
            used = {c.patient for c in (*splits.labeled, *splits.unlabeled, *splits.validation)}
            assert not used & held
            assert set(plan.dealt.divisions[0][fold]) <= {c.patient for c in splits.test}
    paths = {run.path for fold in plan.folds for run in plan.members_by_fold[fold]}
    assert len(paths) == {"seeds:2": 8, "folds": 6}.get(members, 8)  # a pair of folds, once
    if members == "seeds:2":
        assert [run.loaded.recipe.seed for run in plan.members_by_fold[0]] == [3, 4]


def test_the_whole_has_all_labels_and_its_members_too(place: Path) -> None:
    plan = planned(place, "seeds:2", whole=True)
    assert plan.folds == [0]
    for run in plan.members_by_fold[0]:
        splits = plan_cases(run.loaded, QUIET).splits
        assert {c.id for c in splits.labeled} == {f"case_0{n}" for n in range(4)}
        assert {c.id for c in splits.test} == {"case_04", "case_05"}
    assert len(planned(place, "folds", whole=True).members_by_fold[0]) == 4


@pytest.mark.parametrize("text", ["seeds:1", "folds:3", "methods:bcp", "methods:bcp,bcp", "seed"])
def test_fewer_than_two_members_are_refused(text: str) -> None:
    with pytest.raises(MedSSLError, match="--members"):
        Members.parse(text)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"rounds": 0}, "--rounds"),
        ({"agree": 0.5}, "--agree"),
        ({"drop": 0.5}, "--drop"),
        ({"whole": True, "folds": 3}, "--folds"),
        ({"members": "methods:bcp,typo"}, "unknown method"),
        ({"overrides": ["data.unlabeled_limit=0"]}, "no unlabeled|there are none"),
    ],
)
def test_what_cannot_work_is_refused_before_training(
    place: Path, tmp_path: Path, wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(MedSSLError, match=said):
        medssl.selftrain(place / "small.yaml", output=tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------- a finished round


def test_a_round_is_a_cross_validation_compared_with_the_members(place: Path, done: Path) -> None:
    record = json.loads((done / "selftrain.json").read_text())
    (first,) = record["rounds"]
    assert record["status"] == "finished"
    assert record["looks"] == 1
    assert first["look"] == "Look 1 at these 4 patients."
    assert "over 4 patients, out of fold in 2 folds" in first["verdict"]["sentence"]
    assert first["gain"] == pytest.approx(first["dice"] - first["before"])
    assert 0 <= first["together"] <= 1
    shown = format_selftrain(done, record)
    assert "looks at the patients out of fold: 1" in shown
    assert first["gain"] > 0 or "not better than one member" in record["ended"]
    found = json.loads((done / "round_1" / "crossval.json").read_text())
    assert found["members"] == ["fold_0", "fold_1"]
    image = place / "data" / "imagesUn" / "case_06.nii.gz"
    (result,) = medssl.predict(done / "round_1", image, done.parent / "predicted")
    assert result.error is None


def test_a_student_learns_half_from_truth_and_ends_on_it(done: Path) -> None:
    recipe = load_recipe(done / "round_1" / "pseudo" / "fold_0" / "recipe.yaml").recipe
    last = load_recipe(done / "round_1" / "fold_0" / "recipe.yaml").recipe
    assert (recipe.training.iterations, last.training.iterations) == (9, 1)
    assert (last.training.schedule.name, last.training.schedule.peak) == ("finetune", 0.1)
    assert str(last.network.given).endswith("round_1/pseudo/fold_0")
    folder = done / "round_1" / "labels" / "fold_0"
    cases = read_dataset(folder, allow_outside=True).training
    guessed = [
        c
        for c in cases
        if c.label and c.label.parent.name == LABELS and c.label.parent == folder / LABELS
    ]
    assert {c.id for c in guessed} == {"case_06", "case_07", "case_08", "copy_of_labeled"} & {
        c.id for c in guessed
    }
    assert len(guessed) in (3, 4)
    assert abs(len(cases) - 2 * len(guessed)) <= 1
    with (folder / "unlabeled.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(r["agreement"]) for r in rows] == sorted(float(r["agreement"]) for r in rows)


def test_no_ancestor_of_a_student_saw_its_held_out_patients(place: Path, done: Path) -> None:
    dealt = json.loads((done / "selftrain.json").read_text())["folds"]
    contents = Contents(KnownFiles(None))
    images = place / "data" / "imagesTr"
    for fold, patients in enumerate(dealt):
        lineage = read_lineage(RunFolder(done / "round_1" / f"fold_{fold}"))
        nodes = list(lineage.everyone())
        assert any("predictions.json" in node.named for node in nodes)  # the members
        assert all(node.known for node in nodes)
        seen = {p for node in nodes for p in (*node.labels, *node.images)}
        voxels = {h for node in nodes for own in node.images.values() for h in own}
        for name in (*patients, "case_04", "case_05"):
            assert name not in seen
            case = Case(name, (images / f"{name}.nii.gz",), None, name)
            assert not voxels & set(contents.all_of(case))


def test_a_second_round_is_a_second_look(place: Path, done: Path, tmp_path: Path) -> None:
    shutil.copytree(done, tmp_path / "out")
    plan = replace(planned(place, "seeds:2", folds=2), folder=tmp_path / "out")
    spec = plan.loaded.recipe.spec
    labels = [plan.place(fold, "round_1", "labels") for fold in plan.folds]
    shutil.copytree(tmp_path / "out" / "round_1", tmp_path / "out" / "round_2")
    first, second = (
        [plan.student(n, f, [plan.pseudo(n, f, labels[f], spec)]) for f in plan.folds]
        for n in (1, 2)
    )
    found = compare_rounds(plan, 2, second, first)
    assert found["gain"] == 0
    assert found["look"] == "Look 2 at these 4 patients; its interval is that of a first look."
    assert "round 2 and round 1" in found["verdict"]["sentence"]


def test_the_same_call_trains_nothing_again(
    place: Path, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (done / "selftrain.json").read_text()
    crash_after(monkeypatch, 1)
    again = medssl.selftrain(place / "small.yaml", output=done, **TWICE)
    assert (again.finished, again.total, again.failures) == (8, 8, {})
    assert (done / "selftrain.json").read_text() == before


@pytest.mark.slow
def test_interrupted_rounds_end_as_if_they_never_were(
    place: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for steps in (5, 37, 48):  # in a member; in what is left; not at all
        with monkeypatch.context() as patch:
            crash_after(patch, steps)
            medssl.selftrain(place / "small.yaml", output=tmp_path / "out", **TWICE)
    result = medssl.selftrain(place / "small.yaml", output=tmp_path / "out", **TWICE)
    assert result.summary["status"] == "finished"
    same_weights(done, tmp_path / "out")
    for fold in ("fold_0", "fold_1"):
        one, other = (f / "round_1" / "labels" / fold for f in (done, tmp_path / "out"))
        names = sorted(p.name for p in (one / LABELS).glob("*.nii.gz"))
        assert names == sorted(p.name for p in (other / LABELS).glob("*.nii.gz"))
        for name in (*(f"{LABELS}/{n}" for n in names), "unlabeled.csv", "dataset.json"):
            assert (one / name).read_bytes() == (other / name).read_bytes()


def test_a_changed_member_is_refused_once_a_student_learned_from_it(
    place: Path, done: Path, tmp_path: Path
) -> None:
    shutil.copytree(done, tmp_path / "out")
    seeds, weights = tmp_path / "out" / "members", "fold_1/checkpoints/last.pt"
    shutil.copy(seeds / "seed_4" / weights, seeds / "seed_3" / weights)
    with pytest.raises(MedSSLError, match="member members/seed_3/fold_1 has changed") as refused:
        medssl.selftrain(place / "small.yaml", output=tmp_path / "out", **TWICE)
    assert "round_1/labels/fold_1" in str(refused.value)


# ---------------------------------------------------------------------- labels, by hand


@pytest.fixture
def pool(place: Path) -> Pool:
    """Three scans to label, one held-out patient."""
    dataset = read_dataset(place / "data")
    cases = {c.id: c for c in (*dataset.training, *dataset.unlabeled)}
    return Pool(
        dataset,
        (cases["case_00"],),
        tuple(cases[n].without_label() for n in ("case_06", "case_07", "case_08")),
        (cases["case_05"],),
        Contents(KnownFiles(None), look=look),
    )


def maker(folder: Path, pool: Pool, name: str, sha256: str, seed: int = 0) -> Maker:
    """A member whose label maps are noise."""
    rng, maps = np.random.default_rng(seed), {}
    for case in pool.unlabeled:
        image = nib.load(case.images[0])
        maps[case.id] = folder / name / f"{case.id}.nii.gz"
        maps[case.id].parent.mkdir(parents=True, exist_ok=True)
        values = rng.integers(0, 3, image.shape).astype(np.uint8)
        nib.save(nib.Nifti1Image(values, image.affine), maps[case.id])
    return Maker(name, str(folder / name), sha256, maps)


def test_voxels_without_agreement_are_ignored_and_makers_recorded(
    pool: Pool, tmp_path: Path
) -> None:
    makers = [maker(tmp_path, pool, "a", "1"), maker(tmp_path, pool, "b", "2", seed=1)]
    write_labels(pool, makers, Rules(drop=0.0), tmp_path / "labels")
    dataset = read_dataset(tmp_path / "labels", allow_outside=True)
    assert dataset.labels.ignore_value == 3
    assert dataset.labels.values == (0, 1, 2)
    assert dataset.name == "blobs"
    a, b, label = (
        np.asarray(nib.load(path).dataobj)
        for path in (
            makers[0].maps["case_07"],
            makers[1].maps["case_07"],
            tmp_path / "labels" / LABELS / "case_07.nii.gz",
        )
    )
    assert np.array_equal(label, np.where(a == b, a, 3))
    sources = predicted_by([tmp_path / "labels" / LABELS / "case_07.nii.gz"])
    assert [Path(path) for _, path in sources] == [tmp_path / "a", tmp_path / "b"]


def test_labels_stand_until_a_member_changes(pool: Pool, tmp_path: Path) -> None:
    makers = [maker(tmp_path, pool, "a", "1"), maker(tmp_path, pool, "b", "2", seed=1)]
    folder, run = tmp_path / "labels", tmp_path / "run"
    write_labels(pool, makers, Rules(), folder)
    assert labels_stand(pool, makers, Rules(), folder, run, QUIET)
    assert labels_stand(pool, makers[::-1], Rules(), folder, run, QUIET)  # in any order
    changed = [makers[0], replace(makers[1], sha256="other")]
    run.mkdir()
    (run / "recipe.yaml").touch()
    with pytest.raises(MedSSLError, match="member b has changed since"):
        labels_stand(pool, changed, Rules(), folder, run, QUIET)
    (run / "recipe.yaml").unlink()
    assert not labels_stand(pool, changed, Rules(), folder, run, QUIET)
    assert not folder.exists()


def test_an_edited_label_does_not_stand(pool: Pool, tmp_path: Path) -> None:
    makers = [maker(tmp_path, pool, "a", "1"), maker(tmp_path, pool, "b", "2", seed=1)]
    write_labels(pool, makers, Rules(), tmp_path / "labels")
    label = tmp_path / "labels" / LABELS / "case_06.nii.gz"
    shutil.copy(label.with_name("case_07.nii.gz"), label)
    assert not labels_stand(pool, makers, Rules(), tmp_path / "labels", tmp_path / "run", QUIET)


@pytest.mark.parametrize("how", ["exact", "in other intensities"])
def test_a_copy_of_a_held_out_scan_gets_no_label(pool: Pool, tmp_path: Path, how: str) -> None:
    copy = next(c for c in pool.dataset.unlabeled if c.id == "copy_of_test")
    if how != "exact":
        image = nib.load(copy.images[0])
        values = np.asarray(image.dataobj, np.float32)
        nib.save(nib.Nifti1Image(40 - 0.3 * values, image.affine), tmp_path / "other.nii.gz")
        copy = replace(copy, images=(tmp_path / "other.nii.gz",))
    found = replace(pool, unlabeled=(*pool.unlabeled, copy)).without_copies(QUIET)
    assert found.unlabeled == pool.unlabeled


@pytest.mark.parametrize("how", ["id", "voxels"])
def test_a_pseudo_label_of_a_held_out_patient_is_refused(
    pool: Pool, tmp_path: Path, how: str
) -> None:
    makers = [maker(tmp_path, pool, "a", "1"), maker(tmp_path, pool, "b", "2", seed=1)]
    folder = tmp_path / "labels"
    write_labels(pool, makers, Rules(), folder)
    pool.refuse_held_back(folder)
    image = pool.dataset.root / (
        "imagesTr/case_05.nii.gz" if how == "id" else "imagesUn/copy_of_test.nii.gz"
    )
    header = json.loads((folder / "dataset.json").read_text())
    item = {"image": str(image.resolve()), "label": f"{LABELS}/case_06.nii.gz"}
    header["training"].append(item)
    (folder / "dataset.json").write_text(json.dumps(header))
    with pytest.raises(MedSSLError, match="is of the held-out case 'case_05'"):
        pool.refuse_held_back(folder)


# ---------------------------------------------------------------------- atlases


@pytest.fixture(scope="module")
def anatomies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of three labeled patients whose scans align, and their atlases."""
    folder = tmp_path_factory.mktemp("anatomies")
    root = write_anatomies(folder / "data", 5)
    data = {"labeled": ["case_00", "case_01", "case_03"], "test": 0}
    changes = {"method": {"name": "supervised"}, "training": {"iterations": 4}}
    content = small_recipe(root, folder / "cache", data=data, **changes)
    medssl.atlas(write_recipe(folder / "a.yaml", content), output=folder / "atlases")
    return folder


def test_a_fold_takes_the_atlases_of_its_own_patients(anatomies: Path, tmp_path: Path) -> None:
    labeled = {"case_00", "case_01", "case_03"}
    loaded = load_recipe(anatomies / "a.yaml")
    dealt = deal(loaded, 3, display=QUIET)
    for fold, (patient,) in enumerate(dealt.divisions[0]):
        own = load_recipe(anatomies / "a.yaml", dealt.overrides("supervised", 0, fold))
        plan, folder = plan_cases(own, QUIET, uses_unlabeled=True), tmp_path / str(fold)
        predictor = of_labeled_patients(anatomies / "atlases", own, plan, folder)
        assert isinstance(predictor.model, Atlases)
        assert {a.patient for a in predictor.model.atlases} == labeled - {patient}
        assert set(read_lineage(RunFolder(folder)).labels) == labeled - {patient}


def test_atlases_are_one_more_member(anatomies: Path, tmp_path: Path) -> None:
    found = medssl.selftrain(
        anatomies / "a.yaml",
        output=tmp_path / "out",
        with_atlas=anatomies / "atlases",
        members="seeds:2",
        rounds=1,
        whole=True,
        drop=0.0,
    )
    assert found.summary["status"] == "finished"
    record = tmp_path / "out" / "round_1" / "labels" / "whole" / LABELS / "predictions.json"
    members = json.loads(record.read_text())["models"]["members"]["options"]["members"]
    assert list(members) == ["members/seed_3/whole", "members/seed_4/whole", "atlases/whole"]


def test_atlases_that_do_not_align_are_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(MedSSLError, match="not a folder of `medssl atlas`"):
        medssl.selftrain(place / "small.yaml", output=tmp_path / "out", with_atlas=tmp_path)
