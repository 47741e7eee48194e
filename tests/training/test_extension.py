"""A run with a larger budget: which stage grows, what schedules read, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import crash_after, same_bits, small_recipe, write_dataset, write_recipe

import medssl
from medssl import cli
from medssl.errors import MedSSLError
from medssl.methods.settings import Stage
from medssl.runs.budget import LENGTHS, extended
from medssl.runs.checkpoint import load_checkpoint
from medssl.training.optimization import learning_rate

PLAN = [Stage("first", 4), Stage("last", 12)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("extension")
    return write_dataset(folder / "data"), folder / "cache"


def recipe_file(world: tuple[Path, Path], folder: Path, method: str, **changes: Any) -> Path:
    changes = {"method": {"name": method}, "data": {"test": 0}, **changes}
    return write_recipe(folder / "recipe.yaml", small_recipe(*world, **changes))


def last(run: Path) -> dict[str, Any]:
    return load_checkpoint(run / "checkpoints" / "last.pt")


def test_the_last_stage_gets_the_difference() -> None:
    grown = extended(PLAN, {LENGTHS: {"first": 2, "last": 6}})
    assert [s.iterations for s in grown] == [2, 14]
    assert extended(PLAN, None) == PLAN
    assert extended(PLAN, {"step": 3}) == PLAN, "a checkpoint of an older version"
    assert extended(PLAN, {LENGTHS: {"first": 4, "last": 12}}) == PLAN
    with pytest.raises(MedSSLError, match="started for 20"):
        extended(PLAN, {LENGTHS: {"first": 5, "last": 15}})


def test_stages_and_schedule_of_an_extended_run(world: tuple[Path, Path], tmp_path: Path) -> None:
    recipe = recipe_file(world, tmp_path, "bcp", training={"log_every": 1})
    run = medssl.train(recipe, output=tmp_path / "run").path
    before = last(run)[LENGTHS]
    medssl.train(run, overrides=["training.iterations=12"], resume=True)
    after = last(run)
    assert after["step"] == 12
    assert after[LENGTHS] == {**before, "self_train": 12 - before["pretrain"]}
    lines = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines] == list(range(1, 13))
    # Poly over the old length up to the old end, over the new length from there on.
    settings = medssl.load_recipe(recipe).recipe.training
    for line in lines[before["pretrain"] :]:
        length = (before if line["step"] <= 8 else after[LENGTHS])["self_train"]
        rate = learning_rate(
            line["iteration"] - 1, length, settings.optimizer.lr, settings.schedule
        )
        assert line["lr"] == pytest.approx(rate)
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["extensions"] == [{"step": 8, "from": 8, "to": 12}]


def test_an_extended_run_resumes_with_the_same_bits(
    world: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, longer = recipe_file(world, tmp_path, "bcp"), ["training.iterations=14"]
    for name in ("whole", "dies"):
        medssl.train(recipe, output=tmp_path / name)
    whole, dies = tmp_path / "whole", tmp_path / "dies"
    medssl.train(whole, overrides=longer, resume=True)
    for death in (1, 3):  # before and after the first checkpoint of the extension
        with monkeypatch.context() as patch:
            crash_after(patch, death)
            with pytest.raises(RuntimeError, match="power cut"):
                medssl.train(dies, overrides=longer, resume=True)
    medssl.train(dies, resume=True)  # the longer budget is in the run's own recipe by now
    same_bits(last(whole), last(dies))


def test_a_stage_that_stopped_early_goes_on(
    world: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medssl.training.validation.make_dice", lambda *_: lambda _model: 0.5)
    training = {"validate_every": 1, "early_stop": 2}
    recipe = recipe_file(world, tmp_path, "supervised", training=training, data={"validation": 1})
    run = medssl.train(recipe, output=tmp_path / "run").path
    assert last(run)["step"] == 3
    medssl.train(run, overrides=["training.iterations=20"], resume=True)
    assert last(run)["step"] == 5, "two more validations were waited for"


def test_a_smaller_budget_is_refused(
    world: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_file(world, tmp_path, "supervised")
    run = medssl.train(recipe, output=tmp_path / "run").path
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    arguments = ["--quiet", "train", str(run), "--resume", "--set", "training.iterations=5"]
    assert cli.run(arguments) == 2
    message = capsys.readouterr().err
    assert "started for 8 iterations, not 5" in message
    assert "training.iterations=8 or more" in message
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(("before", "after"), [("fp32", "fp16"), ("fp16", "bf16")])
def test_a_run_goes_on_in_another_precision(
    world: tuple[Path, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    before: str,
    after: str,
) -> None:
    """As where a queue resumes it on an older card, which has no bf16."""
    caplog.set_level("INFO", logger="medssl")
    recipe = recipe_file(world, tmp_path, "supervised")
    run = medssl.train(recipe, output=tmp_path / "run", precision=before).path
    medssl.train(run, overrides=["training.iterations=10"], resume=True, precision=after)
    assert last(run)["step"] == 10
    said = "in fp16, in which it was not begun" in caplog.text
    assert said == (after == "fp16")
