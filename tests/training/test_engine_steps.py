"""The engine's loop on two weights whose gradients are known: each is the mean of the images."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import same_bits
from torch import Tensor, nn
from two_weights import RATE, engine, means

from medssl.methods.base import Progress
from medssl.runs.checkpoint import load_checkpoint
from medssl.training.batches import torch_seed


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_step_descends_the_mean_of_what_is_accumulated(tmp_path: Path, accumulate: int) -> None:
    trained = engine(tmp_path, accumulate=accumulate)
    trained.fit()
    moved = RATE * sum(means(4 * accumulate)) / accumulate
    method: Any = trained.method
    assert method.first.w.item() == pytest.approx(1 - moved, abs=1e-5)
    assert method.second.w.item() == pytest.approx(-1 - 2 * moved, abs=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_gradient_is_clipped_over_all_optimizers_together(
    tmp_path: Path, precision: str
) -> None:
    """In fp16 too, where gradients are scaled until they are clipped."""
    largest = 0.001
    trained = engine(tmp_path, gradient_clip=largest, precision=precision)
    trained.fit()
    ms = means(4)
    assert all(abs(m) * 5**0.5 > largest for m in ms)
    moved = RATE * largest / 5**0.5 * sum(1 if m > 0 else -1 for m in ms)
    method: Any = trained.method
    assert method.first.w.item() == pytest.approx(1 - moved, abs=1e-5)
    assert method.second.w.item() == pytest.approx(-1 - 2 * moved, abs=1e-5)


def test_the_method_follows_each_step_once_after_it(tmp_path: Path) -> None:
    trained = engine(tmp_path, accumulate=2)
    trained.fit()
    ms, w, teacher = means(8), 1.0, 1.0
    for i in range(4):
        w -= RATE * (ms[2 * i] + ms[2 * i + 1]) / 2
        teacher = 0.75 * teacher + 0.25 * w
    method: Any = trained.method
    assert method.teacher.w.item() == pytest.approx(teacher, abs=1e-5)


def test_what_a_step_draws_is_a_function_of_seed_stage_iteration_and_batch(tmp_path: Path) -> None:
    draws = []
    for name, seed in (("one", 3), ("again", 3), ("other", 4)):
        trained = engine(tmp_path / name, seed=seed, accumulate=2)
        torch.manual_seed(len(draws))  # what was drawn before plays no part
        trained.fit()
        draws.append(trained.method.draws)
    assert draws[0] == draws[1]
    for kind in (0, 1):
        assert len({pair[kind] for pair in draws[0] + draws[2]}) == 16


def test_seed_and_generator_depend_on_all_that_an_address_has() -> None:
    here = Progress("a", 0, 9)
    others = [
        Progress("a", 0, 9, seed=1),
        Progress("a", 1, 9),
        Progress("b", 0, 9),
        Progress("a", 0, 9, micro=1),
    ]
    assert len({torch_seed(p) for p in (here, *others)}) == 5
    assert len({p.rng().random_sample() for p in (here, *others)}) == 5
    assert here.rng("x").random_sample() != here.rng("y").random_sample()
    longer = Progress("a", 0, 99, lr=0.1)
    assert torch_seed(longer) == torch_seed(here), "a longer run draws the same"
    assert longer.rng().random_sample() == here.rng().random_sample()


def test_the_predictor_is_validated_and_training_goes_on_in_train_mode(tmp_path: Path) -> None:
    given: list[nn.Module] = []

    def dice(model: nn.Module) -> float:
        given.append(model)
        trained.method.eval()
        return [0.2, 0.8, 0.5, 0.4][len(given) - 1]

    trained = engine(tmp_path, dice=dice, validate_every=1)
    method: Any = trained.method
    trained.fit()
    assert [g is method.teacher for g in given] == [True] * 4
    assert method.modes == [True] * 4
    best = load_checkpoint(tmp_path / "checkpoints" / "best.pt")
    assert best["dice"] == 0.8
    assert (trained.state.best, trained.state.stale) == (0.8, 2)
    short = engine(tmp_path / "short", iterations=2)
    short.fit()
    same_bits(dict(best["method_state"]), dict(short.method.state_dict()))


@pytest.mark.parametrize(("kind", "accumulate"), [("sgd", 1), ("adam", 2)])
def test_a_run_that_was_cut_goes_on_with_momentum_and_state(
    tmp_path: Path, kind: str, accumulate: int
) -> None:
    momentum = {"momentum": 0.9} if kind == "sgd" else {}
    settings = {"optimizer": {"name": kind, "lr": 0.1, **momentum}, "checkpoint_every": 2}
    settings |= {"accumulate": accumulate}
    scores = iter([0.5, 0.9, 0.3, 0.2, 0.3, 0.2])
    settings |= {"validate_every": 1, "dice": lambda _: next(scores)}
    whole = engine(tmp_path / "whole", **settings)
    whole.fit()
    scores = iter([0.5, 0.9, 0.3, 0.2, 0.3, 0.2])
    cut = engine(tmp_path / "cut", **settings)
    cut.method.breaks_at = 2
    with pytest.raises(RuntimeError, match="power cut"):
        cut.fit()
    resumed = engine(tmp_path / "cut", **settings)
    torch.manual_seed(99)  # what another process draws
    resumed.fit(resume=True)
    assert resumed.method.draws == whole.method.draws[2 * accumulate :]
    saved = [
        load_checkpoint(tmp_path / name / "checkpoints" / "last.pt") for name in ("whole", "cut")
    ]
    assert saved[0]["state"]["step"] == 4
    assert set(saved[0]["optimizers"]) == {"first", "second"}
    for part in ("method_state", "optimizers", "state", "scaler", "log"):
        same_bits({part: saved[0][part]}, {part: saved[1][part]})


def test_no_gradient_is_left_from_one_step_to_the_next(tmp_path: Path) -> None:
    """A weight that rests in an iteration has none, so that its momentum does not move it."""
    trained = engine(tmp_path, iterations=3, optimizer={"name": "sgd", "lr": 0.1, "momentum": 0.9})
    method: Any = trained.method
    losses = method.losses
    seen: list[float] = []

    def resting(mean: Tensor) -> Iterator[Tensor]:
        seen.append(method.second.w.item())
        return iter([method.first.w * mean]) if len(seen) == 2 else losses(mean)

    method.losses = resting
    trained.fit()
    assert seen[0] != seen[1] == seen[2] != method.second.w.item()


def test_the_schedules_rate_is_that_of_every_optimizer_and_told_to_the_method(
    tmp_path: Path,
) -> None:
    trained = engine(tmp_path, schedule={"name": "poly", "power": 1.0})
    trained.fit()
    rates = [0.5, 0.375, 0.25, 0.125]
    moved = sum(rate * mean for rate, mean in zip(rates, means(4), strict=True))
    method: Any = trained.method
    assert method.rates == pytest.approx(rates)
    assert method.first.w.item() == pytest.approx(1 - moved, abs=1e-5)
    assert method.second.w.item() == pytest.approx(-1 - 2 * moved, abs=1e-5)


def test_the_log_holds_the_mean_of_all_losses(tmp_path: Path) -> None:
    trained = engine(tmp_path, log_every=2, optimizer={"name": "sgd", "lr": 1e-9})
    trained.fit()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    ms = means(4)
    losses = [-m for m in ms]  # 1 times the mean, and 2 times -1 times the mean
    expected = [(losses[0] + losses[1]) / 2, (losses[2] + losses[3]) / 2]
    assert [line["loss/total"] for line in lines] == pytest.approx(expected, abs=1e-5)


def spoil_second(method: Any, spoil: Callable[[Tensor], Tensor]) -> None:
    """Change the losses of the second iteration."""
    losses, seen = method.losses, []

    def spoiled(mean: Tensor) -> Iterator[Tensor]:
        seen.append(1)
        return map(spoil, losses(mean)) if len(seen) == 2 else losses(mean)

    method.losses = spoiled


@pytest.mark.parametrize(
    "spoil",
    [lambda x: x * math.nan, lambda x: x * math.inf, lambda x: x + math.inf],
    ids=["nan", "inf", "a loss alone"],
)
def test_a_step_that_is_not_finite_moves_nothing(
    tmp_path: Path, spoil: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Be it the gradient, or the loss alone; long before weights are checked to be saved."""
    monkeypatch.setattr("medssl.training.engine.check_weights", lambda *_: None)
    trained = engine(tmp_path)
    method: Any = trained.method
    spoil_second(method, spoil)
    trained.fit()
    ms = means(4)
    assert method.first.w.item() == pytest.approx(1 - RATE * (ms[0] + ms[2] + ms[3]), abs=1e-5)
    assert trained.state.skipped == 1


def test_a_run_that_was_cut_goes_on_with_what_it_had_not_logged(tmp_path: Path) -> None:
    settings = {"log_every": 4, "checkpoint_every": 2, "optimizer": {"name": "sgd", "lr": 1e-9}}
    cut = engine(tmp_path, **settings)
    cut.method.breaks_at = 2
    with pytest.raises(RuntimeError, match="power cut"):
        cut.fit()
    engine(tmp_path, **settings).fit(resume=True)
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["loss/total"] == pytest.approx(-sum(means(4)) / 4, abs=1e-5)
