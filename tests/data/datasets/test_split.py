"""Splits: by patient, nested, with hidden labels, and stable."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from decathlon_files import header, make_dataset, touch, write_json

from medssl.data.datasets.case import Case, Dataset, LabelMap
from medssl.data.datasets.decathlon import read_dataset
from medssl.data.datasets.split import ROLES, Splits, make_splits
from medssl.data.datasets.split_file import load_splits, save_splits, split_hash
from medssl.errors import MedSSLError
from medssl.settings.recipe import DataSettings


def make(patients: int = 20, frames: int = 2, unlabeled: int = 0, test: int = 0) -> Dataset:
    """A dataset in memory: patients p00..., each with some frames."""

    def case(name: str, patient: str, label: bool) -> Case:
        return Case(name, (Path(f"{name}.nii"),), Path(f"{name}_l.nii") if label else None, patient)

    return Dataset(
        root=Path("nowhere"),
        name="memory",
        modality=("MRI",),
        labels=LabelMap((0, 1), ("background", "a")),
        training=tuple(
            case(f"p{p:02d}_frame{f}", f"p{p:02d}", True)
            for p in range(patients)
            for f in range(frames)
        ),
        unlabeled=tuple(case(f"u{n}", f"u{n}", False) for n in range(unlabeled)),
        test=tuple(case(f"t{n}", f"t{n}", False) for n in range(test)),
    )


def split(dataset: Dataset, *, uses_unlabeled: bool = True, **data: Any) -> Splits:
    return make_splits(dataset, DataSettings(**data), uses_unlabeled=uses_unlabeled)


def ids(cases: tuple[Case, ...]) -> set[str]:
    return {c.id for c in cases}


def patients(cases: tuple[Case, ...]) -> set[str]:
    return {c.patient for c in cases}


def refused(dataset: Dataset, *expected: str, **data: Any) -> str:
    with pytest.raises(MedSSLError) as info:
        split(dataset, **data)
    text = str(info.value)
    for part in expected:
        assert part in text
    assert len(text.splitlines()) <= 6
    assert info.value.fix
    assert info.value.where
    return text


def test_numbers_are_patients_and_labels_are_hidden() -> None:
    splits = split(make(), labeled=5, validation=2, test=4)
    assert [len(getattr(splits, r)) for r in ROLES] == [6, 22, 4, 8]
    assert all(c.label is None for c in splits.unlabeled)
    for role in ("labeled", "validation", "test"):
        assert all(c.label is not None for c in getattr(splits, role))
    groups = [patients(getattr(splits, r)) for r in ROLES]
    assert sum(len(g) for g in groups) == len(set.union(*groups)) == 20


@pytest.mark.parametrize("seed", range(5))
def test_labeled_subsets_nest_and_test_stays(seed: int) -> None:
    made = [split(make(), labeled=n, test=4, split_seed=seed) for n in range(1, 16)]
    for small, large in itertools.pairwise(made):
        assert ids(small.labeled) < ids(large.labeled)
        assert small.test == large.test
    with_validation = [split(make(), labeled=n, validation=1, test=4) for n in (4, 8)]
    assert ids(with_validation[0].labeled) < ids(with_validation[1].labeled)


def test_seed_changes_the_split_and_only_the_seed() -> None:
    first = split(make(), labeled=4, test=4)
    assert split(make(), labeled=4, test=4) == first
    # The order in which dataset.json lists the cases does not matter.
    shuffled = make()
    shuffled = Dataset(**{**vars(shuffled), "training": shuffled.training[::-1]})
    assert split_hash(split(shuffled, labeled=4, test=4)) == split_hash(first)
    others = {split_hash(split(make(), labeled=4, test=4, split_seed=s)) for s in range(6)}
    assert len(others) == 6


def test_hash_depends_on_roles_not_on_order() -> None:
    splits = split(make(), labeled=4, test=4)
    turned = Splits(**{**vars(splits), "labeled": splits.labeled[::-1], "notes": ("x",)})
    assert split_hash(turned) == split_hash(splits)
    swapped = Splits(**{**vars(splits), "labeled": splits.test, "test": splits.labeled})
    assert split_hash(swapped) != split_hash(splits)
    # Pinned: a run of today must find its split again tomorrow.
    small = split(make(4, 1), labeled=["p00", "p01"], test=["p03"])
    text = '{"labeled": ["p00_frame0", "p01_frame0"], "test": ["p03_frame0"], '
    text += '"unlabeled": ["p02_frame0"], "validation": []}'
    assert split_hash(small) == hashlib.sha256(text.encode()).hexdigest()


def test_all_labeled_and_supervised() -> None:
    splits = split(make(), uses_unlabeled=False)
    assert len(splits.labeled) == 40
    assert splits.unlabeled == splits.validation == splits.test == ()
    assert split(make(), uses_unlabeled=False, labeled=4).unlabeled == ()


def test_lists_of_cases_and_patients() -> None:
    splits = split(make(), labeled=["p03", "p05_frame1"], validation=["p07_frame0"], test=["p09"])
    assert [c.id for c in splits.labeled] == ["p03_frame0", "p03_frame1", "p05_frame1"]
    assert ids(splits.validation) == {"p07_frame0"}
    # The other frame of a validation patient is left out; that of a labeled one may be unlabeled.
    assert "p07_frame1" not in ids(splits.unlabeled)
    assert "p05_frame0" in ids(splits.unlabeled)
    assert any("1 unlabeled images (first: p07_frame1) are left out" in n for n in splits.notes)


def test_unlabeled_images_of_held_back_patients_are_left_out() -> None:
    dataset = make()
    extra = Case("imagesUn_p09_frame7", (Path("q.nii"),), None, "p09")
    dataset = Dataset(**{**vars(dataset), "unlabeled": (extra,)})
    assert extra not in split(dataset, labeled=["p03"], test=["p09"]).unlabeled
    assert extra in split(dataset, labeled=["p03"], test=["p08"]).unlabeled


def test_overlap_is_refused_by_name() -> None:
    refused(make(), "patient 'p03' is in both labeled and validation", "'p03_frame1'",
            labeled=["p03_frame0"], validation=["p03_frame1"])  # fmt: skip
    refused(make(), "patient 'p04' is in both validation and test", "1 such patients",
            labeled=["p03"], validation=["p04"], test=["p04"])  # fmt: skip


def test_drawn_roles_avoid_named_patients() -> None:
    for seed in range(10):
        splits = split(make(6), labeled=["p00", "p01"], validation=["p02"], test=2, split_seed=seed)
        assert len(patients(splits.test)) == 2
        assert not patients(splits.test) & {"p00", "p01", "p02"}
    last = split(make(6), labeled=1, test=1).test[0].patient
    note = split(make(6), labeled=[last], test=1).notes
    assert any("depend on data.labeled" in line for line in note)


def test_more_patients_than_exist() -> None:
    text = refused(make(), "25 labeled patients are asked for but only 16 are available",
                   labeled=25, test=4)  # fmt: skip
    assert "20 patients with labels (40 cases), of whom 4 are used for validation and test" in text
    assert "set data.labeled to 16 or less" in text
    refused(make(), "21 test patients are asked for but only 20", test=21)
    refused(make(), "2 validation patients are to be taken from 2 labeled ones",
            labeled=2, validation=2)  # fmt: skip
    refused(make(), "no labeled case is left", test=20)
    refused(make(), "no labeled case is left", labeled=0)


def test_validation_takes_the_last_of_the_labeled() -> None:
    named = split(make(), labeled=["p05", "p01", "p09"], validation=1)
    assert [c.patient for c in named.labeled] == ["p05", "p05", "p01", "p01"]
    assert patients(named.validation) == {"p09"}


def test_no_unlabeled_cases() -> None:
    text = refused(make())
    assert "learns from unlabeled images but there are none" in text
    assert "data.labeled" in text
    assert "supervised" in text
    refused(make(), "there are none", labeled=4, unlabeled_limit=0)
    refused(make(2), "(1 are left out as validation or test patients)",
            labeled=["p00"], test=["p01_frame0"])  # fmt: skip


def test_test_images_are_unlabeled_only_on_request() -> None:
    dataset = make(unlabeled=3, test=2)
    assert len(split(dataset).unlabeled) == 3
    assert len(split(dataset, test_as_unlabeled=True).unlabeled) == 5
    notes = split(make(unlabeled=1), test_as_unlabeled=True).notes
    assert any("does nothing" in line for line in notes)


def test_test_images_with_labels_can_be_the_test_set() -> None:
    dataset = make(unlabeled=1)
    case = Case("t9", (Path("t9.nii"),), Path("t9_l.nii"), "t9")
    dataset = Dataset(**{**vars(dataset), "test": (case,)})
    splits = split(dataset, test=["t9"], test_as_unlabeled=True)
    assert splits.test == (case,)
    assert ids(splits.unlabeled) == {"u0"}
    refused(dataset, "case 't9' is a test image", labeled=["t9"])


def test_unlabeled_limit_nests() -> None:
    made = [split(make(), labeled=4, unlabeled_limit=n) for n in (5, 10, 100)]
    assert [len(s.unlabeled) for s in made] == [5, 10, 32]
    assert ids(made[0].unlabeled) < ids(made[1].unlabeled) < ids(made[2].unlabeled)


def test_unknown_ids() -> None:
    refused(make(), "'p03_frame9' is neither a case nor a patient", "did you mean 'p03_frame",
            labeled=["p03_frame9"])  # fmt: skip
    refused(make(), "(and 2 more such ids)", "use one of: p00",
            test=["@", "#", "%"])  # fmt: skip
    refused(make(unlabeled=1), "case 'u0' has no label", labeled=["u0"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = make_dataset(tmp_path / "data", [f"c{n}" for n in range(6)])
    content = {"train": ["c1", "c2"], "val": ["c3"], "text": "no", "numbers": [1]}
    (root / "splits.json").write_text(json.dumps(content))
    return root


def test_split_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = read_dataset(folder)
    picked = {"file": "splits.json", "key": "train"}
    assert ids(split(dataset, labeled=picked).labeled) == {"c1", "c2"}
    # Relative to the current folder only where the dataset has no such file.
    (folder.parent / "mine.json").write_text('{"train": ["c5"]}')
    (folder.parent / "splits.json").write_text('{"train": ["c4"]}')
    monkeypatch.chdir(folder.parent)
    assert ids(split(dataset, labeled=picked).labeled) == {"c1", "c2"}
    mine = {"file": "mine.json", "key": "train"}
    assert ids(split(dataset, labeled=mine).labeled) == {"c5"}


@pytest.mark.parametrize(
    ("file", "key", "part"),
    [
        ("splits.json", "trian", "did you mean 'train'?"),
        ("splits.json", "zzz", "use one of: train, val, numbers"),
        ("splits.json", "text", "'text' is not a list of ids"),
        ("splits.json", "numbers", "'numbers' is not a list of ids"),
        ("other.json", "train", "neither in the dataset's folder nor in the current one"),
    ],
)
def test_bad_split_file(folder: Path, file: str, key: str, part: str) -> None:
    refused(read_dataset(folder), part, labeled={"file": file, "key": key})


def test_save_and_load(folder: Path) -> None:
    dataset = read_dataset(folder)
    splits = split(dataset, labeled=3, validation=1, test=1)
    path = folder.parent / "splits.json"
    save_splits(splits, path)
    assert load_splits(path, dataset) == splits
    assert json.loads(path.read_text())["hash"] == split_hash(splits)
    assert [p.name for p in folder.parent.glob("splits.json*")] == ["splits.json"]
    # A saved role can be named by a recipe.
    again = split(dataset, labeled={"file": str(path), "key": "labeled"}, test=1)
    assert again.labeled == splits.labeled


def test_load_refuses_edited_and_foreign_splits(folder: Path, tmp_path: Path) -> None:
    dataset = read_dataset(folder)
    path = tmp_path / "s.json"
    save_splits(split(dataset, labeled=2, test=1), path)
    other = read_dataset(make_dataset(tmp_path / "other", ["x1"]))
    with pytest.raises(MedSSLError, match="names 6 cases that dataset 'T' lacks"):
        load_splits(path, other)
    content = json.loads(path.read_text())
    content["labeled"], content["test"] = content["test"], content["labeled"]
    path.write_text(json.dumps(content))
    with pytest.raises(MedSSLError, match="was changed after it was written"):
        load_splits(path, dataset)
    with pytest.raises(MedSSLError, match="has no list 'labeled'"):
        load_splits(folder / "dataset.json", dataset)


def test_save_where_no_folder_can_be(folder: Path) -> None:
    splits = split(read_dataset(folder), labeled=2)
    (folder / "file").write_text("")
    with pytest.raises(MedSSLError, match="cannot write"):
        save_splits(splits, folder / "file" / "splits.json")


def test_dataset_without_labels(tmp_path: Path) -> None:
    touch(tmp_path / "a.nii.gz")
    write_json(tmp_path, header(training=["a.nii.gz"], numTraining=1))
    refused(read_dataset(tmp_path), "no training case has a label", labeled=1)


def test_acdc_literature_split(shared_data: Path) -> None:
    dataset = read_dataset(shared_data / "Task101_ACDC")
    sizes = {}
    for key in ("labeled_5pct_patients", "labeled_10pct_patients"):
        labeled = {"file": "splits.json", "key": key}
        splits = split(dataset, labeled=labeled, validation={"file": "splits.json", "key": "val"})
        sizes[key] = [len(getattr(splits, r)) for r in ROLES]
        assert not patients(splits.validation) & patients(splits.labeled + splits.unlabeled)
        assert all(c.label is None for c in splits.unlabeled)
        assert splits.notes == ()
    assert sizes == {
        "labeled_5pct_patients": [6, 134, 20, 0],
        "labeled_10pct_patients": [14, 126, 20, 0],
    }


def test_left_atrium_literature_split(shared_data: Path) -> None:
    dataset = read_dataset(shared_data / "Task102_LeftAtrium")
    by_key = {}
    for key, count in (("labeled_5pct", 4), ("labeled_10pct", 8), ("labeled_20pct", 16)):
        splits = split(dataset, labeled={"file": "splits.json", "key": key}, test=0)
        assert (len(splits.labeled), len(splits.unlabeled)) == (count, 80 - count)
        by_key[key] = ids(splits.labeled)
    assert by_key["labeled_5pct"] < by_key["labeled_10pct"] < by_key["labeled_20pct"]
    first = [c.id for c in dataset.training[:4]]
    assert by_key["labeled_5pct"] == set(first)


def test_hippocampus_with_hidden_test(shared_data: Path) -> None:
    dataset = read_dataset(shared_data / "Task04_Hippocampus")
    made = [split(dataset, labeled=n, test=40) for n in (4, 8, 16)]
    assert [len(s.unlabeled) for s in made] == [156, 152, 144]
    assert made[0].test == made[1].test == made[2].test
    assert ids(made[0].labeled) < ids(made[1].labeled) < ids(made[2].labeled)


def test_excluded_patients_are_used_for_nothing() -> None:
    dataset = make(patients=6, unlabeled=3, test=2)
    excluded = ["p02_frame1", "p05", "u1"]
    found = split(dataset, labeled=3, test=1, test_as_unlabeled=True, excluded=excluded)
    everyone = (*found.labeled, *found.unlabeled, *found.validation, *found.test)
    kept = {"p00", "p01", "p03", "p04", "u0", "u2", "t0", "t1"}
    assert patients(everyone) == kept
    assert found == split(
        replace(
            dataset,
            training=tuple(c for c in dataset.training if c.patient in kept),
            unlabeled=tuple(c for c in dataset.unlabeled if c.patient in kept),
        ),
        labeled=3,
        test=1,
        test_as_unlabeled=True,
    )
    with pytest.raises(MedSSLError, match="'p20' is neither a case nor a patient") as caught:
        split(dataset, excluded=["p20"])
    assert "p00" in str(caught.value.fix) or "p02" in str(caught.value.fix)


def test_transductive_test_images_are_unlabeled_ones_without_their_labels() -> None:
    dataset = make(patients=5, unlabeled=2)
    strict = split(dataset, labeled=2, test=2)
    lent = split(dataset, labeled=2, test=2, transductive=True)
    assert lent.test == strict.test
    assert lent.labeled == strict.labeled
    assert ids(lent.unlabeled) == ids(strict.unlabeled) | ids(strict.test)
    assert all(c.label is None for c in lent.unlabeled)
    assert not patients(strict.unlabeled) & patients(strict.test)
    # Validation images stay out: they choose the checkpoint.
    with_validation = split(dataset, labeled=3, validation=1, test=1, transductive=True)
    assert not patients(with_validation.unlabeled) & patients(with_validation.validation)
