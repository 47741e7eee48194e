"""Schedules, precision, checkpoints, logging: the parts of the engine on their own."""

from __future__ import annotations

import io
import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from helpers import small_recipe, write_dataset, write_recipe

from medssl.data.datasets.case import LabelMap
from medssl.device import autocast, make_scaler, resolve_device, resolve_precision
from medssl.errors import MedSSLError, located
from medssl.models.create import create_method
from medssl.ops.moving import to_device
from medssl.progress import Display, describe_terms
from medssl.recipe.load import load_recipe
from medssl.runs.checkpoint import load_checkpoint, load_weights, save_checkpoint
from medssl.runs.folder import RunFolder, free_run_path
from medssl.settings.training import OptimizerSettings, ScheduleSettings
from medssl.training.cases import plan_cases
from medssl.training.optimization import build_optimizer, learning_rate
from medssl.training.setup import loader_workers
from medssl.training.step_log import StepLog

CPU = torch.device("cpu")


def rates(total: int = 100, base: float = 1.0, **schedule: object) -> list[float]:
    settings = ScheduleSettings.model_validate(schedule)
    return [learning_rate(i, total, base, settings) for i in range(total)]


def test_constant_and_warmup() -> None:
    values = rates(name="constant", warmup=4)
    assert values[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert set(values[4:]) == {1.0}


def test_poly_is_the_closed_form() -> None:
    values = rates(name="poly", power=0.9)
    assert values[0] == 1.0
    assert values[50] == pytest.approx(0.5**0.9)
    assert values[99] == pytest.approx(0.01**0.9)


def test_finetune_is_poly_after_a_short_rise_at_a_lower_rate_if_asked() -> None:
    values = rates(name="finetune", peak=0.2)
    assert values[:6] == pytest.approx([0.04, 0.08, 0.12, 0.16, 0.2, 0.2])  # 5 of 100 iterations
    assert values[52] == pytest.approx(0.2 * (48 / 95) ** 0.9)
    assert rates(name="finetune", peak=1.0, warmup=10)[:2] == pytest.approx([0.1, 0.2])


def test_cosine_falls_to_its_floor() -> None:
    values = rates(name="cosine", min_lr=0.1)
    assert values[50] == pytest.approx(0.55)
    assert values[99] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi * 0.99)) / 2)
    assert all(a > b for a, b in itertools.pairwise(values))


def test_step_is_the_published_rule() -> None:
    # BCP on LA: 0.01 * 0.1 ** (iteration // 2500)
    schedule = ScheduleSettings(name="step", step_size=2500, gamma=0.1)
    for iteration, expected in ((0, 1e-2), (2499, 1e-2), (2500, 1e-3), (12_500, 1e-7)):
        assert learning_rate(iteration, 15_000, 0.01, schedule) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)],
)
def test_optimizers(name: str, kind: type) -> None:
    settings = OptimizerSettings.model_validate({"name": name, "lr": 0.5, "weight_decay": 0.25})
    optimizer = build_optimizer([torch.nn.Parameter(torch.ones(3))], settings, CPU)
    assert type(optimizer) is kind
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert optimizer.param_groups[0]["weight_decay"] == 0.25
    if name == "sgd":
        changed = settings.model_copy(update={"momentum": 0.75, "nesterov": True})
        group = build_optimizer([torch.nn.Parameter(torch.ones(3))], changed, CPU).param_groups[0]
        assert (group["momentum"], group["nesterov"]) == (0.75, True)
    else:
        assert optimizer.param_groups[0]["betas"] == tuple(settings.betas)


def test_precision_on_a_cpu() -> None:
    assert resolve_precision("auto", CPU) == "fp32"
    assert resolve_device("cpu") == CPU
    layer = torch.nn.Linear(4, 4)
    x = torch.ones(2, 4)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        with autocast(CPU, name):
            assert layer(x).dtype == dtype
    assert make_scaler(CPU, "fp16").is_enabled()
    assert not make_scaler(CPU, "bf16").is_enabled()


def test_an_mps_device_trains_in_full_precision_and_is_asked_for_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = torch.device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("mps") == device
    assert resolve_device("auto").type != "mps"
    assert resolve_precision("auto", device) == resolve_precision("fp32", device) == "fp32"
    for name in ("bf16", "fp16"):
        with pytest.raises(MedSSLError, match="not trained on MPS"):
            resolve_precision(name, device)
    assert not make_scaler(device, "fp32").is_enabled()
    assert loader_workers(0, device) == 0


@pytest.mark.parametrize(("device", "goes_on"), [("cuda", True), ("cpu", True), ("mps", False)])
def test_the_host_waits_for_copies_to_mps_alone(
    monkeypatch: pytest.MonkeyPatch, device: str, goes_on: bool
) -> None:
    asked: list[bool] = []

    def to(self: torch.Tensor, _: torch.device, *, non_blocking: bool) -> torch.Tensor:
        asked.append(non_blocking)
        return self

    monkeypatch.setattr(torch.Tensor, "to", to)
    to_device(torch.zeros(1), torch.device(device))
    assert asked == [goes_on]


@pytest.mark.parametrize("name", ["gpu", "xpu", "cuda:99"])
def test_devices_that_are_not_there(name: str) -> None:
    with pytest.raises(MedSSLError, match="device"):
        resolve_device(name)
    with pytest.raises(MedSSLError, match="fp8"):
        resolve_precision("fp8", CPU)


def test_checkpoint_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint({"method": "bcp", "x": torch.arange(3)}, path)
    assert torch.equal(load_checkpoint(path, method="bcp")["x"], torch.arange(3))

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medssl.runs.checkpoint.os.fsync", fail)
    with pytest.raises(MedSSLError, match="previous one is kept"):
        save_checkpoint({"method": "bcp", "x": torch.zeros(3)}, path)
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]
    assert torch.equal(load_checkpoint(path)["x"], torch.arange(3))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_really_full_disk_is_called_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "open", lambda *_a, **_k: io.FileIO("/dev/full", "w"))
    with pytest.raises(MedSSLError, match="No space left on device"):
        save_checkpoint({"method": "bcp", "x": torch.zeros(100_000)}, tmp_path / "last.pt")
    assert not list(tmp_path.iterdir())


def test_checkpoints_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    with pytest.raises(MedSSLError, match="no checkpoint"):
        load_checkpoint(path)
    path.write_bytes(b"not a checkpoint at all")
    with pytest.raises(MedSSLError, match="cannot be read"):
        load_checkpoint(path)
    torch.save({"weights": torch.zeros(1)}, path)
    with pytest.raises(MedSSLError, match="not a medssl checkpoint"):
        load_checkpoint(path)


class Dangerous:
    """Would run code when unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("was-executed"),))


def test_a_checkpoint_never_executes_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format": 1, "method": "bcp", "x": Dangerous()}, "evil.pt")
    with pytest.raises(MedSSLError, match="cannot be read"):
        load_checkpoint(Path("evil.pt"))
    assert not Path("was-executed").exists()


def test_weights_of_another_network(tmp_path: Path) -> None:
    weights = torch.nn.Linear(3, 2).state_dict()
    with pytest.raises(MedSSLError, match="do not fit"):
        load_weights(torch.nn.Linear(4, 2), weights, tmp_path)


def test_step_log_means_and_speed() -> None:
    log = StepLog()
    for value in (1.0, 2.0, 6.0):
        log.add(torch.tensor(value), {"pseudo/kept": torch.tensor(value / 10)})
    means, speed = log.take()
    assert means == pytest.approx({"loss/total": 3.0, "pseudo/kept": 0.3})
    assert speed > 0
    log.add(torch.tensor(math.nan), {})
    log.add(torch.tensor(4.0), {})
    assert log.take()[0] == {"loss/total": 4.0}, "what is not finite is no part of a mean"


def test_describe_groups_terms() -> None:
    text = describe_terms({"pseudo/kept": 0.5, "loss/total": 1.25, "loss/labeled": 1.0})
    assert text == "loss: total 1.250, labeled 1.000  pseudo: kept 0.500"


def test_metrics_are_cut_where_a_run_resumes(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for step in (2, 4, 6):
        run.append_metrics({"step": step})
    with run.metrics.open("a") as file:
        file.write('{"step": 8, "lo')
    run.truncate_metrics(4)
    assert [json.loads(x)["step"] for x in run.metrics.read_text().splitlines()] == [2, 4]


def test_free_run_path(tmp_path: Path) -> None:
    assert free_run_path(tmp_path, "a") == tmp_path / "a"
    for name in ("a", "a-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").touch()
    assert free_run_path(tmp_path, "a") == tmp_path / "a-3"


def test_errors_are_given_a_place() -> None:
    with pytest.raises(MedSSLError) as caught, located("r.yaml"):
        raise MedSSLError("what", fix="do")
    assert str(caught.value) == "what\n  where: r.yaml\n  fix: do"
    with pytest.raises(MedSSLError) as caught, located("r.yaml"):
        raise MedSSLError("what", where="data.labeled", fix="do")
    assert caught.value.where == "r.yaml (data.labeled)"


# ----------------------------------------------------------------- pieces of a structure


def test_training_is_told_of_pieces_by_class_and_the_user_of_unknown_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_dataset(tmp_path / "blobs", cases=8)
    recipe = small_recipe(root, tmp_path / "cache", spec={"pieces": {2: 3, 7: 2}})
    loaded = load_recipe(write_recipe(tmp_path / "recipe.yaml", recipe))
    plan_cases(loaded, Display())
    assert "spec.pieces: the dataset declares no label 7" in capsys.readouterr().err
    labels = LabelMap((0, 5, 2), ("background", "one", "two"))
    method = create_method(loaded.recipe, loaded.settings, num_classes=3, channels=1, labels=labels)
    assert method.pieces == {2: 3}
