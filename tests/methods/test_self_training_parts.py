"""Contract of the parts of self_training that other tests leave open: what each may never do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from medssl.methods.base import Progress
from medssl.methods.registry import get_method
from medssl.methods.self_training_memory import Memory
from medssl.methods.self_training_settings import SelfTrainingSettings
from medssl.methods.self_training_teachers import Guess
from medssl.ops.case_trust import FIXED, figures
from medssl.settings.recipe import Recipe
from medssl.testing.subject import (
    BUDGET,
    Subject,
    losses_of,
    make_batch,
    optimizers,
    step,
    sure_network,
)
from medssl.training.nonfinite import Guard


def made(name: str = "self_training", **settings: Any) -> Any:
    return Subject(name, get_method(name), settings, network=sure_network).make()


def test_without_guesses_it_is_a_mean_teacher_bit_for_bit() -> None:
    """Where no slot asks for more, the student's weights and the average's are the same."""
    same = {"mixing": "none"}
    both = [
        made("mean_teacher", consistency_weight=0, noise=0, **same),
        made(unlabeled_weight=0, **same),
    ]
    for method in both:
        (stage,) = method.stages(BUDGET)
        optims = optimizers(method, stage)
        for iteration in range(4):
            step(method, stage, iteration, optims, make_batch(method, stage, seed=iteration))
    for network in ("student", "teacher"):
        one, two = (getattr(method, network).state_dict() for method in both)
        assert all(torch.equal(value, two[key]) for key, value in one.items()), network


@pytest.mark.parametrize(("mixing", "draws"), [("none", False), (["cutmix", "paste"], True)])
def test_a_step_without_mixing_draws_nothing(
    monkeypatch: pytest.MonkeyPatch, mixing: Any, draws: bool
) -> None:
    drawn: list[np.random.RandomState] = []

    def remembered(self: Progress, purpose: str = "") -> np.random.RandomState:
        drawn.append(np.random.RandomState(3))
        return drawn[-1]

    method = made(mixing=mixing)
    (stage,) = method.stages(BUDGET)
    batch = make_batch(method, stage)
    monkeypatch.setattr(Progress, "rng", remembered)
    losses_of(method, stage, 3, batch)
    fresh = np.random.RandomState(3).randint(1 << 30)
    assert (any(rng.randint(1 << 30) != fresh for rng in drawn)) == draws


@pytest.mark.parametrize(
    ("factor", "highest"),
    [("confidence", 1.0), ("soft_background", 1.0), ("boundary", 1.5)],
)
def test_a_factor_stays_in_its_range(factor: str, highest: float) -> None:
    g = torch.Generator().manual_seed(0)
    probs = (3 * torch.randn(4, 5, 9, 8, 6, generator=g)).softmax(1)
    probs[:, :, :5] = probs[:, :, :1, :1, :1]  # one label without a boundary
    confidence, label = probs.max(1)
    settings = SelfTrainingSettings(weight=factor, selection="none", boundary_extra=0.5)
    found = Memory(settings, 5).believe(Guess(probs, label, confidence), None)
    assert found.min() >= 0
    assert found.max() <= highest
    assert found.max() - found.min() > 0.1


def test_trust_in_a_scan_stays_in_its_range() -> None:
    generator = torch.Generator().manual_seed(0)
    table, near = (
        100 * torch.rand(30, FIXED + 3, generator=generator),
        torch.rand(30, generator=generator),
    )
    trust = figures(table, near)["trust"]
    assert trust.min() == 0
    assert trust.max() == 1


def test_a_skipped_iteration_puts_all_that_is_remembered_back() -> None:
    method = made(selection="two_level", weight=["case"], preset="dual_teacher")
    method.know_cases({"labeled": 4, "unlabeled": 4})
    (stage,) = method.stages(BUDGET)
    optims = optimizers(method, stage)
    step(method, stage, 0, optims, make_batch(method, stage))
    before = {name: buffer.clone() for name, buffer in method.named_buffers()}
    guard = Guard(method, torch.amp.GradScaler(enabled=False), deferred=False)
    guard.hold()
    losses_of(method, stage, 4, make_batch(method, stage, seed=4))
    changed = {name for name, b in method.named_buffers() if not torch.equal(b, before[name])}
    assert {"memory.confidence", "cases.table", "cases.prior"} <= changed
    guard.step(list(optims.values()), torch.tensor(False))
    assert all(torch.equal(b, before[name]) for name, b in method.named_buffers())


@pytest.mark.parametrize("kind", ["shuffle", "cube", "paste", "cutmix"])
def test_every_mixing_of_data_with_sides_is_warned_of(kind: str) -> None:
    from medssl.recipe.contradictions import spec_warnings

    given: dict[str, Any] = {"spec": {"label_pairs": [[1, 2]]}}
    (warning,) = spec_warnings(Recipe.model_validate(given), SelfTrainingSettings(mixing=kind))
    assert "what tells left from right" in warning
    assert spec_warnings(Recipe.model_validate(given), SelfTrainingSettings(mixing="none")) == []
