"""A loss that is not finite: skipped without a trace in the weights, recorded, replayed."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import crash_after, same_bits, small_recipe, write_dataset, write_recipe

import medssl
from medssl import cli
from medssl.data.patches.sampling import PatchSampler
from medssl.errors import MedSSLError
from medssl.runs.checkpoint import load_checkpoint
from medssl.training.engine import Engine
from medssl.training.nonfinite import Guard, check_weights, gradient_norm, keep_if


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    changes = {
        "method": {"name": "mean_teacher"},
        "network": {"norm": "batch"},
        "data": {"test": 0},
    }
    content = small_recipe(write_dataset(tmp_path / "data"), tmp_path / "cache", **changes)
    return write_recipe(tmp_path / "recipe.yaml", content)


def poison(monkeypatch: pytest.MonkeyPatch, *iterations: int, value: float = np.nan) -> None:
    """Put a voxel that is not finite into the labeled batch of 0-based iterations."""
    batch = PatchSampler.batch

    def poisoned(
        self: PatchSampler, iteration: int, rows: range | None = None
    ) -> dict[str, torch.Tensor]:
        out = batch(self, iteration, rows)
        if self.stream.name == "train/labeled" and iteration in iterations:
            out["image"].view(-1)[5] = value
        return out

    monkeypatch.setattr(PatchSampler, "batch", poisoned)


def last(run: Path) -> dict[str, Any]:
    return load_checkpoint(run / "checkpoints" / "last.pt")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_bad_batch_is_skipped_and_replayed(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    poison(monkeypatch, 4)
    step, states = Engine._step, []

    def watched(self: Engine, *arguments: Any) -> None:
        step(self, *arguments)
        optimizer = self.optimizers["student"].state_dict()
        states.append(copy.deepcopy((self.method.student.state_dict(), optimizer["state"])))

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "_step", watched)
        whole = medssl.train(recipe, output=tmp_path / "whole").path
    same_bits(dict(states[3][0]), dict(states[4][0]))  # normalization statistics included
    same_bits(states[3][1], states[4][1])
    assert any(not torch.equal(states[4][0][k], states[5][0][k]) for k in states[4][0])
    assert all(v.isfinite().all() for v in last(whole)["method_state"].values())

    (record,) = lines(whole / "nonfinite.jsonl")
    assert (record["iteration"], record["stage"], record["loss"]) == (5, "train", "nan")
    assert len(record["batches"][0]["labeled"]) == 2
    assert json.loads((whole / "manifest.json").read_text())["skipped_iterations"] == 1
    logged = lines(whole / "metrics.jsonl")
    assert [x.get("nonfinite/skipped") for x in logged] == [None, None, 1, 1]
    assert all(np.isfinite(x["loss/total"]) for x in logged)

    run = tmp_path / "dies"
    with monkeypatch.context() as patch:
        crash_after(patch, 7)
        with pytest.raises(RuntimeError, match="power cut"):
            medssl.train(recipe, output=run)
    medssl.train(run, resume=True)
    same_bits(last(whole), last(run))
    assert lines(run / "nonfinite.jsonl") == [record]

    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    result = medssl.replay(run)
    assert (result.stage, result.iteration, result.checkpoint_step) == ("train", 5, 8)
    assert np.isnan(result.terms["loss/total"])
    labeled = [p for p in result.patches if p.stream == "labeled"]
    assert [p.not_finite for p in labeled] == [1, 0]
    recorded = record["batches"][0]["labeled"]
    assert [(p.case, list(p.start)) for p in labeled] == [(r["case"], r["start"]) for r in recorded]
    assert all(0 in p.labels and set(p.labels) <= {0, 1, 2} for p in labeled)
    assert all(p.labels == () for p in result.patches if p.stream == "unlabeled")
    capsys.readouterr()
    assert cli.run(["replay", str(run), "--iteration", "6"]) == 0
    text = capsys.readouterr().out
    assert "stage train, iteration 6" in text
    assert "case_0" in text
    assert "nan" not in text
    assert cli.run(["replay", str(run), "--iteration", "9"]) == 2
    assert "from 1 to 8" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_the_policies_that_stop(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    whole = medssl.train(recipe, output=tmp_path / "whole").path
    for name, bad, setting, expected in (
        ("stop", (4,), "training.nonfinite=stop", 1),
        ("limit", (1, 4, 5, 6), "training.nonfinite_limit=3", 4),
    ):
        run = tmp_path / name
        with monkeypatch.context() as patch:
            poison(patch, *bad, value=np.inf)
            arguments = ["--quiet", "train", str(recipe), "-o", str(run), "--set", setting]
            assert cli.run(arguments) == 2
        message = capsys.readouterr().err
        assert f"iteration {bad[-1] + 1} of stage 'train'" in message
        assert "medssl replay" in message
        assert len(lines(run / "nonfinite.jsonl")) == expected
        assert last(run)["step"] in (3, 6)
        assert all(v.isfinite().all() for v in last(run)["method_state"].values())
    # With the batch mended, the run that stopped at it ends as if nothing had been.
    medssl.train(tmp_path / "stop", resume=True)
    same_bits(last(whole), last(tmp_path / "stop"))
    assert lines(tmp_path / "stop" / "nonfinite.jsonl") == []


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_what_stays_on_the_device_does_the_same(kind: str) -> None:
    """The way of CUDA, run here with the fused optimizers of the CPU."""
    ends = []
    for deferred in (False, True):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6))
        net.register_buffer("memory", torch.zeros(3))
        options = {"lr": 0.1, "weight_decay": 0.01, "fused": True}
        optimizer = {
            "sgd": lambda p, o: torch.optim.SGD(p, momentum=0.9, **o),
            "adam": lambda p, o: torch.optim.Adam(p, **o),
            "adamw": lambda p, o: torch.optim.AdamW(p, **o),
        }[kind](net.parameters(), options)
        guard = Guard(net, torch.amp.GradScaler("cpu", enabled=False), deferred=deferred)
        for number in range(6):
            guard.hold()
            optimizer.zero_grad()
            x = torch.randn(8, 4)
            if number in (0, 3):  # the very first step too: momentum is not there yet
                x[1, 2] = np.nan
            loss = net(x).square().mean() + net[0].weight.sum()
            net.memory += loss.detach()
            loss.backward()
            finite = guard.judge(loss.detach(), gradient_norm(net.parameters()))
            assert bool(finite) == (number not in (0, 3))
            guard.step([optimizer], finite)
        ends.append((dict(net.state_dict()), optimizer.state_dict()["state"]))
    for key, value in ends[0][0].items():
        assert torch.equal(value, ends[1][0][key]), key
        assert value.isfinite().all()
    for number, state in ends[0][1].items():
        for key, value in state.items():
            assert torch.equal(value, ends[1][1][number][key]), key


def test_bits_are_kept_of_every_type() -> None:
    held = [torch.tensor([1.5, -0.0]), torch.tensor([True, False]), torch.tensor(2**62)]
    held += [torch.tensor([0.1], dtype=torch.float64), torch.ones(2, dtype=torch.bfloat16)]
    for good in (True, False):
        now = [torch.tensor([np.nan, np.inf]), torch.tensor([False, False]), torch.tensor(-7)]
        now += [torch.tensor([np.nan], dtype=torch.float64), torch.zeros(2, dtype=torch.bfloat16)]
        expected = [t.clone() for t in (now if good else held)]
        keep_if(now, held, torch.tensor(good))
        for a, b in zip(now, expected, strict=True):
            assert a.dtype == b.dtype
            assert (
                a.numpy(force=True).tobytes() == b.numpy(force=True).tobytes()
                if (a.dtype != torch.bfloat16)
                else torch.equal(a, b)
            )


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    net = torch.nn.Linear(2, 2)
    check_weights(net, tmp_path)
    with torch.no_grad():
        net.bias[0] = np.inf
    with pytest.raises(MedSSLError, match="no longer finite"):
        check_weights(net, tmp_path)


def test_nothing_to_replay(recipe: Path, tmp_path: Path) -> None:
    run = medssl.train(recipe, output=tmp_path / "run").path
    with pytest.raises(MedSSLError, match="no iteration of the run"):
        medssl.replay(run)
    with pytest.raises(MedSSLError, match="no stage 'pretrain'"):
        medssl.replay(run, iteration=1, stage="pretrain")
    assert np.isfinite(medssl.replay(run, iteration=1).terms["loss/total"])
