"""How a stage of the engine begins and ends, on two weights whose gradients are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from two_weights import RATE, engine, means

from medssl.methods.base import Method
from medssl.methods.settings import Stage
from medssl.runs.checkpoint import load_checkpoint
from medssl.training.case_table import write_case_table


def two(**options: Any) -> list[Stage]:
    """Three iterations, then two."""
    return [
        Stage("one", 3, streams=("labeled",)),
        Stage("two", 2, streams=("labeled",), **options),
    ]


@pytest.mark.parametrize("start_from_best", [False, True])
@pytest.mark.parametrize("carry_optimizer", [False, True])
def test_a_stage_starts_from_the_best_or_the_last_with_or_without_momentum(
    tmp_path: Path, start_from_best: bool, carry_optimizer: bool
) -> None:
    """The second iteration of stage one was the best; momentum is by hand."""
    scores = iter([0.1, 0.7, 0.3, 0.5, 0.5])
    trained = engine(
        tmp_path,
        dice=lambda _: next(scores),
        validate_every=1,
        iterations=5,
        plan=two(start_from_best=start_from_best, carry_optimizer=carry_optimizer),
        optimizer={"name": "sgd", "lr": 0.1, "momentum": 0.5, "weight_decay": 0.0},
    )
    trained.fit()
    method: Any = trained.method
    ms, w, v, kept = means(3), 1.0, 0.0, (0.0, 0.0)
    for i, m in enumerate(ms):
        v = 0.5 * v + m
        w -= 0.1 * v
        kept = (w, v) if i == 1 else kept
    if start_from_best:
        w, v = kept
    v = v if carry_optimizer else 0.0
    for m in ms[:2]:  # streams of every stage begin with their first batch
        v = 0.5 * v + m
        w -= 0.1 * v
    assert method.first.w.item() == pytest.approx(w, abs=1e-5)
    assert method.started == ["one", "two"]
    assert trained.state.bests == {"one": 0.7, "two": 0.5}


def test_a_stages_end_is_kept_for_other_runs(tmp_path: Path) -> None:
    trained = engine(tmp_path, plan=two(), iterations=5)
    trained.fit()
    kept = load_checkpoint(tmp_path / "checkpoints" / "one.pt")["method_state"]
    assert kept.keys() == trained.method.state_dict().keys()
    assert kept["first.w"].item() == pytest.approx(1 - RATE * sum(means(3)), abs=1e-5)
    other = engine(
        tmp_path / "other",
        plan=two(),
        iterations=5,
        stages={"one": {"reuse": str(tmp_path / "checkpoints" / "one.pt")}},
    )
    other.fit()
    for part in ("first.w", "second.w"):  # what the stage trained
        assert torch.equal(other.method.state_dict()[part], trained.method.state_dict()[part])
    assert other.state.step == 2


def test_a_stage_of_its_own_optimizer_and_rate(tmp_path: Path) -> None:
    own = {"name": "sgd", "lr": 0.125, "momentum": 0.0, "weight_decay": 0.0}
    falling = {"name": "poly", "power": 1.0}
    trained = engine(
        tmp_path, plan=two(), iterations=5, schedule=falling, stages={"two": {"optimizer": own}}
    )
    trained.fit()
    method: Any = trained.method
    a, b, c = means(3)
    # The schedule begins anew with each stage, over its own iterations.
    moved = 0.5 * (a + b * 2 / 3 + c / 3) + 0.125 * (a + b / 2)
    assert method.first.w.item() == pytest.approx(1 - moved, abs=1e-5)


def test_early_stopping_counts_validations_that_are_no_better(tmp_path: Path) -> None:
    scores = iter([0.5, 0.5, 0.6, 0.6, 0.4, 0.9, 0.0, 0.0, 0.0])
    trained = engine(
        tmp_path, dice=lambda _: next(scores), validate_every=1, iterations=9, early_stop=2
    )
    trained.fit()
    assert (trained.state.iteration, trained.state.best) == (5, 0.6)


def test_what_is_known_of_unlabeled_cases_is_written_at_each_validation(tmp_path: Path) -> None:
    trained, seen = engine(tmp_path, dice=lambda _: 0.5, validate_every=2), list[int]()
    assert trained.validation is not None

    def write(method: Method) -> None:
        assert method is trained.method
        seen.append(trained.state.step)

    trained.validation = replace(trained.validation, write=write)
    trained.fit()
    assert seen == [2, 4]


def test_the_table_of_unlabeled_cases_has_the_worst_first(tmp_path: Path) -> None:
    figures = {"trust": torch.tensor([1.0, 0.0, 0.5]), "score": torch.tensor([0.9, 0.1, 0.4])}
    method: Any = SimpleNamespace(unlabeled_table=lambda: figures)
    write_case_table(method, tmp_path, ["a", "b", "c"])
    lines = (tmp_path / "unlabeled.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["case", "b", "c", "a"]
    (tmp_path / "unlabeled.csv").unlink()
    method = SimpleNamespace(unlabeled_table=dict)
    write_case_table(method, tmp_path, ["a"])
    assert not (tmp_path / "unlabeled.csv").exists()
