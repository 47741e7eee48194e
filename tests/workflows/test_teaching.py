"""A trained teacher: a run, folds or a bundle; whose labels it saw; always the same one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import crash_after, same_bits, small_recipe, write_dataset, write_recipe

import medssl
from medssl.errors import MedSSLError
from medssl.progress import Display
from medssl.recipe.load import load_recipe
from medssl.runs.checkpoint import load_checkpoint, save_checkpoint
from medssl.training.cases import plan_cases
from medssl.workflows import training_run
from medssl.workflows.teaching import open_teacher

SMALLER = "network.channels=[2, 4]"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, a recipe that distills, and a folder of two folds of labels alone."""
    folder = tmp_path_factory.mktemp("teaching")
    write_dataset(folder / "data", cases=7)
    content = small_recipe(
        folder / "data",
        folder / "cache",
        data={"labeled": ["case_00", "case_01", "case_02"], "test": ["case_05", "case_06"]},
        method={"name": "supervised"},
        training={"iterations": 2, "checkpoint_every": 1},
    )
    write_recipe(folder / "teacher.yaml", content)
    write_recipe(folder / "student.yaml", {**content, "method": {"name": "distill"}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_run, "write_previews", lambda *_: [])
        for seed in (0, 1):
            out = folder / "folds" / f"fold_{seed}"
            medssl.train(folder / "teacher.yaml", overrides=[f"seed={seed}"], output=out)
    members = ["fold_0", "fold_1"]
    record = {"status": "finished", "members": members}
    (folder / "folds" / "crossval.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_run, "write_previews", lambda *_: [])


def distill(world: Path, output: Path, teacher: Path | None, *more: str, **options: Any) -> Path:
    named = [f"method.teacher={teacher}"] if teacher else []
    overrides = [*named, SMALLER, *more]
    recipe = world / "student.yaml"
    return medssl.train(recipe, overrides=overrides, output=output, device="cpu", **options).path


def test_several_become_one_of_another_size_that_predicts_alone(
    world: Path, tmp_path: Path
) -> None:
    run = distill(world, tmp_path / "run", world / "folds")
    record = json.loads((run / "manifest.json").read_text())["teacher"]
    assert (record["kind"], record["members"], record["known"]) == ("crossval", 2, True)
    state = load_checkpoint(run / "checkpoints" / "last.pt")["method_state"]
    teacher = load_checkpoint(world / "folds/fold_0/checkpoints/last.pt")["method_state"]
    count = [sum(v.numel() for v in s.values()) for s in (state, teacher)]
    assert count[0] < count[1] / 2
    (world / "folds").rename(tmp_path / "gone")  # it predicts without its teacher
    try:
        assert medssl.load_run(run, device="cpu").predictor.members == 1
    finally:
        (tmp_path / "gone").rename(world / "folds")
    lineage = json.loads((run / "lineage.json").read_text())["ancestors"]
    assert [a["how"] for a in lineage] == ["method.teacher"]
    assert lineage[0]["ancestors"][1]["labels"] == ["case_00", "case_01", "case_02"]
    replayed = medssl.replay(run, iteration=2, device="cpu")
    logged = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    assert "loss/distillation" in replayed.terms
    assert "loss/distillation" in logged[-1]


def test_patients_whose_labels_the_teacher_saw_cannot_be_tested(
    world: Path, tmp_path: Path
) -> None:
    named = r"case_01 \(by method.teacher: .*fold_0\)"
    other = ["data.labeled=[case_03, case_04]", "data.test=[case_01, case_06]"]
    with pytest.raises(MedSSLError, match=named):
        distill(world, tmp_path / "run", world / "folds" / "fold_0", *other)
    assert not (tmp_path / "run").exists()
    mine = ["data.labeled=[case_03]", "evaluation.splits=[]"]
    run = distill(world, tmp_path / "run", world / "folds" / "fold_0", *mine)
    later = ["data.labeled=[case_04]", "data.test=[case_01]"]
    with pytest.raises(MedSSLError, match=named):  # through the student, too
        distill(world, tmp_path / "next", run, *later)


def test_a_bundle_teaches_and_nobody_knows_what_it_saw(world: Path, tmp_path: Path) -> None:
    medssl.export(world / "folds" / "fold_0", tmp_path / "bundle")
    run = distill(world, tmp_path / "run", tmp_path / "bundle")
    manifest = json.loads((run / "manifest.json").read_text())
    assert (manifest["teacher"]["kind"], manifest["teacher"]["known"]) == ("bundle", False)
    summary = json.loads((run / "evaluation/test/summary.json").read_text())
    assert summary["unknown_ancestors"] == [f"method.teacher: {tmp_path / 'bundle'}"]


@pytest.mark.parametrize(
    ("teacher", "more", "match"),
    [
        (None, [], "names no trained model: '\\?'"),
        ("nowhere", [], "names no trained model"),
        ("data", [], "names no trained model"),
        ("folds/fold_0", ["spec.intensity.rule=minmax"], "its spec.intensity is not that"),
    ],
)
def test_what_cannot_teach_is_refused_and_leaves_nothing(
    world: Path, tmp_path: Path, teacher: str | None, more: list[str], match: str
) -> None:
    with pytest.raises(MedSSLError, match=match):
        distill(world, tmp_path / "run", world / teacher if teacher else None, *more)
    assert not (tmp_path / "run").exists()


def test_a_patch_that_the_teacher_cannot_take_is_refused(world: Path) -> None:
    named = f"method.teacher={world / 'folds'}"
    loaded = load_recipe(world / "student.yaml", [named])
    plan = plan_cases(loaded, Display(quiet=True))
    training = loaded.recipe.training.model_copy(update={"patch": [15, 16, 8]})
    other = replace(loaded, recipe=loaded.recipe.model_copy(update={"training": training}))
    with pytest.raises(MedSSLError, match=r"cannot predict patches of \[15, 16, 8\]"):
        open_teacher(other, plan, lambda _: None)


def test_a_run_goes_on_with_the_same_teacher_or_not_at_all(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = world / "folds" / "fold_1"
    plain = "evaluation.splits=[]"
    whole = distill(world, tmp_path / "whole", teacher, plain)
    with monkeypatch.context() as patch:
        crash_after(patch, 2)
        with pytest.raises(RuntimeError, match="power cut"):
            distill(world, tmp_path / "run", teacher, plain)
    file = teacher / "checkpoints" / "last.pt"
    kept = file.read_bytes()
    content = load_checkpoint(file)
    content["method_state"] = {k: v + 0.5 for k, v in content["method_state"].items()}
    save_checkpoint(content, file)
    with pytest.raises(MedSSLError, match="the teacher that the run was begun with has changed"):
        distill(world, tmp_path / "run", teacher, plain, resume=True)
    with pytest.raises(MedSSLError, match="teacher that the run was begun with"):
        medssl.replay(whole, iteration=1, device="cpu")
    file.write_bytes(kept)
    with pytest.raises(MedSSLError, match=r"was started with method\.teacher"):
        distill(world, tmp_path / "run", world / "folds" / "fold_0", plain, resume=True)
    run = distill(world, tmp_path / "run", teacher, plain, resume=True)
    ends = [load_checkpoint(r / "checkpoints" / "last.pt") for r in (whole, run)]
    assert all(torch.isfinite(v).all() for v in ends[0]["method_state"].values())
    same_bits(*ends)
