"""Cross-validation: what is planned, what is trained, what the verdict rests on."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from browser import CHROMIUM, look_at
from crossval_folders import same_folders
from helpers import small_recipe, write_dataset, write_recipe
from rich.console import Console
from run_folders import write_run
from scipy import stats

import medssl
from medssl import cli
from medssl.cross_validation.deal import CrossvalSettings
from medssl.cross_validation.plan import CrossvalPlan, plan_crossval
from medssl.cross_validation.show import format_crossval
from medssl.cross_validation.summary import Resampled, summarize_crossval
from medssl.data.datasets.split_file import load_splits
from medssl.data.opened import open_dataset
from medssl.errors import MedSSLError
from medssl.progress import Display
from medssl.recipe.load import load_recipe
from medssl.reports.crossval_page import crossval_caveats
from medssl.reports.crossval_unusual import (
    UnusualScan,
    gathered,
    unusual_left_out,
    unusual_unlabeled,
)
from medssl.runs.folder import RunFolder
from medssl.runs.lineage import Lineage, write_lineage
from medssl.training.cases import plan_cases

QUIET = Display(quiet=True)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe on ten labeled cases and two unlabeled ones: eight patients, two test patients."""
    folder = tmp_path_factory.mktemp("crossval")
    write_dataset(folder / "data", cases=10, unlabeled=2)
    content = small_recipe(
        folder / "data",
        folder / "cache",
        data={"test": 2, "labeled": 8, "validation": 1},
        method={"name": "mean_teacher", "ema_decay": 0.9},
        training={"iterations": 3, "checkpoint_every": 2},
    )
    return write_recipe(folder / "small.yaml", content)


def planned(recipe: Path, output: Path, *overrides: str, **settings: Any) -> CrossvalPlan:
    return plan_crossval(
        recipe, CrossvalSettings(**settings), overrides=overrides, output=output, display=QUIET
    )


# ---------------------------------------------------------------------- the plan


def test_every_labeled_patient_is_held_out_once_and_test_patients_stay_locked(
    recipe: Path, tmp_path: Path
) -> None:
    plan = planned(recipe, tmp_path)
    whole = plan_cases(load_recipe(recipe), QUIET).splits
    labeled = {c.id for c in (*whole.labeled, *whole.validation)}
    locked = {c.id for c in whole.test}
    assert (len(labeled), len(locked)) == (8, 2)
    held_out: list[str] = []
    for run in plan.of("mean_teacher", 0):
        splits = plan_cases(run.loaded, QUIET).splits
        tested = [c.id for c in splits.test]
        trained = {c.id for c in (*splits.labeled, *splits.unlabeled, *splits.validation)}
        held_out += tested
        assert {c.id for c in splits.labeled} == labeled - set(tested)
        assert not splits.validation
        assert not trained & (set(tested) | locked)
        assert {c.id for c in splits.unlabeled} == {"case_10", "case_11"}
        assert run.loaded.recipe.evaluation.checkpoint == "last"
    assert sorted(held_out) == sorted(labeled)
    assert [run.name for run in plan.runs[:3]] == ["fold_0", "baseline/fold_0", "fold_1"]
    assert len(plan.runs) == 8
    assert any("2 test patients stay locked" in note for note in plan.notes)


def test_the_twin_differs_by_its_method_alone(recipe: Path, tmp_path: Path) -> None:
    plan = planned(recipe, tmp_path, "training.iterations=7", repeats=2)
    for own, twin in zip(plan.runs[::2], plan.runs[1::2], strict=True):
        one, other = own.loaded.recipe, twin.loaded.recipe
        assert (one.method.name, other.method.name) == ("mean_teacher", "supervised")
        for section in ("data", "spec", "network", "training", "evaluation", "inference", "seed"):
            assert getattr(one, section) == getattr(other, section)
        assert one.training.iterations == 7
    assert [run.loaded.recipe.seed for run in plan.of("mean_teacher", 1)] == [4] * 4
    assert plan.divisions[0] != plan.divisions[1]
    assert plan.of("supervised", 1)[0].name == "repeat_1/baseline/fold_0"


def test_transductive_folds_lend_images_and_no_labels(recipe: Path, tmp_path: Path) -> None:
    plan = planned(recipe, tmp_path, transductive=True)
    for run in plan.of("mean_teacher", 0):
        splits = plan_cases(run.loaded, QUIET).splits
        tested = {c.id for c in splits.test}
        assert {c.id for c in splits.unlabeled} == tested | {"case_10", "case_11"}
        assert all(c.label is None for c in splits.unlabeled)


def test_what_cannot_work_is_refused_before_anything_is_trained(
    recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for options, message in (
        ({"overrides": ["data.labeled=2", "data.validation=0"]}, "2 patients with labels are too"),
        ({"folds": 9}, "8 patients cannot be dealt into 9 folds"),
        ({"folds": "some"}, "cannot be dealt into some folds"),
        ({"baseline": "bcp"}, "there is no baseline 'bcp'"),
        ({"repeats": 0}, "0 repeats"),
        ({"overrides": ["method.ema_decay=7"]}, "ema_decay"),
        ({"shard": "3/2"}, "no shard 3 of 2"),
        ({"jobs": 0}, "0 runs at a time"),
        ({"output": write_run(tmp_path / "run", {"left": [0.5]})}, "folder of a single run"),
    ):
        with pytest.raises(MedSSLError, match=message):
            medssl.crossval(recipe, **({"output": out} | options))
    assert not out.exists()


def test_a_method_of_labels_alone_has_no_twin(recipe: Path, tmp_path: Path) -> None:
    plan = planned(recipe, tmp_path, "method=supervised", folds="all")
    assert [run.name for run in plan.runs] == [f"fold_{i}" for i in range(8)]
    assert any("there is no baseline" in note for note in plan.notes)


@pytest.mark.parametrize("scale", [1.0, 0.7])
def test_copies_of_a_patient_under_another_name_are_dealt_with_it(
    recipe: Path, tmp_path: Path, scale: float
) -> None:
    data = tmp_path / "data"
    shutil.copytree(recipe.parent / "data", data)
    image = nib.load(data / "imagesTr" / "case_00.nii.gz")
    values = np.asarray(image.dataobj).astype(np.float32) * np.float32(scale)
    nib.save(nib.Nifti1Image(values, image.affine), data / "imagesTr" / "case_05.nii.gz")
    overrides = (f"data.root={data}", "data.labeled=null", "data.test=0", "data.validation=0")
    for seed in range(5):
        plan = planned(recipe, tmp_path / "out", *overrides, f"data.split_seed={seed}")
        splits = [plan_cases(run.loaded, QUIET).splits for run in plan.of("mean_teacher", 0)]
        tested = [{c.id for c in s.test} for s in splits]
        assert sum({"case_00", "case_05"} <= fold for fold in tested) == 1
        assert sum(len(fold & {"case_00", "case_05"}) for fold in tested) == 2
        assert plan.cases["case_05"].patient == "case_00"
        assert any("case_05: copies of scans" in note for note in plan.notes)


def test_a_structure_of_one_patient_is_named(recipe: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(recipe.parent / "data", data)
    header = json.loads((data / "dataset.json").read_text())
    header["labels"]["3"] = "rare"
    (data / "dataset.json").write_text(json.dumps(header))
    path = data / "labelsTr" / "case_03.nii.gz"
    label = nib.load(path)
    values = np.asarray(label.dataobj).copy()
    values[0, 0, 0] = 3
    nib.save(nib.Nifti1Image(values, label.affine), path)
    plan = planned(recipe, tmp_path / "o", f"data.root={data}", "data.labeled=null", "data.test=0")
    assert any("rare is shown by 1 of 10 patients" in note for note in plan.notes)


def test_folds_start_from_the_same_folds_and_nothing_from_what_saw_their_patients(
    recipe: Path, tmp_path: Path
) -> None:
    plan = planned(recipe, tmp_path / "first", "method=supervised")
    for run in plan.runs:
        write_run(run.path, {"left": [0.5]}, dataset_name="blobs")
        trained = [c for c in plan.cases if c not in run.loaded.recipe.data.test]
        splits = {"labeled": trained, "unlabeled": [], "validation": []}
        (run.path / "splits.json").write_text(json.dumps(splits))
    whole = f"data.ancestors=[{tmp_path / 'first' / 'fold_0'}]"
    with pytest.raises(MedSSLError, match="test patients cannot be scored"):
        medssl.crossval(recipe, output=tmp_path / "second", overrides=[whole])
    (tmp_path / "first" / "crossval.json").write_text("{}")
    each = f"data.ancestors=[{tmp_path / 'first'}]"
    second = planned(recipe, tmp_path / "second", each)
    for run in second.runs:
        named = [str(tmp_path / "first" / f"fold_{run.fold}")]
        assert run.loaded.recipe.data.ancestors == named
    with pytest.raises(MedSSLError, match="of 4 folds, and this one has 3"):
        planned(recipe, tmp_path / "second", each, folds=3)
    with pytest.raises(MedSSLError, match="of 0 folds in repeat 1"):
        planned(recipe, tmp_path / "second", each, repeats=2)


def test_weights_to_start_from_are_those_of_the_same_fold_for_method_and_twin(
    recipe: Path, tmp_path: Path
) -> None:
    first = tmp_path / "first"
    plan = planned(recipe, first, "method=supervised")
    for run in plan.runs:
        run.path.mkdir(parents=True)
    record = {"folds": [[list(fold) for fold in folds] for folds in plan.divisions]}
    (first / "crossval.json").write_text(json.dumps(record))
    second = planned(recipe, tmp_path / "second", f"network.init={first}")
    for run in second.runs:
        assert run.loaded.recipe.network.init == str(first / f"fold_{run.fold}")
    assert len({run.method for run in second.runs}) == 2
    taught = planned(recipe, tmp_path / "third", f"method={{name: distill, teacher: {first}}}")
    for run in taught.runs:
        own = str(first / f"fold_{run.fold}") if run.method == "distill" else None
        assert run.loaded.recipe.method.settings.get("teacher") == own
    record["folds"][0][0], record["folds"][0][1] = record["folds"][0][1], record["folds"][0][0]
    (first / "crossval.json").write_text(json.dumps(record))
    with pytest.raises(MedSSLError, match=r"network.init names a cross-validation of other folds"):
        planned(recipe, tmp_path / "second", f"network.init={first}")


def test_a_start_or_labels_from_a_run_that_saw_the_patients_are_refused(
    recipe: Path, tmp_path: Path
) -> None:
    saw = RunFolder(write_run(tmp_path / "saw", {"left": [0.5]}, dataset_name="blobs"))
    patient = next(iter(planned(recipe, tmp_path / "any").cases))
    write_lineage(Lineage("blobs", (patient,), (), {patient: ()}), saw)
    out = tmp_path / "out"
    with pytest.raises(MedSSLError, match=rf"{patient} \(by network.init: .*saw\)"):
        medssl.crossval(recipe, output=out, overrides=[f"network.init={saw.path}"])
    taught = f"method={{name: distill, teacher: {saw.path}}}"
    with pytest.raises(MedSSLError, match=rf"{patient} \(by method.teacher: .*saw\)"):
        medssl.crossval(recipe, output=out, overrides=[taught])
    data = tmp_path / "data"
    shutil.copytree(recipe.parent / "data", data)
    models = {"k": {"model": str(saw.path)}}
    label = f"{next(c for c in plan_labels(data) if c != patient)}.nii.gz"
    entry = {"model": "k", "files": [label]}
    pseudo = {"format": 1, "models": models, "predictions": {"x": entry}}
    (data / "labelsTr" / "predictions.json").write_text(json.dumps(pseudo))
    with pytest.raises(MedSSLError, match=rf"{patient} \(by predictions.json: .*saw\)"):
        medssl.crossval(recipe, output=out, overrides=[f"data.root={data}", "data.labeled=null"])
    assert not out.exists()


def plan_labels(data: Path) -> list[str]:
    """Return the ids of the labeled cases of a dataset."""
    return sorted(p.name.split(".")[0] for p in (data / "labelsTr").glob("*.nii.gz"))


def test_weights_that_do_not_fit_are_refused_before_any_fold(recipe: Path, tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "w.pt")
    with pytest.raises(MedSSLError, match="nothing of the file fits the network"):
        medssl.crossval(
            recipe, output=tmp_path / "out", overrides=[f"network.init={tmp_path / 'w.pt'}"]
        )
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------- the verdict


def write_folds(plan: CrossvalPlan, gains: dict[str, float], base: float = 0.6) -> None:
    """Write all runs of a plan: labels alone reach ``base``, and the method gains so much more.

    The second repeat gains 0.01 more than the first.
    """
    for run in plan.runs:
        tested = sorted(run.loaded.recipe.data.test)
        more = run.method != "supervised"
        values = [base + more * (gains[c] + 0.01 * run.repeat) for c in tested]
        write_run(
            run.path,
            {"left": values, "right": [v - 0.2 for v in values]},
            method=run.method,
            seed=run.repeat,
            cases=tested,
            training_seconds=30.0 if more else 20.0,
        )


def test_the_verdict_is_the_t_interval_over_patients_out_of_fold(
    recipe: Path, tmp_path: Path
) -> None:
    plan = planned(recipe, tmp_path)
    gains = {case: 0.01 * (i - 1) for i, case in enumerate(sorted(plan.cases))}  # -0.01 to 0.06
    write_folds(plan, gains)
    found = summarize_crossval(plan)
    values = np.array(list(gains.values()))
    half = stats.t.ppf(0.975, 7) * values.std(ddof=1) / math.sqrt(8)
    dice = found["comparisons"][0]["structures"]["mean"]["metrics"]["dice"]
    assert dice["difference"] == pytest.approx(0.025, abs=1e-6)
    assert (dice["low"], dice["high"]) == pytest.approx((0.025 - half, 0.025 + half), abs=1e-6)
    verdict = found["verdict"]
    assert verdict["code"] == "gain"
    assert "+0.0250" in verdict["sentence"]
    assert "8 patients, out of fold in 4 folds" in verdict["sentence"]
    assert "6 of 8 patients gain and 1 lose (sign-flip p =" in verdict["sentence"]
    assert "1.5 times the training time" in verdict["sentence"]  # 4 x 30 s and 4 x 20 s
    assert verdict["patients"]["worst"] == min(gains, key=gains.__getitem__)
    assert [p["patient"] for p in found["patients"]] == sorted(gains, key=gains.__getitem__)
    first = found["patients"][0]
    assert first["gain"] == pytest.approx(-0.01, abs=1e-6)
    assert first["patient"] in plan.divisions[0][first["fold"]]
    # One failure: 0.6 - 0.1 - 0.01 lies below one half.
    failures = found["experiments"][0]["failures"]
    assert (failures["below"], failures["patients"]) == (1, 8)
    assert failures["at_most"] == pytest.approx(stats.beta.ppf(0.95, 2, 7))
    summary = json.loads((tmp_path / "evaluation" / "out_of_fold" / "summary.json").read_text())
    assert summary["n_patients"] == 8
    assert summary["overall"]["metrics"]["dice"]["mean"] == pytest.approx(0.525, abs=1e-6)
    base = tmp_path / "baseline" / "evaluation" / "out_of_fold" / "cases.csv"
    assert len(base.read_text().splitlines()) == 17


def test_folds_that_were_measured_otherwise_are_not_pooled(recipe: Path, tmp_path: Path) -> None:
    """A region may have got other labels under its old name before a fold was measured again."""
    plan = planned(recipe, tmp_path)
    write_folds(plan, dict.fromkeys(plan.cases, 0.01))
    table = plan.runs[-1].path / "evaluation" / "test" / "cases.csv"
    header, *rows = table.read_text().splitlines()
    assert header.startswith("case,label,name")
    changed = [row.replace(",2,right", ",2+3,right") for row in rows]
    table.write_text("\n".join([header, *changed]) + "\n")
    with pytest.raises(MedSSLError, match=r"right \(2\+3\) here, and left \(1\), right \(2\) in"):
        summarize_crossval(plan)


def come_from_rounds(plan: CrossvalPlan, **origins: str) -> CrossvalPlan:
    """Say of cases of a plan that a round brought their labels: chosen or random."""
    cases = {
        name: replace(case, meta={"label_origin": origins[name], "label_draft": "edited"})
        if name in origins
        else case
        for name, case in plan.cases.items()
    }
    return replace(plan, cases=cases)


@pytest.mark.parametrize("repeats", [1, 2])
def test_patients_that_a_rule_chose_stand_apart_from_the_verdict(
    recipe: Path, tmp_path: Path, repeats: int
) -> None:
    plan = planned(recipe, tmp_path, repeats=repeats)
    ids = sorted(plan.cases)
    gains = dict.fromkeys(ids, 0.02) | {ids[0]: 0.3, ids[1]: 0.2, ids[2]: 0.03}
    write_folds(plan, gains)
    whole = summarize_crossval(plan)
    assert (whole["apart"], whole["n_patients"]) == (None, 8)
    plan = come_from_rounds(plan, **{ids[0]: "chosen", ids[1]: "chosen", ids[2]: "random"})
    found = summarize_crossval(plan)
    dice = found["comparisons"][0]["structures"]["mean"]["metrics"]["dice"]
    mean = (5 * 0.02 + 0.03) / 6 + 0.005 * (repeats - 1)
    assert dice["difference"] == pytest.approx(mean, abs=1e-6)
    assert (found["n_patients"], found["verdict"]["patients"]["n"]) == (6, 6)
    apart = found["apart"]
    assert apart["patients"] == ids[:2]
    assert apart["dice"] - apart["baseline"] == pytest.approx(0.25 + 0.005 * (repeats - 1))
    assert "2 patients that a rule chose" in apart["sentence"]
    assert any(
        "labels of 3 patients were made from drafts" in c for c in found["verdict"]["cautions"]
    )
    assert sorted(p["patient"] for p in found["patients"] if p["chosen"]) == ids[:2]
    assert len(found["patients"]) == 8
    assert any(
        apart["sentence"] in line for line in crossval_caveats({**plan.described(), **found})
    )


def test_a_verdict_about_chosen_patients_alone_says_so(recipe: Path, tmp_path: Path) -> None:
    plan = planned(recipe, tmp_path)
    write_folds(plan, dict.fromkeys(plan.cases, 0.02) | {min(plan.cases): 0.03})
    chosen = dict.fromkeys(sorted(plan.cases)[:6], "chosen")
    found = summarize_crossval(come_from_rounds(plan, **chosen))
    assert (found["apart"], found["n_patients"]) == (None, 8)
    assert any("6 of 8 patients were chosen" in c for c in found["verdict"]["cautions"])


def test_repeats_are_judged_by_the_corrected_resampled_t(recipe: Path, tmp_path: Path) -> None:
    plan = planned(recipe, tmp_path, repeats=2)
    gains = {case: 0.01 * (i + 1) for i, case in enumerate(sorted(plan.cases))}
    write_folds(plan, gains)
    found = summarize_crossval(plan)
    means = [
        np.mean([gains[p] + 0.01 * repeat for p in fold])
        for repeat, folds in enumerate(plan.divisions)
        for fold in folds
    ]
    half = stats.t.ppf(0.975, 7) * np.std(means, ddof=1) * math.sqrt(1 / 8 + 1 / 3)
    dice = found["comparisons"][0]["structures"]["mean"]["metrics"]["dice"]
    assert dice["difference"] == pytest.approx(0.05, abs=1e-6)
    assert (dice["low"], dice["high"]) == pytest.approx((0.05 - half, 0.05 + half), abs=1e-6)
    assert "dealt 2 times" in found["verdict"]["sentence"]
    assert "Nadeau" in found["interval"]


def test_resampled_intervals_pass_over_patients_without_a_value() -> None:
    gains = np.array([[0.1, np.nan, 0.3, 0.2], [0.2, np.nan, 0.1, 0.3]])
    made = Resampled((((0, 1), (2, 3)), ((0, 2), (1, 3))), 4, 2)
    found = made(gains, np.zeros_like(gains), bounds=(-1.0, 1.0))
    assert found.mean == pytest.approx(0.2)
    assert found.n == 3
    nothing = made(np.full((2, 4), np.nan), np.zeros((2, 4)), bounds=(-1.0, 1.0))
    assert nothing.none == "no patient has a value"


# ---------------------------------------------------------------------- whole cross-validations


@pytest.fixture(scope="module")
def shares(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """A cross-validation of four patients in two folds, made by two shards; what each found.

    Voxels of the median size are a number in the record of a run, and no other experiment.
    """
    folder = tmp_path_factory.mktemp("done") / "cv"
    first = small(recipe, folder, shard="1/2")
    assert json.loads((folder / "crossval.json").read_text())["status"] == "running"
    with pytest.raises(MedSSLError, match="cross-validation is not finished"):
        medssl.report(folder)
    return folder, first, small(recipe, folder, shard="2/2", pictures=True)


@pytest.fixture(scope="module")
def done(shares: tuple[Path, Any, Any]) -> Path:
    """A finished cross-validation of four patients in two folds."""
    return shares[0]


def small(recipe: Path, folder: Path, **options: Any) -> Any:
    overrides = ["data.labeled=4", "data.validation=0", "spec.spacing=median"]
    overrides += options.pop("overrides", ())
    settings = {"folds": 2, "device": "cpu", "pictures": False, **options}
    return medssl.crossval(recipe, overrides=overrides, output=folder, **settings)


def test_a_cross_validation_leaves_runs_scores_a_verdict_and_a_page(
    recipe: Path, done: Path
) -> None:
    found = json.loads((done / "crossval.json").read_text())
    assert found["status"] == "finished"
    assert found["members"] == ["fold_0", "fold_1"]
    assert sorted(p for fold in found["folds"][0] for p in fold) == sorted(
        p["patient"] for p in found["patients"]
    )
    rows = {}
    for name in found["members"]:
        with (done / name / "evaluation" / "test" / "cases.csv").open() as file:
            rows |= {(r["case"], r["name"]): r for r in csv.DictReader(file)}
    with (done / "evaluation" / "out_of_fold" / "cases.csv").open() as file:
        gathered = {(r["case"], r["name"]): r for r in csv.DictReader(file)}
    assert gathered == rows
    assert len({case for case, _ in rows}) == 4
    for one in found["patients"]:
        for path in one["predictions"].values():
            assert (done / path).is_file()
            lineage = json.loads((done / path).parents[2].joinpath("lineage.json").read_text())
            assert one["patient"] not in {*lineage["labels"], *lineage["images"]}
    page = (done / "report.html").read_text()
    assert found["verdict"]["sentence"] in page.replace("&#39;", "'")
    assert page.count("data:image/png") >= 3
    assert "worst: case_" in page
    assert "4 labeled patients in 2 folds" in page
    assert "4 left-out scans compared with the training scans of their fold, 6 unlabeled" in page
    assert "None is unlike them." in page
    for heading in ("Patients, least gain first", "Cases to look at", "Training of fold_"):
        assert f"<h2>{heading}" in page
    assert "patients below Dice 0.5" in page
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(format_crossval(small(recipe, done).summary))
    text = console.export_text()
    assert "patients that gain least" in text
    assert "out_of_fold: 4 cases of 4 patients" in text


def test_unusual_scans_are_listed_with_what_is_unlike(done: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cv"
    shutil.copytree(done, folder)
    found = json.loads((folder / "crossval.json").read_text())
    last = found["patients"][-1]
    ((case, path),) = last["predictions"].items()
    record = (folder / path).parent / "predictions.json"
    content = json.loads(record.read_text())
    content["predictions"][case]["unusual"] = ["voxels of 9 mm", "it measures 9 mm"]
    record.write_text(json.dumps(content))
    left_out, compared = unusual_left_out(folder, found["patients"])
    assert compared == 4
    what = "voxels of 9 mm; it measures 9 mm"
    assert left_out == [UnusualScan(case, f"fold_{last['fold']}", what)]

    first = RunFolder(folder / "fold_0")
    recipe = load_recipe(first.recipe).recipe
    dataset = open_dataset(recipe.data, recipe.spec)
    labeled = [c for one in found["patients"] for c in one["predictions"]]
    assert unusual_unlabeled(first, recipe, dataset, labeled, QUIET) == ([], 6)
    other = next(c for c in load_splits(first.splits, dataset).unlabeled if c.id < "case_10")
    image, file = nib.load(other.images[0]), tmp_path / "other.nii.gz"
    nib.save(nib.Nifti1Image(image.dataobj, image.affine * [[3], [3], [3], [1]]), file)
    strange = replace(
        dataset,
        training=tuple(
            replace(c, images=(file,)) if c.id == other.id else c for c in dataset.training
        ),
    )
    (scan,), number = unusual_unlabeled(first, recipe, strange, labeled, QUIET)
    assert (scan.case, scan.where, number) == (other.id, "unlabeled", 6)
    assert scan.what.startswith("voxels of 3 x 3 x 6 mm, in training 1 x 1 x 2")
    many = gathered((left_out * 30, 40), ([scan], 6))
    assert (len(many.scans), many.more, many.left_out, many.unlabeled) == (20, 11, 40, 6)

    page = medssl.report(folder, pictures=False).read_text()
    assert f"<tr><td>{case}</td><td>fold_{last['fold']}</td><td>{what}</td></tr>" in page


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [1280, 500])
def test_the_page_in_a_browser(done: Path, width: int, tmp_path: Path) -> None:
    seen = look_at(done / "report.html", width, tmp_path)
    assert (seen["broken"], seen["small"]) == (0, 0)
    assert seen["images"] >= 3
    assert seen["overflow"] <= 0


def test_what_is_finished_is_not_trained_again_and_repeats_extend(
    recipe: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(done, folder)
    trained: list[str] = []
    train = medssl.train

    def noted(*args: Any, **options: Any) -> Any:
        trained.append(options["output"].relative_to(folder).as_posix())
        return train(*args, **options)

    monkeypatch.setattr("medssl.workflows.train_job.train", noted)
    again = small(recipe, folder)
    assert trained == []
    assert (again.finished, again.total) == (4, 4)
    assert again.summary["verdict"] == json.loads((done / "crossval.json").read_text())["verdict"]
    more = small(recipe, folder, repeats=2)
    assert sorted(trained) == [f"repeat_1/{b}fold_{k}" for b in ("baseline/", "") for k in (0, 1)]
    assert more.summary["repeats"] == 2
    assert "dealt 2 times" in more.summary["verdict"]["sentence"]
    for options, message in (
        ({"transductive": True}, "of other folds"),
        ({"overrides": ["data.split_seed=9"]}, "of other folds"),
        ({"overrides": ["training.iterations=5"]}, "made with training.iterations = 3, not 5"),
    ):
        with pytest.raises(MedSSLError, match=message):
            small(recipe, folder, **options)


def test_folds_predict_together_as_the_ensemble_that_they_are(
    recipe: Path, done: Path, tmp_path: Path
) -> None:
    images = recipe.parent / "data" / "imagesUn"
    together = medssl.predict(done, images, tmp_path / "together", device="cpu")
    by_hand = medssl.predict(
        done / "fold_0", images, tmp_path / "hand", ensemble=done / "fold_1", device="cpu"
    )
    for one, other in zip(together, by_hand, strict=True):
        assert one.path is not None
        assert other.path is not None
        assert one.path.read_bytes() == other.path.read_bytes()
    unfinished = tmp_path / "cv"
    shutil.copytree(done, unfinished)
    record = json.loads((unfinished / "crossval.json").read_text())
    (unfinished / "crossval.json").write_text(json.dumps(record | {"status": "running"}))
    with pytest.raises(MedSSLError, match="cross-validation is not finished"):
        medssl.predict(unfinished, images, tmp_path / "nothing")


def test_shards_share_the_runs_and_the_last_one_judges(
    shares: tuple[Path, Any, Any], tmp_path: Path
) -> None:
    folder, first, second = shares
    assert (first.finished, first.summary) == (2, {})
    assert (second.finished, second.total) == (4, 4)
    assert second.summary["status"] == "finished"
    page = medssl.report(folder, output=tmp_path / "again.html", pictures=False)
    assert second.summary["verdict"]["sentence"] in page.read_text().replace("&#39;", "'")


def test_stopping_within_a_fold_and_going_on_changes_nothing(
    recipe: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the second step of the third run; the same command ends as if it never was.

    The first two runs are as they were made; all is compared with what two shards made.
    """
    from medssl.training.engine import Engine

    step, taken = Engine._step, []

    def interrupted(self: Engine, *args: Any) -> Any:
        taken.append(1)
        if len(taken) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *args)

    monkeypatch.setattr(Engine, "_step", interrupted)
    folder = tmp_path / "cv"
    for name in ("fold_0", "baseline/fold_0"):
        shutil.copytree(done / name, folder / name)
    stopped = small(recipe, folder)
    assert (stopped.stopped, stopped.finished, stopped.summary) == (signal.SIGINT, 2, {})
    monkeypatch.setattr(Engine, "_step", step)
    assert small(recipe, folder).finished == 4
    same_folders(done, folder)


def test_the_command_prints_the_verdict_or_json(
    recipe: Path, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(done, folder)
    command = ["--quiet", "crossval", str(recipe), "--folds", "2", "--output", str(folder)]
    command += ["--set", "data.labeled=4", "--set", "data.validation=0", "--device", "cpu"]
    command += ["--set", "spec.spacing=median", "--no-pictures"]
    assert cli.run(command) == 0
    said = " ".join(capsys.readouterr().out.split())
    sentence = json.loads((folder / "crossval.json").read_text())["verdict"]["sentence"]
    assert sentence[:60] in said
    assert cli.run([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"]["sentence"] == sentence
