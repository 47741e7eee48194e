"""Training together with others: what goes out and in, and that alone it changes no bit."""

from __future__ import annotations

import copy
import json
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import crash_after, same_bits, small_recipe, write_dataset, write_recipe
from torch import Tensor

import medssl
from medssl.errors import MedSSLError, Stopped
from medssl.methods.registry import get_method, list_methods
from medssl.runs.checkpoint import load_checkpoint
from medssl.testing.subject import BUDGET, Subject
from medssl.training.engine import Engine
from medssl.training.exchange import PARTS, Part, Update, parts_of, shared_tensors


class Shrinking:
    """An exchange whose others always answer with a share of what they are sent."""

    name = "shrinking"
    norms = "shared"
    proximal = 0.0

    def __init__(self, every: int, share: float = 1.0, parts: tuple[Part, ...] = PARTS) -> None:
        self.every, self.share, self.parts = every, share, parts
        self.updates: list[Update] = []
        self.base: Mapping[str, Tensor] | None = None

    def open(self, run: Path, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor] | None:
        return self.base

    def swap(self, update: Update, stopped: Callable[[], bool]) -> Mapping[str, Tensor] | None:
        self.updates.append(update)
        return {name: self.share * tensor for name, tensor in update.tensors.items()}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("exchange")
    return write_dataset(folder / "data"), folder / "cache"


def recipe_file(world: tuple[Path, Path], folder: Path, name: str, **changes: Any) -> Path:
    plain = {"method": {"name": name}, "evaluation": {"splits": []}, "network": {"norm": "batch"}}
    return write_recipe(folder / f"{name}.yaml", small_recipe(*world, **{**plain, **changes}))


def last(run: Path) -> dict[str, Any]:
    content = load_checkpoint(run / "checkpoints" / "last.pt")
    content["state"].pop("exchanged")
    return content


@pytest.mark.parametrize("method", ["supervised", "bcp", "self_training"])
def test_one_site_alone_trains_bit_for_bit_as_without(
    method: str, world: tuple[Path, Path], tmp_path: Path
) -> None:
    recipe = recipe_file(world, tmp_path, method)
    plain = medssl.train(recipe, output=tmp_path / "plain").path
    exchange = Shrinking(3)
    run = medssl.train(recipe, output=tmp_path / "run", exchange=exchange).path
    same_bits(last(plain), last(run))
    assert [(u.step, u.iterations) for u in exchange.updates] == [(3, 3), (6, 3), (8, 2)]
    assert {u.labeled_patients for u in exchange.updates} == {3}
    assert json.loads((run / "manifest.json").read_text())["federated"]["every"] == 3
    (others,) = json.loads((run / "lineage.json").read_text())["ancestors"]
    assert (others["how"], others["source"], others["known"]) == ("federated", "shrinking", False)
    assert others["labels"] == [], "nothing is known of the patients of others"
    assert "federated" not in json.loads((plain / "manifest.json").read_text())


def test_what_comes_in_is_taken_and_the_optimizer_stays(
    world: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_file(world, tmp_path, "mean_teacher")
    exchange = Engine._exchange
    seen: list[tuple[Any, Any, Any, Any]] = []

    def watched(self: Engine, *arguments: Any) -> None:
        before = copy.deepcopy([o.state_dict() for o in self.optimizers.values()])
        weights = copy.deepcopy(self.method.state_dict())
        exchange(self, *arguments)
        if self.state.step == 4:
            after = copy.deepcopy([o.state_dict() for o in self.optimizers.values()])
            seen.append((before, after, weights, copy.deepcopy(self.method.state_dict())))

    monkeypatch.setattr(Engine, "_exchange", watched)
    both = Shrinking(4, 0.5, parts=("student", "buffers"))
    medssl.train(recipe, output=tmp_path / "run", exchange=both)
    ((before, after, weights, now),) = seen
    same_bits(before, after)
    sent = both.updates[0].tensors
    assert sent
    assert all(name.startswith("student.") for name in sent)
    assert any(name.endswith("running_var") for name in sent)
    for name, tensor in weights.items():
        expected = 0.5 * tensor if name in sent else tensor
        assert torch.equal(now[name], expected), name


def test_a_run_that_begins_takes_what_all_start_from(
    world: tuple[Path, Path], tmp_path: Path
) -> None:
    recipe = recipe_file(world, tmp_path, "supervised")
    first = Shrinking(8)
    medssl.train(recipe, output=tmp_path / "one", exchange=first)
    second = Shrinking(8)
    second.base = first.updates[0].tensors
    medssl.train(
        recipe, output=tmp_path / "two", exchange=second, overrides=["training.optimizer.lr=1e-30"]
    )
    for name, tensor in second.updates[0].tensors.items():
        if "running" not in name:
            assert torch.allclose(tensor, second.base[name], atol=1e-12), name


@pytest.mark.parametrize("death", [2, 4, 5, 8])
def test_resume_is_bit_identical(
    death: int, world: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_file(world, tmp_path, "bcp", data={"validation": 1})
    whole = medssl.train(recipe, output=tmp_path / "whole", exchange=Shrinking(2, 0.75)).path
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        crash_after(patch, death)
        with pytest.raises(RuntimeError, match="power cut"):
            medssl.train(recipe, output=run, exchange=Shrinking(2, 0.75))
    medssl.train(recipe, output=run, exchange=Shrinking(2, 0.75), resume=True)
    same_bits(last(whole), last(run))
    assert (whole / "metrics.jsonl").read_text().count("\n") == (
        run / "metrics.jsonl"
    ).read_text().count("\n")


class Patient(Shrinking):
    """Others who have not answered when a signal comes."""

    def swap(self, update: Update, stopped: Callable[[], bool]) -> Mapping[str, Tensor] | None:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopped()
        return None


@pytest.mark.parametrize("every", [2, 8])
def test_a_run_that_is_stopped_while_it_waits_asks_again(
    every: int, world: tuple[Path, Path], tmp_path: Path
) -> None:
    recipe = recipe_file(world, tmp_path, "mean_teacher", data={"validation": 1})
    whole = medssl.train(recipe, output=tmp_path / "whole", exchange=Shrinking(every, 0.5)).path
    with pytest.raises(Stopped):
        medssl.train(recipe, output=tmp_path / "run", exchange=Patient(every))
    again = Shrinking(every, 0.5)
    medssl.train(recipe, output=tmp_path / "run", exchange=again, resume=True)
    assert again.updates[0].step == every, "nothing is trained before the answer came"
    same_bits(last(whole), last(tmp_path / "run"))
    for name in ("metrics.jsonl",):
        logged = [
            [(x["step"], x.get("loss/total")) for x in map(json.loads, lines.splitlines())]
            for lines in ((tmp_path / r / name).read_text() for r in ("whole", "run"))
        ]
        assert logged[0] == logged[1]
    same_bits(*(load_checkpoint(tmp_path / r / "checkpoints/best.pt") for r in ("whole", "run")))


@pytest.mark.parametrize("name", list_methods())
def test_parts_of_every_method(name: str) -> None:
    method = Subject(name, get_method(name)).make()
    stages = method.stages(BUDGET)
    parts = parts_of(method, stages)
    state = method.state_dict()
    assert set(parts) <= set(state)
    assert "student" in parts.values()
    assert {"running_mean", "running_var"} == {
        key.rpartition(".")[2] for key, part in parts.items() if part == "buffers"
    }
    # A method's own memory tells of a site's patients: it stays.
    own = {key for key in state if key not in parts}
    assert all(
        key.endswith("num_batches_tracked") or key in dict(method.named_buffers()) for key in own
    )
    assert not {"recent", "memory.confidence", "rewards", "descriptions"} & set(parts)
    local = shared_tensors(method, stages, norms="local")
    left = set(shared_tensors(method, stages)) - set(local)
    assert left
    assert not any("running" in key for key in local)
    students = shared_tensors(method, stages, ("student",))
    assert {parts[key] for key in students} == {"student"}


def test_what_cannot_be_is_refused(world: tuple[Path, Path], tmp_path: Path) -> None:
    recipe = recipe_file(world, tmp_path, "supervised")
    with pytest.raises(MedSSLError, match="early_stop"):
        medssl.train(
            recipe,
            output=tmp_path / "early",
            overrides=["training.early_stop=2"],
            exchange=Shrinking(2),
        )
    assert not (tmp_path / "early").exists()
    with pytest.raises(MedSSLError, match="states regions, and sites agree on labels alone"):
        medssl.train(
            recipe,
            output=tmp_path / "early",
            overrides=["data.regions={any: [1, 2], one: [1]}"],
            exchange=Shrinking(2),
        )
    assert not (tmp_path / "early").exists()
    medssl.train(recipe, output=tmp_path / "together", exchange=Shrinking(4))
    with pytest.raises(MedSSLError, match=r"begun together with others.*cannot go on alone"):
        medssl.train(recipe, output=tmp_path / "together", resume=True)
    medssl.train(recipe, output=tmp_path / "alone")
    with pytest.raises(MedSSLError, match="begun alone"):
        medssl.train(recipe, output=tmp_path / "alone", resume=True, exchange=Shrinking(4))


@pytest.mark.parametrize("fault", ["nan", "shape", "missing", "more"])
def test_what_does_not_fit_is_not_taken(
    fault: str, world: tuple[Path, Path], tmp_path: Path
) -> None:
    class Broken(Shrinking):
        def swap(self, update: Update, stopped: Callable[[], bool]) -> Mapping[str, Tensor] | None:
            found = dict(update.tensors)
            name = next(iter(found))
            if fault == "nan":
                found[name] = found[name] * float("nan")
            elif fault == "shape":
                found[name] = found[name][:1]
            elif fault == "missing":
                del found[name]
            else:
                found["another"] = found[name]
            return found

    recipe = recipe_file(world, tmp_path, "supervised")
    with pytest.raises(MedSSLError, match="does not fit, or is not finite"):
        medssl.train(recipe, output=tmp_path / "run", exchange=Broken(2))
