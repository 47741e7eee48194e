"""Trackers: what they are told, that a resumed run goes on there, that none stops a training."""

from __future__ import annotations

import json
import math
import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from medssl.errors import MedSSLError
from medssl.progress import Display
from medssl.runs.folder import RunFolder
from medssl.settings.training import TrainingSettings
from medssl.trackers import trackers
from medssl.trackers.trackers import Trackers, check_trackers
from medssl.training.records import Records
from medssl.training.state import State


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    (tmp_path / "run").mkdir()
    Image.new("RGB", (6, 4), (200, 10, 10)).save(tmp_path / "run" / "worst.png")
    return RunFolder(tmp_path / "run")


class Told(list):
    """What a fake package was told, by names of calls."""

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.append((name, args, kwargs))
            info = types.SimpleNamespace(run_id="m1")
            return types.SimpleNamespace(info=info, experiment_id="7")

        return call


def use(names: list[str], run: RunFolder, step: int) -> list[str]:
    said: list[str] = []
    found = Trackers(names, run, said.append)
    found.scalars({"loss/total": 0.5, "lr": 0.1}, step)
    found.pictures({"test/worst": run.path / "worst.png"}, step)
    found.close()
    return said


def test_mlflow_keeps_all_beside_the_run_and_goes_on_there(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, places = Told(), []
    module: Any = types.ModuleType("mlflow")
    module.entities = types.SimpleNamespace(Metric=lambda *values: values)
    module.MlflowClient = lambda uri: places.append(uri) or told
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    assert use(["mlflow"], run, 3) == []
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == os.environ["DO_NOT_TRACK"] == "true"
    assert places == [f"sqlite:///{run.path.resolve()}/mlflow.db"]
    names = [name for name, *_ in told]
    assert names == [
        *("get_experiment_by_name", "create_run", "log_batch", "log_artifact", "set_terminated")
    ]
    metrics = told[2][2]["metrics"]
    assert [(m[0], m[1], m[3]) for m in metrics] == [("loss/total", 0.5, 3), ("lr", 0.1, 3)]
    assert told[3][1] == ("m1", str(run.path / "worst.png"), "test/worst")
    assert json.loads((run.path / "trackers.json").read_text()) == {"mlflow": "m1"}
    told.clear()
    assert use(["mlflow"], run, 6) == []
    assert [name for name, *_ in told][:2] == ["update_run", "log_batch"]  # the same run
    assert told[0][1:] == (("m1",), {"status": "RUNNING"})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    use(["mlflow"], run, 6)
    assert places[-1] == "http://server"


def test_wandb_stays_offline_and_goes_on_there(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, begun = Told(), []
    module: Any = types.ModuleType("wandb")
    module.init = lambda **options: begun.append(options) or told
    module.Settings = lambda **options: options
    module.Image = lambda path: ("picture", path)
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "true")
    for step in (3, 6):
        assert use(["wandb"], run, step) == []
    first, second = begun
    assert (first["mode"], first["dir"], first["resume"]) == ("offline", str(run.path), "allow")
    assert first["id"] == second["id"]
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"
    assert told[0] == ("log", ({"loss/total": 0.5, "lr": 0.1},), {"step": 3})
    assert told[1][1] == ({"test/worst": ("picture", str(run.path / "worst.png"))},)
    assert told[2][0] == "finish"


class Broken:
    """A tracker that raises at each call, or already when it is opened."""

    known = None
    when = "opened"
    calls = 0

    def __init__(self, *args: Any) -> None:
        if self.when == "opened":
            self.fail()

    def fail(self, *args: Any) -> None:
        type(self).calls += 1
        raise RuntimeError("no room\nmore")

    scalars = picture = close = fail


@pytest.mark.parametrize("when", ["opened", "used"])
def test_a_tracker_that_fails_is_left_out_and_stops_nothing(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    monkeypatch.setitem(trackers.PLACES, "mlflow", "test_trackers:Broken")
    monkeypatch.setitem(sys.modules, "test_trackers", sys.modules[__name__])
    monkeypatch.setattr(Broken, "when", when)
    monkeypatch.setattr(Broken, "calls", 0)
    said: list[str] = []
    display = Display(quiet=True)
    monkeypatch.setattr(display, "say", said.append)
    records, state = Records(run, display, ["mlflow"]), State()
    for _ in range(3):
        records.step("main", 10, state, 0.1, 2.0, {"loss/total": math.nan})
        records.validation("main", state, 0.5, 1.0, best=True, terms={})
    records.close()
    assert Broken.calls == 1
    said = [line for line in said if "warning" in line]
    assert said == ["warning: mlflow fails and shows nothing more of this run: no room"]
    assert len(run.metrics.read_text().splitlines()) == 6


def test_tensorboard_gets_pictures(run: RunFolder) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert use(["tensorboard"], run, 3) == []
    events = reader.EventAccumulator(str(run.tensorboard))
    events.Reload()
    assert events.Tags()["images"] == ["test/worst"]
    [image] = events.Images("test/worst")
    assert (image.width, image.height, image.step) == (6, 4, 3)
    [number] = events.Scalars("loss/total")
    assert (number.value, number.step) == (0.5, 3)
    assert not (run.path / "trackers.json").exists()


def test_what_is_not_installed_is_named_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert TrainingSettings().loggers == ["tensorboard"]
    check_trackers(["tensorboard"])
    monkeypatch.setattr(trackers, "is_installed", lambda name: False)
    with pytest.raises(MedSSLError, match="medssl\\[wandb\\]"):
        check_trackers(["tensorboard", "wandb"])


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_the_package_itself_takes_it(
    run: RunFolder, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(name)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert use([name], run, 3) == []
    assert use([name], run, 6) == []
    assert list(json.loads((run.path / "trackers.json").read_text())) == [name]
