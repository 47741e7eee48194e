"""A patient is forgotten: nothing names the scans any more, and what is trained again is exact."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers import same_bits, small_recipe, write_dataset, write_recipe

import medssl
from medssl.cross_validation import forget as forget_module
from medssl.cross_validation.forgetting import (
    clean_cache,
    learned_from,
    remaining,
    traces_of,
)
from medssl.errors import MedSSLError
from medssl.reports import crossval_page
from medssl.runs.checkpoint import load_checkpoint
from medssl.runs.folder import RunFolder
from medssl.workflows import training_run

GONE = "zoe_71"


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_run, "write_previews", lambda *_: [])
    monkeypatch.setattr(crossval_page, "crossval_report", lambda *_, **__: None)


def make_world(folder: Path) -> Path:
    """Write a dataset whose third scan is of someone to be forgotten, and a recipe."""
    root = write_dataset(folder / "data", cases=6, unlabeled=1)
    for kind in ("imagesTr", "labelsTr"):
        (root / kind / "case_02.nii.gz").rename(root / kind / f"{GONE}.nii.gz")
    header = root / "dataset.json"
    header.write_text(header.read_text().replace("case_02", GONE))
    content = small_recipe(
        root,
        folder / "cache",
        data={"labeled": None, "test": 0},
        method={"name": "mean_teacher"},
        training={"iterations": 2, "checkpoint_every": 1},
    )
    write_recipe(folder / "small.yaml", content)
    return folder


def remove_scans(folder: Path) -> list[str]:
    """Take the scans out of the dataset; return their hashes."""
    root = folder / "data"
    hashes = []
    for kind in ("imagesTr", "labelsTr"):
        file = root / kind / f"{GONE}.nii.gz"
        hashes.append(hashlib.sha256(file.read_bytes()).hexdigest())
        file.unlink()
    header = json.loads((root / "dataset.json").read_text())
    header["training"] = [e for e in header["training"] if GONE not in e["image"]]
    (root / "dataset.json").write_text(json.dumps(header))
    return hashes


def named_in(folder: Path, words: list[str]) -> list[str]:
    """Return the files in whose name or bytes a word stands."""
    return [
        str(path)
        for path in folder.rglob("*")
        if any(word in path.name for word in words)
        or (path.is_file() and any(word.encode() in path.read_bytes() for word in words))
    ]


def state(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = load_checkpoint(run / "checkpoints" / "last.pt")["method_state"]
    return found


def test_folds_that_saw_the_patient_are_trained_again_and_the_other_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(tmp_path)
    old = tmp_path / "folds"
    monkeypatch.setattr("sys.argv", ["medssl", "forget", "--patients", GONE])
    medssl.crossval(world / "small.yaml", folds=3, baseline="none", output=old, device="cpu")
    voxels = json.loads((old / "fold_1" / "lineage.json").read_text())["images"]
    voxels |= json.loads((old / "fold_0" / "lineage.json").read_text())["images"]
    with pytest.raises(MedSSLError, match="the dataset still holds 1 scans of the patient"):
        medssl.forget(old, [GONE])
    own = next(f for f in range(3) if GONE in json.loads(_test(old, f)))
    words = [GONE, *remove_scans(world), *voxels[GONE]]
    assert named_in(old, words)
    assert named_in(tmp_path / "cache", words)
    result = medssl.forget(old, [GONE], delete_old=True, device="cpu")

    new = tmp_path / "folds-forgot"
    assert result.path == new
    assert result.deleted
    assert not old.exists()
    kept = {name for name, what in result.parts.items() if what == forget_module.KEPT}
    assert kept == {f"fold_{own}"}
    assert named_in(new, words) == []
    assert named_in(tmp_path / "cache", words) == []
    medssl.export(new, tmp_path / "bundle")
    assert named_in(tmp_path / "bundle", words) == []
    record = json.loads((new / "forgotten.json").read_text())
    assert set(record) == {"format", "token", "date", "parts"}
    assert len(record["token"]) == 32
    summary = json.loads((new / "crossval.json").read_text())
    assert summary["status"] == "finished"
    assert sorted(p for fold in summary["folds"][0] for p in fold) == [
        *(f"case_{n:02d}" for n in (0, 1, 3, 4, 5)),
    ]
    # What was trained again: the same recipe, dataset and folds, of which the patient never was.
    other = (own + 1) % 3
    recipe = json.loads((new / f"fold_{other}" / "splits.json").read_text())
    lists = [f"data.{role}={json.dumps(recipe[role])}" for role in ("labeled", "test")]
    plain = medssl.train(world / "small.yaml", overrides=lists, output=tmp_path / "plain").path
    same_bits(state(new / f"fold_{other}"), state(plain))


def _test(folder: Path, fold: int) -> str:
    return json.dumps(json.loads((folder / f"fold_{fold}" / "splits.json").read_text())["test"])


def test_a_run_is_trained_again_or_keeps_its_weights(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    base = ["data.labeled=[case_00, case_01]", "data.test=[case_03]"]
    names = {"saw": base, "tested": [base[0], f"data.test=[case_03, {GONE}]"]}
    for name, overrides in names.items():
        medssl.train(world / "small.yaml", overrides=overrides, output=tmp_path / name)
    later = [*base, f"network.init={tmp_path / 'saw'}"]
    medssl.train(world / "small.yaml", overrides=later, output=tmp_path / "later")
    before = state(tmp_path / "tested")
    words = [GONE, *remove_scans(world)]
    with pytest.raises(MedSSLError, match=r"through network.init: .*saw"):
        medssl.forget(tmp_path / "later", [GONE])
    with pytest.raises(MedSSLError, match="no scan of nobody is recorded here"):
        medssl.forget(tmp_path / "saw", ["nobody"])

    saw = medssl.forget(tmp_path / "saw", [GONE], device="cpu")
    assert (saw.parts, saw.deleted) == ({"run": forget_module.AGAIN}, False)
    assert saw.descendants == (tmp_path / "later",)
    plain = medssl.train(world / "small.yaml", overrides=base, output=tmp_path / "plain").path
    same_bits(state(saw.path), state(plain))  # one of its unlabeled images is gone

    tested = medssl.forget(tmp_path / "tested", [GONE], device="cpu")
    assert tested.parts == {"run": forget_module.KEPT}
    same_bits(state(tested.path), before)
    assert RunFolder(tested.path).is_finished()
    rows = (tested.path / "evaluation" / "test" / "cases.csv").read_text()
    assert "case_03" in rows
    more = [f"network.init={saw.path}"]
    again = medssl.forget(tmp_path / "later", [GONE], overrides=more, device="cpu")
    for path in (saw.path, tested.path, again.path, tmp_path / "cache"):
        assert named_in(path, words) == []


def test_a_patient_whom_only_a_table_names_is_known_by_each_of_the_cases(tmp_path: Path) -> None:
    world, table = make_world(tmp_path), tmp_path / "patients.csv"
    table.write_text(f"case,patient\ncase_00,Ann\n{GONE},Zoe\ncase_04,Zoe\n")
    cases = ["data.labeled=[case_00, case_01]", "data.test=[case_03]", f"data.patients={table}"]
    medssl.train(world / "small.yaml", overrides=cases, output=tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    assert json.loads(run.splits.read_text())["patients"] == {
        "case_00": "Ann", GONE: "Zoe", "case_04": "Zoe"
    }  # fmt: skip
    for asked in ([GONE], ["case_04"], ["Zoe"]):
        traces = traces_of([run], asked)
        assert learned_from(run, traces)
        assert traces.names == {"Zoe", GONE, "case_04"}
    assert not learned_from(run, traces_of([run], ["case_03"]))
    # Earlier versions did not record what a table says.
    before = json.loads(run.splits.read_text())
    del before["patients"]
    run.splits.write_text(json.dumps(before))
    with pytest.raises(MedSSLError, match="under another name, which it did not record"):
        traces_of([run], [GONE])
    with pytest.raises(MedSSLError, match="no scan of Zoe is recorded") as refused:
        traces_of([run], ["Zoe"])
    assert "all their cases" in str(refused.value.fix)
    assert learned_from(run, traces_of([run], ["Zoe", GONE, "case_04"]))


def test_traces_are_found_in_words_names_and_the_cache(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    write_recipe(run.recipe, small_recipe(tmp_path, tmp_path))
    files = {"labeled": [{"images": ["aa11"], "label": "bb22"}, {"images": ["cc33"], "label": "d"}]}
    run.manifest.write_text(json.dumps({"files": files, "dataset_name": "x"}))
    roles = {"unlabeled": [], "validation": [], "test": []}
    run.splits.write_text(json.dumps({"labeled": ["sub-7_a", "sub-70_a"], **roles}))
    traces = traces_of([run], ["sub-7"])
    assert traces.names == {"sub-7", "sub-7_a"}
    assert traces.hashes == {"aa11", "bb22"}
    assert traces.without(["sub-7_a", "sub-70_a"]) == ["sub-70_a"]
    entries = {"files/1.json": "sub-7_a.nii.gz", "files/2.json": "sub-70_a.nii.gz"}
    for name, image in entries.items():
        path = tmp_path / "cache" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"file": f"/data/{image}", "known": {"sha256": "x"}}))
    for name, case in (("e1", "sub-7_a"), ("e2", "sub-70_a")):
        (tmp_path / "cache" / name).mkdir()
        (tmp_path / "cache" / name / "meta.json").write_text(json.dumps({"case": case}))
    assert clean_cache(tmp_path / "cache", traces) == 2
    left = sorted(p.name for p in (tmp_path / "cache").rglob("*.json"))
    assert left == ["2.json", "meta.json"]
    new = tmp_path / "new"
    new.mkdir()
    (new / "log.txt").write_text("sub-70_a was read")
    assert remaining(new, traces) == []
    (new / "log.txt").write_text("sub-7_a was read")
    (new / "weights.pt").write_bytes(b"\0sub-7_a\0")
    (new / "other.pt").write_bytes(b"\0aa11\0")  # four bytes stand anywhere by chance
    assert [p.name for p in remaining(new, traces)] == ["log.txt", "weights.pt"]
    shutil.rmtree(new)
