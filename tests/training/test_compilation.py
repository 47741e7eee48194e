"""Compiled networks: the same results, the same checkpoints, and a way back."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import small_recipe, write_dataset, write_recipe
from torch import nn

from medssl.methods.base import Method, Progress
from medssl.methods.registry import get_method, list_methods
from medssl.testing.subject import BUDGET, make_batch, small_network
from medssl.training import compilation
from medssl.training.compilation import Compiled, networks_of, wants_compiling
from medssl.workflows.train import train

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class Counting:
    """A backend that runs graphs as they are and counts them."""

    def __init__(self) -> None:
        self.compiled, self.ran = 0, 0

    def __call__(self, graph: torch.fx.GraphModule, _: Any) -> Any:
        self.compiled += 1

        def run(*args: Any) -> Any:
            self.ran += 1
            return graph(*args)

        return run


@pytest.fixture(autouse=True)
def _fresh() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def make(name: str, settings: dict[str, str]) -> Method:
    torch.manual_seed(0)
    cls = get_method(name)

    def build(**overrides: Any) -> nn.Module:
        return small_network(2, 3, **overrides, norm="instance")

    return cls(cls.Settings(**settings), build, num_classes=3, spatial_dims=2).train()


@pytest.mark.parametrize("name", list_methods())
def test_a_compiled_step_is_the_step_and_compiled_once(name: str) -> None:
    """What changes from step to step (patches, weights, dropout) is no part of the graphs."""
    backend = Counting()
    results, counts = [], []
    for compiled in (False, True):
        method = make(name, {})
        keys = list(method.state_dict())
        if compiled:
            Compiled(method, pytest.fail, backend=backend)
        assert list(method.state_dict()) == keys
        stage = method.stages(BUDGET)[-1]
        for each in method.stages(BUDGET):
            method.start_stage(each.name)
        torch.manual_seed(1)
        losses = []
        for iteration in (stage.iterations - 2, stage.iterations - 1):
            progress = Progress(stage.name, iteration, stage.iterations, seed=7)
            output = method.training_step(make_batch(method, stage, seed=iteration), progress)
            for loss in output.losses():
                loss.backward()
                losses.append(loss.detach())
            method.after_step(progress)
            counts.append(backend.compiled)
        grads = [p.grad for p in method.parameters() if p.grad is not None]
        results.append((losses, grads))
    assert 0 < counts[2] == counts[3] <= 6
    assert backend.ran
    for plain, fast in zip(*results, strict=True):
        torch.testing.assert_close(plain, fast, rtol=1e-4, atol=1e-6)


def test_predicting_is_never_compiled() -> None:
    method, backend = make("mean_teacher", {}), Counting()
    Compiled(method, pytest.fail, backend=backend)
    with torch.inference_mode():
        for size in range(1, 5):
            method.predictor()(torch.zeros(size, 1, 16, 16))
    method.eval()
    method.predictor()(torch.zeros(1, 1, 16, 16))
    assert backend.compiled == 0
    method.train()
    method.predictor()(torch.zeros(1, 1, 16, 16))
    assert backend.compiled == 1


def test_copies_of_a_compiled_network_are_plain_and_their_own() -> None:
    method = make("supervised", {})
    Compiled(method, pytest.fail, backend="eager")
    (network,) = networks_of(method)
    other = copy.deepcopy(network)
    assert other._compiled_call_impl is None
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    x = torch.ones(2, 1, 16, 16)
    assert not other(x).any()
    assert network(x).any()


def test_a_compiler_that_fails_is_given_up_with_one_warning() -> None:
    def broken(graph: Any, _: Any) -> Any:
        raise OSError("no compiler here")

    said: list[str] = []
    method = make("mean_teacher", {})
    expected = copy.deepcopy(method)
    compiled = Compiled(method, said.append, backend=broken)
    stage = method.stages(BUDGET)[0]
    batch, progress = make_batch(method, stage), Progress(stage.name, 3, BUDGET)
    losses = []
    for each in (expected, method):
        torch.manual_seed(0)
        losses.append(each.training_step(batch, progress).loss)
    assert torch.equal(*losses)
    assert compiled.failed
    assert len(said) == 1
    assert said[0].startswith("warning: the networks cannot be compiled here")
    assert "no compiler here" in said[0]


def test_errors_of_the_network_itself_are_not_swallowed() -> None:
    method = make("supervised", {})
    Compiled(method, [].append, backend="eager")
    with pytest.raises(RuntimeError, match="channels, but got 7"):
        networks_of(method)[0](torch.zeros(2, 7, 16, 16))


def test_when_compiling_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "is_installed", lambda name: True)
    assert wants_compiling("auto", CUDA, 5000)
    assert not wants_compiling("auto", CUDA, 4999)
    assert not wants_compiling("auto", CPU, 10**6)
    assert wants_compiling(True, CPU, 1)
    assert not wants_compiling(False, CUDA, 10**6)
    monkeypatch.setattr(compilation, "is_installed", lambda name: False)
    assert not wants_compiling("auto", CUDA, 10**6)


def test_a_run_goes_on_compiled_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints are the same; with a backend that changes nothing, so are the weights."""
    monkeypatch.setattr(compilation, "BACKEND", "eager")
    write_dataset(tmp_path / "data")
    ends = []
    for name, parts in {"plain": [(6, False)], "mixed": [(2, True), (4, False), (6, True)]}.items():
        for iterations, compiled in parts:
            recipe = small_recipe(tmp_path / "data", tmp_path / "cache")
            recipe["method"] = {"name": "supervised"}
            recipe["training"] |= {"iterations": iterations, "compile": compiled}
            recipe["training"]["schedule"] = {"name": "constant"}
            recipe["evaluation"] = {"splits": []}
            path = write_recipe(tmp_path / f"{name}.yaml", recipe)
            train(path, output=tmp_path / name, resume=(tmp_path / name).exists())
        saved = torch.load(tmp_path / name / "checkpoints" / "last.pt", weights_only=True)
        ends.append(saved["method_state"])
    assert ends[0].keys() == ends[1].keys()
    assert not any("_orig_mod" in key for key in ends[1])
    for key, value in ends[0].items():
        torch.testing.assert_close(ends[1][key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_run_compiled_for_real(tmp_path: Path) -> None:
    """With the default compiler, where this machine has one; else the run goes on without."""
    write_dataset(tmp_path / "data")
    recipe = small_recipe(tmp_path / "data", tmp_path / "cache")
    recipe["method"] = {"name": "supervised"}
    recipe["training"] |= {"iterations": 4, "compile": True, "log_every": 1}
    recipe["evaluation"] = {"splits": []}
    result = train(write_recipe(tmp_path / "r.yaml", recipe), output=tmp_path / "run")
    assert (result.path / "checkpoints" / "last.pt").is_file()
