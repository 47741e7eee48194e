"""What is changed of a run that goes on is listed, and its record is only added to."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from helpers import crash_after, same_bits, small_recipe, write_dataset, write_recipe

import medssl
from medssl import cli
from medssl.comparison.experiments import read_run
from medssl.runs.changes import changed_files, notes_of
from medssl.runs.checkpoint import load_checkpoint

RATE = "training.optimizer.lr"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data", cases=6, unlabeled=2)


def recipe_file(data: Path, method: str = "supervised", **changes: Any) -> Path:
    content = small_recipe(data, data.parent / "cache", method={"name": method}, **changes)
    return write_recipe(data.parent / "recipe.yaml", content)


def stopped(recipe: Path, output: Path, steps: int = 5) -> Path:
    """Start a run that dies in a step; its last checkpoint is that of iteration 3."""
    with pytest.MonkeyPatch.context() as patch:
        crash_after(patch, steps)
        with pytest.raises(RuntimeError, match="power cut"):
            medssl.train(recipe, output=output)
    return output


def content(run: Path) -> dict[Path, bytes]:
    # The lock is emptied, not removed.
    return {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != ".lock"}


def manifest(run: Path) -> dict[str, Any]:
    return json.loads((run / "manifest.json").read_text())


def test_a_change_is_listed_with_its_iteration_and_compare_knows(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_file(data)
    run = stopped(recipe, tmp_path / "R")
    assert cli.run(["train", str(run), "--resume", "--set", f"{RATE}=0.05"]) == 0
    assert f"from iteration 3 on, {RATE} is 0.05, no longer 0.01" in capsys.readouterr().err
    change = {"step": 3, "what": RATE, "from": 0.01, "to": 0.05}
    assert manifest(run)["changes"] == [change]
    assert [session["step"] for session in manifest(run)["sessions"]] == [0, 3]
    text = (run / "recipe.yaml").read_text()
    assert f"# from iteration 3 on: {RATE} = 0.05 (before: 0.01)\n" in text
    assert medssl.load_recipe(run).recipe.training.optimizer.lr == 0.05

    whole = medssl.train(recipe, overrides=[f"{RATE}=0.05"], output=tmp_path / "whole").path
    assert "changes" not in manifest(whole)
    result = medssl.compare([run, whole])
    assert not result["same_experiment"]
    assert result["comparisons"][0]["differs_in"] == [RATE]
    assert any(
        "R was changed while it was trained: from iteration 3" in w for w in result["warnings"]
    )
    assert cli.run(["compare", str(run), str(whole)]) == 0
    assert "0.01, then 0.05 from iteration 3" in " ".join(capsys.readouterr().out.split())
    page = medssl.report(run, pictures=False).read_text()
    assert "It was changed while it was trained: from iteration 3 on" in page


def test_what_took_no_effect_is_not_listed(data: Path, tmp_path: Path) -> None:
    recipe = recipe_file(data)
    run = stopped(recipe, tmp_path / "R")
    for rate in ("0.05", "0.07"):  # stopped again before a checkpoint
        with pytest.MonkeyPatch.context() as patch:
            crash_after(patch, 1)
            with pytest.raises(RuntimeError, match="power cut"):
                medssl.train(run, overrides=[f"{RATE}={rate}"], resume=True)
    assert [c["to"] for c in manifest(run)["changes"]] == [0.07]
    medssl.train(run, overrides=[f"{RATE}=0.01"], resume=True)
    assert manifest(run)["changes"] == []
    whole = medssl.train(recipe, output=tmp_path / "whole").path
    same_bits(*(load_checkpoint(p / "checkpoints" / "last.pt") for p in (run, whole)))
    assert medssl.compare([run, whole])["same_experiment"]


def test_two_changes_are_two_entries(data: Path, tmp_path: Path) -> None:
    run = stopped(recipe_file(data), tmp_path / "R", steps=4)
    with pytest.MonkeyPatch.context() as patch:
        crash_after(patch, 4)  # iteration 7, after the checkpoint of iteration 6
        with pytest.raises(RuntimeError, match="power cut"):
            medssl.train(run, overrides=[f"{RATE}=0.05"], resume=True)
    medssl.train(run, overrides=[f"{RATE}=0.02", "training.log_every=1"], resume=True)
    found = [(c["step"], c["what"], c["to"]) for c in manifest(run)["changes"]]
    assert found == [(3, RATE, 0.05), (6, RATE, 0.02), (6, "training.log_every", 1)]
    rates = "0.01, then 0.05 from iteration 3, then 0.02 from iteration 6"
    assert read_run(run, "test").definition[RATE] == rates


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("training.optimizer.name=adam", "training.optimizer.name = 'sgd', not 'adam'"),
        ("training.optimizer.momentum=0.5", "training.optimizer.momentum = 0.9, not 0.5"),
        (
            "training.stages.train.optimizer.name=adam",
            "training.stages.train.optimizer.name = 'sgd', not 'adam'",
        ),
        ("network.channels=[4,16]", "network.channels = [4, 8], not [4, 16]"),
        ("method.name=mean_teacher", "method.name = 'supervised', not 'mean_teacher'"),
        ("spec.intensity.rule=percentile", "spec.intensity.rule = 'zscore', not 'percentile'"),
        ("data.patients=(case_.*)", "data.patients = None, not '(case_.*)'"),
        ("data.labeled=2", "the cases of the run have changed"),
        ("seed=8", "seed = 3, not 8"),
    ],
)
def test_what_cannot_change_is_refused_before_anything_is_written(
    data: Path, tmp_path: Path, change: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = stopped(recipe_file(data), tmp_path / "R")
    before = content(run)
    assert cli.run(["train", str(run), "--resume", "--set", change]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert content(run) == before
    assert cli.run(["train", str(run), "--resume"]) == 0  # goes on as if nothing had been asked


def test_a_finished_run_stays_as_it_is(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = medssl.train(recipe_file(data), output=tmp_path / "run").path
    before = content(run)
    assert cli.run(["train", str(run), "--resume", "--set", f"{RATE}=0.1"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"the run is finished: it was trained with {RATE} = 0.01" in said
    assert "--set training.iterations=N, N above 8" in said
    assert cli.run(["train", str(run), "--resume", "--set", "data.root=elsewhere"]) == 2
    assert "correct data.root in this file, if the data have moved" in capsys.readouterr().err
    assert content(run) == before
    assert cli.run(["train", str(run), "--resume"]) == 0
    assert "its record stays as it is" in capsys.readouterr().err
    for name in ("recipe.yaml", "manifest.json", "splits.json", "metrics.jsonl", "log.txt"):
        assert (run / name).read_bytes() == before[run / name], name
    # A larger budget goes on, and may bring other changes with it.
    medssl.train(run, overrides=["training.iterations=10", f"{RATE}=0.1"], resume=True)
    listed = {c["what"]: c["step"] for c in manifest(run)["changes"]}
    assert listed == {"training.iterations": 8, RATE: 8}


def exchange(label: Path) -> None:
    """Exchange the values 1 and 2."""
    stored = nib.load(label)
    values = np.asarray(stored.dataobj)
    nib.save(nib.Nifti1Image(np.array([0, 2, 1], np.uint8)[values], stored.affine), label)


def test_a_label_edited_between_stop_and_resume_is_named(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = stopped(recipe_file(data), tmp_path / "R")
    labeled = json.loads((run / "splits.json").read_text())["labeled"]
    was = manifest(run)["files"]["labeled"][1]["label"]
    exchange(data / "labelsTr" / f"{labeled[1]}.nii.gz")
    assert cli.run(["train", str(run), "--resume"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert f"the label of labeled case {labeled[1]} has been edited since the run was st" in said
    [entry] = manifest(run)["changes"]
    assert (entry["step"], entry["what"]) == (3, f"label of labeled case {labeled[1]}")
    assert entry["from"] == was != entry["to"] == manifest(run)["files"]["labeled"][1]["label"]
    whole = medssl.train(tmp_path / "recipe.yaml", output=tmp_path / "whole").path
    assert medssl.compare([run, whole])["comparisons"][0]["differs_in"] == ["data.files"]


def test_structures_that_change_their_names_stop_the_run(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = stopped(recipe_file(data), tmp_path / "R")
    before, where = content(run), data / "dataset.json"
    header = json.loads(where.read_text())
    (one, first), (two, second) = ((v, n) for v, n in header["labels"].items() if v != "0")
    for labels, said in (
        ({one: second, two: first}, f"called '{second}', but the run learned it as '{first}'"),
        ({one: first}, f"value {two} is called None"),
        ({one: first, two: second, "9": "ignore"}, "the value without annotation is 9"),
    ):
        where.write_text(json.dumps(header | {"labels": {"0": "background", **labels}}))
        assert cli.run(["train", str(run), "--resume"]) == 2
        assert said in " ".join(capsys.readouterr().err.split())
        with pytest.raises(medssl.MedSSLError, match=re.escape(said)):
            medssl.evaluate_run(run, "test")
        assert content(run) == before


def test_runs_of_other_labels_are_told_apart(data: Path, tmp_path: Path) -> None:
    recipe = recipe_file(data)
    runs = [medssl.train(recipe, output=tmp_path / "one").path]
    labeled = json.loads((runs[0] / "splits.json").read_text())["labeled"]
    exchange(data / "labelsTr" / f"{labeled[0]}.nii.gz")
    runs.append(medssl.train(recipe, overrides=["seed=4"], output=tmp_path / "two").path)
    [said] = [w for w in medssl.compare(runs)["warnings"] if "labels" in w]
    assert (
        said == f"one and two were trained with different labels of 1 of their cases: {labeled[0]}"
    )


def test_the_record_of_files_names_no_patient(data: Path, tmp_path: Path) -> None:
    run = stopped(recipe_file(data, privacy="strict"), tmp_path / "R")
    labeled = json.loads((run / "splits.json").read_text())["labeled"]
    exchange(data / "labelsTr" / f"{labeled[0]}.nii.gz")
    medssl.train(run, resume=True)
    text = (run / "manifest.json").read_text() + (run / "log.txt").read_text()
    assert labeled[0] not in text
    assert manifest(run)["changes"][0]["what"] == "label of labeled case <case>"


def test_files_are_compared_case_by_case() -> None:
    before = {"labeled": [{"images": ["a"], "label": "b"}, {"images": ["c"], "label": "d"}]}
    now = {"labeled": [{"images": ["a"], "label": "b"}, {"images": ["x"], "label": "y"}]}
    found = changed_files(before, now, {"labeled": ["one", "two"]})
    assert found == {
        "label of labeled case two": ("d", "y"),
        "images of labeled case two": (["c"], ["x"]),
    }
    assert changed_files({}, now, {"labeled": ["one", "two"]}) == {}
    assert notes_of([{"step": 3, "what": "seed", "from": 1, "to": 2}]) == [
        "from iteration 3 on: seed = 2 (before: 1)"
    ]
