"""Sweeps: what is planned, what is trained and what is not, what is found."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers import small_recipe, write_dataset, write_recipe
from run_folders import write_run

import medssl
from medssl import cli
from medssl.errors import MedSSLError, Stopped
from medssl.files import locked
from medssl.progress import Display
from medssl.recipe.load import load_recipe
from medssl.sweeps.plan import Axes, PlannedPoint, check_cases, parse_labeled, plan_sweep
from medssl.sweeps.summary import format_sweep, summarize_sweep, write_sweep
from medssl.training.cases import plan_cases
from medssl.workflows.planned_runs import RunsResult


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe on ten cases whose method has settings and a stage of its own."""
    folder = tmp_path_factory.mktemp("sweep")
    write_dataset(folder / "data", cases=10)
    content = small_recipe(
        folder / "data",
        folder / "cache",
        data={"test": 3},
        method={"name": "bcp", "ema_decay": 0.9},
        training={"iterations": 4, "stages": {"pretrain": {"optimizer": {"lr": 0.005}}}},
    )
    return write_recipe(folder / "small.yaml", content)


@pytest.fixture(scope="module")
def done(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> RunsResult:
    """A finished sweep of three runs."""
    folder = tmp_path_factory.mktemp("done") / "sweep"
    return medssl.sweep(recipe, labeled=[2, "all"], seeds=1, output=folder)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the runs that are trained, in order."""
    names: list[str] = []
    train = medssl.train

    def noted(*args: Any, **options: Any) -> Any:
        resumed = (options["output"] / "recipe.yaml").is_file()
        names.append(options["output"].name + (" resumed" if resumed else ""))
        return train(*args, **options)

    monkeypatch.setattr("medssl.workflows.train_job.train", noted)
    return names


# ---------------------------------------------------------------------- the plan


def test_labels_are_read() -> None:
    assert parse_labeled("4, 8,all") == [4, 8, "all"]
    for text in ("4,,8", "0", "-4", "four", ""):
        with pytest.raises(MedSSLError, match="number of labeled patients"):
            parse_labeled(text)


def test_the_plan_holds_a_baseline_at_every_point(recipe: Path, tmp_path: Path) -> None:
    jobs = plan_sweep(
        recipe, Axes([2, 4, "all"], 2, methods=["bcp", "mean_teacher"]), output=tmp_path
    )
    first = ["supervised-2", "bcp-2", "mean_teacher-2"]
    first += ["supervised-4", "bcp-4", "mean_teacher-4"]
    first += ["supervised-all", "bcp-all", "mean_teacher-all"]
    assert [j.name for j in jobs] == [f"{n}-{seed}" for seed in (0, 1) for n in first]
    for job in jobs:
        assert job.loaded.recipe.seed == job.seed
        assert job.loaded.recipe.data.labeled == (None if job.labeled == "all" else job.labeled)


def test_settings_of_the_recipes_method_stay_with_it(recipe: Path, tmp_path: Path) -> None:
    overrides = ["method.mask_ratio=0.5", "training.iterations=6", "training.stages.pretrain={}"]
    jobs = plan_sweep(
        recipe,
        Axes([2], 1, methods=["mean_teacher", "bcp"]),
        overrides=overrides,
        output=tmp_path,
    )
    recipes = {j.method: j.loaded.recipe for j in jobs}
    own = recipes["bcp"].method
    assert {k: own.settings[k] for k in own.overridden} == {"ema_decay": 0.9, "mask_ratio": 0.5}
    assert list(recipes["bcp"].training.stages) == ["pretrain"]
    for name in ("supervised", "mean_teacher"):
        assert recipes[name].method.overridden == ()
        assert recipes[name].training.stages == {}
        assert recipes[name].training.iterations == 6
        assert recipes[name].network == recipes["bcp"].network


def test_labeled_sets_are_nested_and_test_cases_fixed(recipe: Path, tmp_path: Path) -> None:
    jobs = plan_sweep(recipe, Axes([2, 4, 6, "all"], 2), output=tmp_path)
    jobs, _ = check_cases(jobs, Display(quiet=True))
    splits = [plan_cases(j.loaded, Display(quiet=True)).splits for j in jobs]
    assert len({tuple(c.id for c in s.test) for s in splits}) == 1
    sets = {str(j.labeled): {c.id for c in s.labeled} for j, s in zip(jobs, splits, strict=True)}
    assert [len(s) for s in sets.values()] == [2, 4, 6, 7]
    assert sets["2"] < sets["4"] < sets["6"] < sets["all"]


@pytest.mark.parametrize("unlabeled", [0, 2])
def test_a_method_has_a_run_at_all_labels_where_images_are_left(
    unlabeled: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="medssl")
    data = write_dataset(tmp_path / "data", cases=6, unlabeled=unlabeled)
    recipe = write_recipe(tmp_path / "r.yaml", small_recipe(data, tmp_path / "cache"))
    everything = plan_sweep(recipe, Axes([3, "all"], 2), output=tmp_path / "out")
    plan, left_out = check_cases(everything, Display(quiet=True))
    names = {planned.name for planned in plan}
    assert {"supervised-3-0", "bcp-3-0", "supervised-all-1"} < names
    assert ("bcp-all-0" in names) == ("bcp-all-1" in names) == bool(unlabeled)
    said = "bcp has no run at all labels: the method learns from unlabeled images but there are"
    assert [line.startswith(said) for line in left_out] == ([] if unlabeled else [True])
    assert (said in caplog.text) == (not unlabeled)


def test_what_cannot_work_is_said_before_anything_is_trained(
    recipe: Path, tmp_path: Path, trained: list[str]
) -> None:
    out = tmp_path / "out"
    for options, message in (
        ({"labeled": [2, 9]}, "9 labeled patients are asked for but only 7"),
        ({"labeled": [7, "all"]}, "there are none"),  # nothing is left unlabeled for bcp
        ({"labeled": [2], "methods": ["bpc"]}, "bpc"),
        ({"labeled": [2], "overrides": ["data.test=0"]}, "no test cases"),
        ({"labeled": [2], "overrides": ["method.ema_decay=7"]}, "ema_decay"),
        ({"labeled": []}, "at least one number"),
        ({"labeled": [2], "seeds": 0}, "one seed"),
        ({"labeled": [2], "jobs": 0}, "0 runs at a time"),
    ):
        with pytest.raises(MedSSLError, match=message):
            medssl.sweep(recipe, output=out, **options)
    assert not trained
    assert not out.exists()


# ---------------------------------------------------------------------- the runs


def test_a_sweep_leaves_runs_and_a_summary(done: RunsResult) -> None:
    assert (done.finished, done.total, done.failures, done.stopped) == (3, 3, {}, None)
    for name in ("supervised-2-0", "bcp-2-0", "supervised-all-0"):
        assert json.loads((done.path / name / "manifest.json").read_text())["status"] == "finished"
    points = json.loads((done.path / "summary.json").read_text())["points"]
    assert [(p["method"], p["labeled"], p["labeled_cases"]) for p in points] == [
        ("supervised", 2, 2),
        ("bcp", 2, 2),
        ("supervised", "all", 7),
    ]
    assert ["gain" in p for p in points] == [False, True, False]
    # The gain is the difference of what the two runs' own evaluations say.
    means = [
        json.loads((done.path / n / "evaluation" / "test" / "summary.json").read_text())
        for n in ("bcp-2-0", "supervised-2-0")
    ]
    bcp, base = (m["overall"]["metrics"]["dice"]["mean"] for m in means)
    assert points[1]["gain"]["difference"] == pytest.approx(bcp - base, abs=1e-5)
    with (done.path / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [r["status"] for r in rows] == ["finished"] * 3
    assert float(rows[1]["dice"]) == pytest.approx(bcp, abs=1e-5)
    assert (done.path / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_finished_runs_are_not_repeated(
    recipe: Path, done: RunsResult, tmp_path: Path, trained: list[str]
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(done.path, folder)
    # What does not change the result may change, like where progress is logged how often.
    overrides = ["training.log_every=1"]
    again = medssl.sweep(recipe, labeled=[2, "all"], seeds=1, output=folder, overrides=overrides)
    assert trained == []
    assert again.summary["points"] == json.loads(json.dumps(done.summary["points"]))
    more = medssl.sweep(recipe, labeled=[2, "all"], seeds=2, output=folder)
    assert trained == ["supervised-2-1", "bcp-2-1", "supervised-all-1"]
    assert (more.finished, more.total) == (6, 6)
    assert [p["seeds"] for p in more.summary["points"]] == [[0, 1]] * 3


def test_another_experiment_in_the_folder_is_refused(
    recipe: Path, done: RunsResult, tmp_path: Path, trained: list[str]
) -> None:
    with pytest.raises(MedSSLError, match=r"made with training.iterations = 4, not 6"):
        medssl.sweep(
            recipe, labeled=[2], seeds=1, output=done.path, overrides=["training.iterations=6"]
        )
    (tmp_path / "bcp-2-0").mkdir()
    (tmp_path / "bcp-2-0" / "notes.txt").write_text("mine")
    with pytest.raises(MedSSLError, match="not a run"):
        medssl.sweep(recipe, labeled=[2], seeds=1, output=tmp_path)
    assert not trained


def test_one_sweep_at_a_time_in_a_folder(recipe: Path, tmp_path: Path) -> None:
    busy = pytest.raises(MedSSLError, match="another sweep is running")
    with locked(tmp_path / ".lock"), busy:
        medssl.sweep(recipe, labeled=[2], seeds=1, output=tmp_path)


def test_stopping_and_going_on(
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The second run is stopped after two iterations; the same command finishes the sweep."""
    from medssl.training.engine import Engine

    step, taken = Engine._step, []

    def interrupted(self: Engine, *args: Any) -> Any:
        taken.append(self.run.path.name)
        if taken.count("bcp-2-0") == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *args)

    monkeypatch.setattr(Engine, "_step", interrupted)
    command = ["sweep", str(recipe), "--labeled", "2,all", "--seeds", "1"]
    command += ["--output", str(tmp_path / "out")]
    assert cli.run(command) == 130
    messages = " ".join(capsys.readouterr().err.split())
    assert "1 of 3 runs are finished" in messages
    assert "same command" in messages
    assert taken == ["supervised-2-0"] * 4 + ["bcp-2-0"] * 2
    assert not (tmp_path / "out" / "supervised-all-0").exists()
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["n_runs"] == {"finished": 1, "planned": 3}
    assert [r["status"] for r in summary["runs"]] == ["finished", "stopped", "not started"]

    monkeypatch.setattr(Engine, "_step", step)
    taken.clear()
    monkeypatch.setattr(
        Engine, "_step", lambda self, *a: (taken.append(self.run.path.name), step(self, *a))[1]
    )
    assert cli.run(command) == 0
    assert taken == ["bcp-2-0"] * 2 + ["supervised-all-0"] * 4  # only what was missing


def test_a_failing_run_does_not_stop_the_others(
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train = medssl.train

    def failing(*args: Any, **options: Any) -> Any:
        if options["output"].name == "supervised-2-0":
            raise RuntimeError("out of luck\nsecond line")
        return train(*args, **options)

    monkeypatch.setattr("medssl.workflows.train_job.train", failing)
    out = tmp_path / "out"
    command = ["sweep", str(recipe), "--labeled", "2", "--seeds", "1", "--output", str(out)]
    assert cli.run(command) == 1
    assert "failed: supervised-2-0: RuntimeError: out of luck" in capsys.readouterr().err
    summary = json.loads((out / "summary.json").read_text())
    assert summary["failures"] == {"supervised-2-0": "RuntimeError: out of luck"}
    (point,) = summary["points"]
    assert point["method"] == "bcp"
    assert "gain" not in point  # its baseline is missing


def test_ctrl_c_outside_the_training_loop_stops_too(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_args: Any, **_options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("medssl.workflows.train_job.train", interrupted)
    result = medssl.sweep(recipe, labeled=[2], seeds=1, output=tmp_path / "out")
    assert (result.stopped, result.finished, result.summary) == (signal.SIGINT, 0, {})

    def terminated(*_args: Any, **_options: Any) -> Any:
        raise Stopped(signal.SIGTERM, 3, tmp_path)

    monkeypatch.setattr("medssl.workflows.train_job.train", terminated)
    assert medssl.sweep(recipe, labeled=[2], seeds=1, output=tmp_path / "out").stopped == 15


# ---------------------------------------------------------------------- processes


def command_of(recipe: Path, out: Path, *more: str) -> list[str]:
    words = ["sweep", str(recipe), "--labeled", "2", "--seeds", "1", "--jobs", "2"]
    return [sys.executable, "-m", "medssl", *words, "--output", str(out), *more]


def wait_for(condition: Callable[[], bool], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


@pytest.mark.slow
def test_processes_are_interrupted_once_and_continue(recipe: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(recipe.read_text())
    content["training"] |= {"iterations": 3000, "checkpoint_every": 3000}
    long = write_recipe(tmp_path / "long.yaml", content)
    out = tmp_path / "out"
    process = subprocess.Popen(
        command_of(long, out), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    logs = [out / n / "metrics.jsonl" for n in ("supervised-2-0", "bcp-2-0")]
    wait_for(lambda: all(p.is_file() and p.stat().st_size for p in logs))
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    messages = process.communicate(timeout=240)[1]
    assert process.returncode == 130
    assert "0 of 2 runs are finished" in " ".join(messages.split())
    assert "failed" not in messages
    manifests = [json.loads((p.parent / "manifest.json").read_text()) for p in logs]
    assert [m["status"] for m in manifests] == ["stopped", "stopped"]
    assert all(0 < m["iterations_done"] < 3000 for m in manifests)
    assert all((p.parent / "checkpoints" / "last.pt").is_file() for p in logs)


@pytest.mark.slow
def test_processes_report_failures(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = command_of(recipe, tmp_path / "out", "--methods", "supervised", "--device", "cuda:7")
    assert cli.run(command[3:]) == 1
    told = capsys.readouterr().err
    assert "failed: supervised-2-0" in told
    assert "Traceback" not in told


@pytest.mark.slow
def test_processes_do_the_same_as_one(recipe: Path, done: RunsResult, tmp_path: Path) -> None:
    result = medssl.sweep(recipe, labeled=[2], seeds=1, jobs=2, output=tmp_path / "out")
    assert result.finished == 2
    for name in ("supervised-2-0", "bcp-2-0"):
        tables = [p / name / "evaluation/test/cases.csv" for p in (result.path, done.path)]
        one, other = (np.genfromtxt(t, delimiter=",", usecols=3, skip_header=1) for t in tables)
        # Another number of threads adds in another order; nothing else may differ.
        np.testing.assert_allclose(one, other, atol=0.02)


# ---------------------------------------------------------------------- the summary


def planned(folder: Path, recipe: Path) -> list[PlannedPoint]:
    """A plan over runs written by hand: bcp gains 0.04 with 2 labels and nothing with 4."""
    jobs = plan_sweep(recipe, Axes([2, 4], 2), output=folder)
    base = np.linspace(0.5, 0.7, 12)
    for job in jobs[:-1]:  # the last run is missing
        shift = 0.05 * (job.labeled == 4) + 0.01 * job.seed
        shift += 0.04 * (job.method == "bcp" and job.labeled == 2)
        left = (base + shift).round(6)
        labeled = [f"l{i}" for i in range(int(job.labeled))]
        write_run(
            job.path,
            {"left": left.tolist(), "right": (left + 0.1).round(6).tolist()},
            method=job.method,
            seed=job.seed,
            labeled=labeled,
            unlabeled=[f"l{i}" for i in range(int(job.labeled), 7)],
        )
    return jobs


def test_points_hold_means_gains_and_intervals(recipe: Path, tmp_path: Path) -> None:
    jobs = planned(tmp_path / "out", recipe)
    summary = summarize_sweep(jobs, recipe="toy.yaml", failures={jobs[-1].name: "no luck"})
    points = {(p["method"], p["labeled"]): p for p in summary["points"]}
    few = points["bcp", 2]
    assert few["dice"] == pytest.approx(0.6 + 0.05 + 0.04 + 0.005, abs=1e-6)
    assert few["dice_per_run"] == pytest.approx([0.69, 0.70], abs=1e-6)
    assert few["low"] < few["dice"] < few["high"]
    assert few["gain"]["difference"] == pytest.approx(0.04, abs=1e-6)
    # All patients gain alike, so only runs differ: by 0.01 in each method, two runs each: a
    # variance of 0.00005 times 1/2 + 1/2, 2 degrees of freedom.
    half = 4.302653 * math.sqrt(0.00005)
    assert few["gain"]["low"] == pytest.approx(0.04 - half, abs=1e-6)
    assert few["gain"]["high"] == pytest.approx(0.04 + half, abs=1e-6)
    assert few["failures"] == {
        "threshold": 0.5,
        "below": 0,
        "patients": 12,
        "at_most": 1 - 0.05 ** (1 / 12),
        "confidence": 0.95,
    }
    assert few["verdict"]["code"] == "gain"
    assert points["bcp", 4]["gain"]["difference"] == pytest.approx(-0.005, abs=1e-6)
    assert points["bcp", 4]["seeds"] == [0]  # of the two, one is missing
    assert points["bcp", 4]["verdict"]["code"] == "none"
    assert [p["labeled"] for p in summary["points"]] == [2, 2, 4, 4]
    assert [r["status"] for r in summary["runs"]] == ["finished"] * 7 + ["failed"]


def test_the_summary_is_written_and_shown(recipe: Path, tmp_path: Path) -> None:
    from rich.console import Console

    summary = summarize_sweep(planned(tmp_path / "out", recipe), recipe="toy.yaml")
    write_sweep(summary, tmp_path)
    with (tmp_path / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert rows[-1]["status"] == "not started"
    assert rows[-1]["dice"] == ""
    console = Console(width=80)
    with console.capture() as capture:
        console.print(format_sweep(summary))
    text = capture.get()
    assert "7 of 8 runs" in " ".join(text.split())
    assert "+0.0400 [+0.0096 +0.0704]" in text
    assert "Evidence of gain: bcp (2 labels)" in text


def test_the_runs_recipe_is_the_planned_one(recipe: Path, done: RunsResult) -> None:
    (job,) = [
        j for j in plan_sweep(recipe, Axes([2], 1), output=done.path) if j.method == "supervised"
    ]
    assert load_recipe(job.path / "recipe.yaml").recipe == job.loaded.recipe


# ---------------------------------------------------------------------- folds


def test_a_curve_from_every_labeled_patient(recipe: Path, tmp_path: Path) -> None:
    """Seven patients in two folds: two of the others keep their labels, three stay locked."""
    out = tmp_path / "curve"
    options: dict[str, Any] = {"labeled": [2, "all"], "seeds": 1, "folds": 2, "output": out}
    found = medssl.sweep(recipe, **options)
    assert (found.finished, found.total, found.failures) == (6, 6, {})
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["split"], summary["n_cases"], summary["n_patients"]) == ("out_of_fold", 7, 7)
    assert [(p["method"], p["labeled"], p["labeled_cases"]) for p in summary["points"]][:2] == [
        ("supervised", 2, 2),
        ("bcp", 2, 2),
    ]
    tested: list[str] = []
    locked = {c.id for c in plan_cases(load_recipe(recipe), Display(quiet=True)).splits.test}
    for fold in (0, 1):
        splits = json.loads((out / "bcp-2-0" / f"fold_{fold}" / "splits.json").read_text())
        tested += splits["test"]
        used = {*splits["labeled"], *splits["unlabeled"], *splits["test"]}
        assert len(splits["labeled"]) == 2
        assert len(used) == 7
        assert not used & locked
        base = json.loads((out / "supervised-2-0" / f"fold_{fold}" / "splits.json").read_text())
        assert base["labeled"] == splits["labeled"]
    assert len(tested) == len(set(tested)) == 7
    with (out / "sweep.csv").open() as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    assert rows["bcp-2-0"]["status"] == "finished"
    whole = out / "bcp-2-0" / "evaluation" / "out_of_fold" / "summary.json"
    dice = json.loads(whole.read_text())["overall"]["metrics"]["dice"]["mean"]
    assert float(rows["bcp-2-0"]["dice"]) == pytest.approx(dice, abs=1e-5)
    with pytest.raises(MedSSLError, match="5 labeled patients are asked for but a fold trains on"):
        medssl.sweep(recipe, **(options | {"labeled": [5]}))
