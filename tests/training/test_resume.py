"""A run that dies and is resumed ends with the same bits as one that was never interrupted."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forks import HEAVY, command, forks
from helpers import crash_after, same_bits, small_recipe, write_dataset, write_recipe

import medssl
from medssl import cli
from medssl.errors import Stopped
from medssl.methods.registry import get_settings, list_methods
from medssl.runs.checkpoint import load_checkpoint
from medssl.training.engine import Engine


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("resume")
    return write_dataset(folder / "data"), folder / "cache"


# What a method needs that the small recipe has not.
NEEDS: dict[str, dict[str, Any]] = {
    "umct": {"network": {"dropout": 0.1}, "training": {"patch": [12, 12, 12]}},
}


def recipe_file(world: tuple[Path, Path], folder: Path, name: str, **changes: Any) -> Path:
    """Write a recipe that ends with its training; evaluation follows only if a test says so."""
    plain: dict[str, Any] = {"method": {"name": name}, "evaluation": {"splits": []}}
    if get_settings(name).taught:
        teacher = world[1].parent / "teacher"
        if not teacher.exists():
            medssl.train(recipe_file(world, folder, "supervised"), output=teacher)
        plain["method"]["teacher"] = str(teacher)
    changes = {**NEEDS.get(name, {}), **plain, **changes}
    return write_recipe(folder / f"{name}.yaml", small_recipe(*world, **changes))


def weights(run: Path) -> dict[str, Any]:
    return load_checkpoint(run / "checkpoints" / "last.pt")


@pytest.mark.parametrize("method", list_methods())
def test_resume_is_bit_identical_in_every_stage(
    method: str, world: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_file(world, tmp_path, method)
    whole = medssl.train(recipe, output=tmp_path / "whole").path
    rng = np.random.default_rng(list_methods().index(method))
    # Checkpoints fall after iterations 3 and 6 and at stage ends; die early, late, and anywhere.
    for death in sorted({1, 8, *rng.integers(2, 8, size=2).tolist()}):
        run = tmp_path / f"dies-{death}"
        with monkeypatch.context() as patch:
            crash_after(patch, death)
            with pytest.raises(RuntimeError, match="power cut"):
                medssl.train(recipe, output=run)
        assert json.loads((run / "manifest.json").read_text())["status"] == "failed"
        medssl.train(recipe, output=run, resume=True)
        same_bits(weights(whole), weights(run))
        logged = [json.loads(x)["step"] for x in (run / "metrics.jsonl").read_text().splitlines()]
        assert logged == sorted(logged)


@pytest.mark.slow
def test_workers_change_nothing(
    world: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_file(world, tmp_path, "bcp")
    alone = medssl.train(recipe, output=tmp_path / "alone").path
    run, two = tmp_path / "two", ["training.workers=2"]
    with monkeypatch.context() as patch:
        crash_after(patch, 5)
        with pytest.raises(RuntimeError, match="power cut"):
            medssl.train(recipe, overrides=two, output=run)
    medssl.train(recipe, overrides=two, output=run, resume=True)
    same_bits(weights(alone), weights(run))


def test_resume_with_validation_and_momentum(
    world: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_file(
        world,
        tmp_path,
        "bcp",
        data={"validation": 1},
        method={"name": "bcp", "preset": "official", "variant": "acdc"},
        training={"optimizer": {"name": "sgd"}, "accumulate": 2, "gradient_clip": 1.0},
    )
    whole = medssl.train(recipe, output=tmp_path / "whole").path
    assert (whole / "checkpoints" / "best.pt").is_file()
    assert (whole / "checkpoints" / "best-pretrain.pt").is_file()
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        crash_after(patch, 7)
        with pytest.raises(RuntimeError, match="power cut"):
            medssl.train(recipe, output=run)
    medssl.train(recipe, output=run, resume=True)
    same_bits(weights(whole), weights(run))
    best = [load_checkpoint(p / "checkpoints" / "best.pt") for p in (whole, run)]
    same_bits(*best)


def test_a_finished_run_is_extended(world: tuple[Path, Path], tmp_path: Path) -> None:
    recipe = recipe_file(world, tmp_path, "supervised", training={"schedule": {"name": "constant"}})
    longer = ["training.iterations=12"]
    whole = medssl.train(recipe, overrides=longer, output=tmp_path / "whole").path
    medssl.train(recipe, output=tmp_path / "run")
    medssl.train(recipe, overrides=longer, output=tmp_path / "run", resume=True)
    same_bits(weights(whole), weights(tmp_path / "run"))


def test_a_stage_is_taken_from_another_run(world: tuple[Path, Path], tmp_path: Path) -> None:
    recipe = recipe_file(world, tmp_path, "bcp")
    whole = medssl.train(recipe, output=tmp_path / "whole").path
    reuse = [f"training.stages.pretrain.reuse={whole}"]
    other = medssl.train(recipe, overrides=reuse, output=tmp_path / "other").path
    one, two = weights(whole), weights(other)
    same_bits(one["method_state"], two["method_state"])
    assert two["state"]["step"] < one["state"]["step"]
    fresh = medssl.train(recipe, overrides=["seed=4"], output=tmp_path / "fresh").path
    reused = medssl.train(recipe, overrides=["seed=4", *reuse], output=tmp_path / "reused").path
    parts = [weights(p)["method_state"] for p in (fresh, reused)]
    assert any(not torch.equal(parts[0][k], parts[1][k]) for k in parts[0] if "student" in k)


def test_resuming_a_finished_run_only_evaluates(world: tuple[Path, Path], tmp_path: Path) -> None:
    recipe = recipe_file(world, tmp_path, "bcp", evaluation={})
    first = medssl.train(recipe, output=tmp_path / "run")
    before = weights(first.path)
    again = medssl.train(recipe, output=tmp_path / "run", resume=True)
    same_bits(before, weights(again.path))
    assert again.summaries["test"] == first.summaries["test"]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_says_how_to_resume(
    signum: signal.Signals,
    world: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = recipe_file(world, tmp_path, "mean_teacher", training={"checkpoint_every": 100})
    whole = medssl.train(recipe, output=tmp_path / "whole").path
    step, done = Engine._step, []

    def terminated(self: Engine, *arguments: Any) -> None:
        step(self, *arguments)
        done.append(1)
        if len(done) == 4:
            os.kill(os.getpid(), signum)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "_step", terminated)
        with pytest.raises(Stopped):
            medssl.train(recipe, output=tmp_path / "run")
    assert weights(tmp_path / "run")["state"]["iteration"] == 4
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["status"] == "stopped"
    # As the message says: the run folder alone is enough to go on.
    assert cli.run(["--quiet", "train", str(tmp_path / "run"), "--resume"]) == 0
    same_bits(weights(whole), weights(tmp_path / "run"))


def test_one_command_starts_and_resumes(
    world: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a queue needs: the same words at the first start and after every stop."""
    recipe = recipe_file(world, tmp_path, "mean_teacher", training={"checkpoint_every": 100})
    whole = medssl.train(recipe, output=tmp_path / "whole").path
    step, done = Engine._step, []

    def preempted(self: Engine, *arguments: Any) -> None:
        step(self, *arguments)
        done.append(self.state.step)
        if len(done) in (3, 5):
            os.kill(os.getpid(), signal.SIGUSR1)

    monkeypatch.setattr(Engine, "_step", preempted)
    monkeypatch.chdir(tmp_path)
    command = ["--quiet", "train", str(recipe), "--resume-or-start"]
    assert [cli.run(command) for _ in range(4)] == [138, 138, 0, 0]
    assert done == list(range(8)), "no iteration was made twice or left out"
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["small"]  # never small-2
    same_bits(weights(whole), weights(tmp_path / "runs" / "small"))
    # A run that was killed before it had begun is started.
    begun = tmp_path / "begun"
    (begun / "checkpoints").mkdir(parents=True)
    (begun / ".lock").write_text("{}")
    assert cli.run([*command, "--output", str(begun)]) == 0
    # --resume alone still asks for a run.
    assert cli.run([*command[:-1], "--resume", "--output", str(tmp_path / "none")]) == 2


@pytest.mark.slow
def test_kill_nine_from_outside(world: tuple[Path, Path], tmp_path: Path) -> None:
    """Kill the real command at a random moment and resume it."""
    recipe = recipe_file(
        world, tmp_path, "bcp", training={"iterations": 120, "checkpoint_every": 10}
    )
    whole, run = tmp_path / "whole", tmp_path / "run"
    words = "--quiet", "train", str(recipe), "--output"
    started = forks(*HEAVY)
    assert started.run(command(*words, whole)).code == 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    killed = [sys.executable, "-m", "medssl", *words, str(run)]
    process = subprocess.Popen(killed, env=environment)
    deadline = time.monotonic() + 120
    while not (run / "checkpoints" / "last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(float(np.random.default_rng().uniform(0, 1.0)))
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    assert started.run(command(*words, run, "--resume")).code == 0
    same_bits(weights(whole), weights(run))


def test_carried_momentum_is_that_of_the_best_weights(
    world: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BCP's code goes on in stage 2 with the optimizer it saved beside the best weights."""
    recipe = recipe_file(
        world,
        tmp_path,
        "bcp",
        data={"validation": 1},
        method={
            "name": "bcp",
            "preset": "official",
            "variant": "acdc",
            "pretrain_fraction": 0.5,
        },
        training={"optimizer": {"name": "sgd"}, "validate_every": 2},
    )
    scores, seen = iter([0.9, 0.1, 0.2, 0.3]), {}
    start, end = Engine._start_stage, Engine._end_stage

    def note(name: str, engine: Engine) -> None:
        seen[name] = {k: copy.deepcopy(o.state_dict()) for k, o in engine.optimizers.items()}

    def starting(self: Engine, index: int, saved: Any) -> None:
        start(self, index, saved)
        note(f"start {index}", self)

    def ending(self: Engine, stage: Any) -> None:
        note(f"end {self.state.stage}", self)
        end(self, stage)

    monkeypatch.setattr(
        "medssl.training.validation.make_dice", lambda *_: lambda _model: next(scores)
    )
    monkeypatch.setattr(Engine, "_start_stage", starting)
    monkeypatch.setattr(Engine, "_end_stage", ending)
    run = medssl.train(recipe, output=tmp_path / "run").path
    best = load_checkpoint(run / "checkpoints" / "best-pretrain.pt")
    assert best["dice"] == 0.9
    carried, last = seen["start 1"]["student"]["state"], seen["end 0"]["student"]["state"]
    same_bits(carried, best["optimizers"]["student"]["state"])
    assert not torch.equal(carried[0]["momentum_buffer"], last[0]["momentum_buffer"])
    assert "optimizers" not in load_checkpoint(run / "checkpoints" / "best.pt")
