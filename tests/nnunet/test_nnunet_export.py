"""The raw folder for nnU-Net: what is believed, who validates, the way back, the trainer."""

from __future__ import annotations

import json
import os
import shutil
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from decathlon_files import header, make_dataset, write, write_json
from run_folders import write_run

import medssl
from medssl import cli
from medssl.data.datasets.contents import Contents
from medssl.data.datasets.decathlon import read_dataset
from medssl.data.datasets.known_files import KnownFiles
from medssl.data.images.volume import read_image
from medssl.errors import MedSSLError
from medssl.inference.record_file import write_record
from medssl.nnunet.folds import Pseudo, plan_folds
from medssl.pseudo_labels.labels import Maker, Pool, Rules, write_labels
from medssl.runs.folder import RunFolder
from medssl.runs.lineage import Lineage, write_lineage

TRUTH = {case: case for case in "abcd"}
SHAPE = (6, 5, 4)
TURNED = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, -3], [0, 0, 3, 7], [0, 0, 0, 1.0]])


# ---------------------------------------------------------------------- folds


def test_a_fold_has_the_pseudo_labels_that_its_patients_did_not_help_to_make() -> None:
    sets = [
        Pseudo({"u__fold_0": "u", "v__fold_0": "a"}, frozenset("cd"), frozenset("ab")),
        Pseudo({"u__fold_1": "u", "v__fold_1": "a"}, frozenset("abd"), frozenset("cd")),
    ]
    folds, used = plan_folds(TRUTH, sets)
    assert used
    assert folds == [
        {"train": ["c", "d", "u__fold_0"], "val": ["a", "b"]},  # v shows patient a
        {"train": ["a", "b", "d", "u__fold_1", "v__fold_1"], "val": ["c"]},  # d was seen
    ]


def test_patients_that_no_maker_saw_validate() -> None:
    folds, used = plan_folds(TRUTH, [Pseudo({"u": "u"}, frozenset("ab"))])
    assert used
    assert sorted(fold["val"] for fold in folds) == [["c"], ["d"]]
    assert all("u" in fold["train"] for fold in folds)
    (one,), _ = plan_folds(TRUTH, [Pseudo({"u": "u"}, frozenset("abc"))])
    assert one == {"train": ["a", "b", "c", "u"], "val": ["d"]}


@pytest.mark.parametrize("seen", [frozenset("abcd"), None])
def test_where_all_were_seen_the_folds_are_of_true_labels(seen: frozenset[str] | None) -> None:
    folds, used = plan_folds(TRUTH, [Pseudo({"u": "u"}, seen)])
    assert not used
    assert sorted(c for fold in folds for c in fold["val"]) == list("abcd")
    assert not any("u" in fold["train"] for fold in folds)
    assert plan_folds({"a": "p", "b": "p"}, [Pseudo({"u": "u"}, seen)]) == ([], False)


# ---------------------------------------------------------------------- there and back


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four patients with labels 11 and 300 and an ignore value, two scans without, one test scan.

    Two channels in files of their own, on an oblique grid.
    """
    root = tmp_path_factory.mktemp("nnunet") / "data"
    rng = np.random.default_rng(0)
    ids = [*(f"case_{n}" for n in range(4)), "un_0", "un_1", "held"]
    items = []
    for case in ids:
        folder = {"u": "imagesUn", "h": "imagesTs"}.get(case[0], "imagesTr")
        for channel in range(2):
            values = rng.normal(100, 10, SHAPE).astype(np.float32)
            write(root / folder / f"{case}_{channel:04d}.nii.gz", values, TURNED)
        label = np.zeros(SHAPE, np.uint16)
        label[1:3, 1:3, 1:3], label[4], label[0, 0, 0] = 11, 300, 7
        images = [f"{folder}/{case}_{channel:04d}.nii.gz" for channel in range(2)]
        if folder == "imagesTr":
            write(root / "labelsTr" / f"{case}.nii.gz", label, TURNED)
            one = {"image": images, "label": f"labelsTr/{case}.nii.gz", "patient": f"p{case[-1]}"}
            items.append({**one, "id": case, "scanner": "x"})
    labels = {"0": "nothing", "11": "liver", "300": "tumor", "7": "ignore"}
    test = [[f"imagesTs/held_{channel:04d}.nii.gz" for channel in range(2)]]
    modality = {"0": "CT", "1": "PET"}
    write_json(
        root, header(training=items, test=test, labels=labels, numTraining=4, modality=modality)
    )
    return root


def raw(place: Path) -> tuple[dict[str, Any], list[dict[str, list[str]]], dict[str, Any]]:
    names = ("dataset.json", "splits_final.json", "medssl.json")
    header, splits, record = (json.loads((place / name).read_text()) for name in names)
    return header, splits, record["cases"]


def values_of(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def same_dataset(one: Path, other: Path) -> None:
    a, b = read_dataset(one), read_dataset(other)
    assert a.labels.values == b.labels.values
    assert a.labels.names == b.labels.names
    assert a.labels.ignore_value == b.labels.ignore_value
    assert (a.name, a.modality) == (b.name, b.modality)
    for role in ("training", "unlabeled", "test"):
        own, their = ({c.id: c for c in getattr(d, role)} for d in (a, b))
        assert own.keys() == their.keys(), role
        for case, first in own.items():
            second = their[case]
            assert first.patient == second.patient
            assert dict(first.meta) == dict(second.meta)
            image = np.stack([read_image(p).values() for p in first.images], -1)
            written = read_image(second.images[0])
            assert np.array_equal(written.values(), image)
            assert np.allclose(written.affine, read_image(first.images[0]).affine, atol=1e-5)
            if first.label is not None and second.label is not None:
                assert np.array_equal(values_of(first.label), values_of(second.label))
            assert (first.label is None) == (second.label is None)


def selftrained(data: Path, place: Path, folds: Sequence[Sequence[str]] | None) -> Path:
    """Write a self-training of one round: two makers each, that agree but in one plane.

    Args:
        folds: patients of each; None: one student of all labels.
    """
    dataset = read_dataset(data)
    numbered = list(enumerate(folds)) if folds else [(0, ())]
    for number, held in numbered:
        truth = tuple(c for c in dataset.training if c.patient not in held)
        makers = []
        for seed in range(2):
            name = f"fold_{number}" if folds else "whole"
            run = write_run(place / "members" / f"seed_{seed}" / name, {"left": [0.5]})
            seen = tuple(sorted({c.patient for c in truth}))
            write_lineage(Lineage(dataset.name, seen), RunFolder(run))
            maps = {}
            for case in dataset.unlabeled:
                label = np.zeros(SHAPE, np.uint16)
                label[1 + number] = 300  # of its own in each fold
                label[4] = 11 * seed
                maps[case.id] = write(run / "maps" / f"{case.id}.nii.gz", label, TURNED)
            makers.append(Maker(str(seed), str(run), "x", maps))
        pool = Pool(dataset, truth, dataset.unlabeled, (), Contents(KnownFiles(None)))
        write_labels(pool, makers, Rules(1.0, 0.0), place / "round_1" / "labels" / name)
    record = {"result": 1, "folds": folds or [["p0"], ["p1"]], "rounds": [{"round": 1}]}
    (place / "selftrain.json").write_text(json.dumps(record))
    return place


def test_true_labels_alone_go_there_and_back(data: Path, tmp_path: Path) -> None:
    target = tmp_path / "Dataset501_Two"
    assert cli.run(["export-dataset", "nnunet", str(data), "--output", str(target)]) == 0
    header, splits, cases = raw(target)
    assert header["labels"] == {"background": 0, "liver": 1, "tumor": 2, "ignore": 3}
    assert header["channel_names"] == {"0": "CT", "1": "PET"}
    assert header["numTraining"] == 4 == len(list((target / "labelsTr").iterdir()))
    assert sorted(c for fold in splits for c in fold["val"]) == [f"case_{n}" for n in range(4)]
    label = values_of(target / "labelsTr" / "case_0.nii.gz")
    assert label.dtype == np.uint8
    assert sorted(np.unique(label)) == [0, 1, 2, 3]
    assert label[0, 0, 0] == 3
    assert {case: one["role"] for case, one in cases.items()}["un_0"] == "unlabeled"
    medssl.import_dataset("nnunet", target, tmp_path / "back")
    same_dataset(data, tmp_path / "back")


def test_regions_go_there_and_back(data: Path, tmp_path: Path) -> None:
    """In nnU-Net's form with its class numbers, and with medssl's record or without."""
    own = shutil.copytree(data, tmp_path / "own")
    header = json.loads((own / "dataset.json").read_text())
    header["regions"] = {"organ": [11, 300], "tumor": [300]}
    (own / "dataset.json").write_text(json.dumps(header))
    target = medssl.export_nnunet(own, tmp_path / "Dataset502_Regions").path
    written, _, _ = raw(target)
    assert written["labels"] == {"background": 0, "organ": [1, 2], "tumor": 2, "ignore": 3}
    assert written["regions_class_order"] == [1, 2]
    assert list(written["labels"])[1:3] == ["organ", "tumor"], "the order that it belongs to"
    medssl.import_dataset("nnunet", target, tmp_path / "back")
    same_dataset(own, tmp_path / "back")
    assert read_dataset(tmp_path / "back").labels == read_dataset(own).labels
    again = medssl.export_nnunet(tmp_path / "back", tmp_path / "Dataset503_Again").path
    assert raw(again)[0] == written | {"name": raw(again)[0]["name"]}
    (target / "medssl.json").unlink()
    medssl.import_dataset("nnunet", target, tmp_path / "plain")
    labels = read_dataset(tmp_path / "plain").labels
    assert labels.names == ("background", "label_1", "tumor")
    assert [(r.name, r.values, r.writes) for r in labels.regions] == [
        ("organ", (1, 2), 1),
        ("tumor", (2,), 2),
    ]


def test_each_fold_has_its_own_pseudo_labels(data: Path, tmp_path: Path) -> None:
    run = selftrained(data, tmp_path / "run", [["p0", "p1"], ["p2"]])  # p3 was held back
    for place in (run / "round_1" / "labels").iterdir():
        content = json.loads((place / "dataset.json").read_text())
        kept = [item for item in content["training"] if item["patient"] != "p3"]
        content |= {"training": kept, "numTraining": len(kept)}
        (place / "dataset.json").write_text(json.dumps(content))
    target = tmp_path / "Dataset502_Folds"
    found = medssl.export_nnunet(data, target, pseudo_labels=run)
    assert (found.labeled, found.pseudo, found.unlabeled, found.test) == (3, 2, 0, 2)
    assert any("held back" in note for note in found.notes)
    header, splits, cases = raw(target)
    assert splits == [
        {"train": ["case_2", "un_0__fold_0", "un_1__fold_0"], "val": ["case_0", "case_1"]},
        {"train": ["case_0", "case_1", "un_0__fold_1", "un_1__fold_1"], "val": ["case_2"]},
    ]
    assert header["numTraining"] == 3 + 4
    for fold in range(2):
        label = values_of(target / "labelsTr" / f"un_0__fold_{fold}.nii.gz")
        assert (label[1 + fold] == 2).all()
        assert (label[4] == 3).all()  # where makers disagree nobody is believed
        assert (label[[0, 3, 5]] == 0).all()
    assert found.ignored == pytest.approx(1 / 6)
    images = [target / "imagesTr" / f"un_0__fold_{fold}_0001.nii.gz" for fold in range(2)]
    assert os.path.samefile(*images)
    assert cases["un_1__fold_1"] == {"case": "un_1", "patient": "un_1", "role": "pseudo"}
    result = medssl.import_dataset("nnunet", target, tmp_path / "back")
    assert (result.labeled, result.unlabeled, result.test) == (3, 2, 2)
    lists = json.loads((tmp_path / "back" / "splits.json").read_text())
    assert lists["fold_0_train"] == ["case_2"]


def test_labels_of_the_whole_validate_nobody(data: Path, tmp_path: Path) -> None:
    run = selftrained(data, tmp_path / "run", None)
    found = medssl.export_nnunet(data, tmp_path / "Dataset503_Whole", pseudo_labels=run)
    _, splits, _ = raw(found.path)
    assert not found.folds_use_pseudo
    assert not any(case.startswith("un_") for fold in splits for case in fold["train"])
    assert any("fold all" in note for note in found.notes)
    medssl.import_dataset("nnunet", found.path, tmp_path / "back")
    same_dataset(data, tmp_path / "back")


def test_unsure_voxels_and_unwanted_scans_of_predictions_do_not_count(
    data: Path, tmp_path: Path
) -> None:
    """One run, that saw p0 and p1: its predictions, maps of its doubt, and weights of scans."""
    folder = tmp_path / "run" / "predictions" / "unlabeled"
    run = write_run(tmp_path / "run", {"left": [0.5]})
    write_lineage(Lineage("T", labels=("p0",), selection=("p1",)), RunFolder(run))
    label, doubt = np.full(SHAPE, 11, np.uint16), np.zeros(SHAPE, np.float32)
    doubt[0, 0], doubt[0, 1] = 0.5, 0.49
    for case in ("un_0", "un_1"):
        write(folder / f"{case}.nii.gz", label, TURNED)
        write(folder / "uncertainty" / f"{case}.nii.gz", doubt, TURNED)
    made = {"model": str(run), "weights_sha256": "", "options": {}}
    files = {c: {"model": "m", "images": [], "files": [f"{c}.nii.gz"]} for c in ("un_0", "un_1")}
    for entry in files.values():
        entry["images"] = [{"file": "x", "sha256": "y"}]
    write_record(folder, {"m": made}, files)
    (run / "unlabeled.csv").write_text("case,weight\nun_1,0\nun_0,0.5\n")
    found = medssl.export_nnunet(data, tmp_path / "Dataset504_Run", pseudo_labels=run)
    _, splits, cases = raw(found.path)
    assert {c: one["role"] for c, one in cases.items() if c.startswith("un")} == {
        "un_0": "pseudo",
        "un_1": "unlabeled",
    }
    written = values_of(found.path / "labelsTr" / "un_0.nii.gz")
    assert (written[0, 0] == 3).all()
    assert (written[0, 1] == 1).all()
    assert sorted(fold["val"] for fold in splits) == [["case_2"], ["case_3"]]
    assert all("un_0" in fold["train"] for fold in splits)


def test_what_cannot_work_is_refused_before_anything_is_written(data: Path, tmp_path: Path) -> None:
    target = tmp_path / "Dataset505_No"
    with pytest.raises(MedSSLError, match="DatasetNNN_NAME"):
        medssl.export_nnunet(data, tmp_path / "501")
    with pytest.raises(MedSSLError, match="no predictions of medssl"):
        medssl.export_nnunet(data, target, pseudo_labels=data)
    with pytest.raises(MedSSLError, match="only a self-training has rounds"):
        medssl.export_nnunet(data, target, pseudo_labels=data, round_number=2)
    run = selftrained(data, tmp_path / "run", None)
    with pytest.raises(MedSSLError, match="no finished round 2"):
        medssl.export_nnunet(data, target, pseudo_labels=run, round_number=2)
    other = make_dataset(tmp_path / "other", ["a", "b"], real=True)
    with pytest.raises(MedSSLError, match="of scans that the dataset has not"):
        medssl.export_nnunet(other, target, pseudo_labels=run)
    assert not target.exists()
    assert cli.run(["export-dataset", "nnunett", str(data), "--output", str(target)]) == 2


def test_a_copy_under_another_name_trains_in_no_fold_of_its_patient(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "data", ["a", "b", "c", "d"], real=True)
    image = nib.load(root / "imagesTr" / "a.nii.gz")
    write(root / "imagesUn" / "copy.nii.gz", values_of(root / "imagesTr" / "a.nii.gz"))
    folder = tmp_path / "predicted"
    write(folder / "copy.nii.gz", np.ones(image.shape, np.uint8))
    run = write_run(tmp_path / "run", {"left": [0.5]})
    write_lineage(Lineage("T", labels=("b",)), RunFolder(run))
    made = {"model": str(run), "weights_sha256": "", "options": {}}
    entry = {"model": "m", "images": [{"file": "x", "sha256": "y"}], "files": ["copy.nii.gz"]}
    write_record(folder, {"m": made}, {"copy": entry})
    found = medssl.export_nnunet(root, tmp_path / "Dataset506_Copy", pseudo_labels=folder)
    _, splits, _ = raw(found.path)
    assert sorted(fold["val"] for fold in splits) == [["a"], ["c"], ["d"]]
    for fold in splits:
        assert ("copy" in fold["train"]) == (fold["val"] != ["a"])


# ---------------------------------------------------------------------- the trainer


def test_the_trainer_takes_the_folds_and_shows_both_kinds_equally_often(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = selftrained(data, tmp_path / "run", [["p0", "p1"], ["p2", "p3"]])
    found = medssl.export_nnunet(data, tmp_path / "Dataset507_T", pseudo_labels=run)

    class Stock:
        plans_manager = types.SimpleNamespace(dataset_name="Dataset507_T")
        fold: int | str = 0
        print_to_log_file = staticmethod(print)

        def do_split(self) -> str:
            return "all of it"

        def get_dataloaders(self) -> list[Any]:
            train, val = self.do_split()
            return [
                package.nnUNetDataLoader(
                    types.SimpleNamespace(identifiers=ids), sampling_probabilities=None
                )
                for ids in (train, val)
            ]

    package = types.ModuleType("nnunetv2.training.nnUNetTrainer.nnUNetTrainer")
    package.nnUNetTrainer = Stock  # type: ignore[attr-defined]
    package.nnUNetDataLoader = lambda data, **kwargs: kwargs  # type: ignore[attr-defined]
    rooms = {
        "nnunetv2": types.ModuleType("nnunetv2"),
        "nnunetv2.paths": types.SimpleNamespace(nnUNet_raw=tmp_path),
        "nnunetv2.training": types.ModuleType("nnunetv2.training"),
        "nnunetv2.training.nnUNetTrainer": types.SimpleNamespace(nnUNetTrainer=package),
    }
    for name, module in rooms.items():
        monkeypatch.setitem(sys.modules, name, module)  # type: ignore[arg-type]
    path = found.path / "trainer" / "nnUNetTrainerMedSSL.py"
    space: dict[str, Any] = {}
    exec(compile(path.read_text(), str(path), "exec"), space)
    trainer = space["nnUNetTrainerMedSSL"]()
    assert trainer.do_split() == (
        ["case_2", "case_3", "un_0__fold_0", "un_1__fold_0"],
        ["case_0", "case_1"],
    )
    train, val = trainer.get_dataloaders()
    assert np.allclose(train["sampling_probabilities"], 0.25)
    assert val["sampling_probabilities"] is None
    cases = {"a": {"role": "labeled"}, "b": {"role": "pseudo"}, "c": {"role": "pseudo"}}
    assert space["shares"](["a", "b", "c"], cases).tolist() == [0.5, 0.25, 0.25]
    assert space["shares"](["b", "c"], cases) is None
    trainer.fold = 2
    with pytest.raises(RuntimeError, match="validate on pseudo-labels"):
        trainer.do_split()
    trainer.fold = "all"
    assert trainer.do_split() == "all of it"
