"""Contract of the parts of self_training that other tests leave open: what each may never do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from medssl.errors import MedSSLError
from medssl.methods.base import Progress
from medssl.methods.registry import get_method
from medssl.methods.self_training_memory import Memory
from medssl.methods.self_training_settings import SelfTrainingSettings
from medssl.methods.self_training_teachers import Guess
from medssl.ops.case_trust import FIXED, figures
from medssl.settings.recipe import Recipe
from medssl.testing import CHECKS
from medssl.testing.checks import run_check, variants_of
from medssl.testing.subject import (
    BUDGET,
    SEED,
    Subject,
    losses_of,
    make_batch,
    optimizers,
    pointwise_network,
    small_network,
    step,
    sure_network,
)
from medssl.training.nonfinite import Guard


def made(network: Any = sure_network, method: str = "self_training", **settings: Any) -> Any:
    return Subject(method, get_method(method), settings, network=network).make()


def test_without_guesses_it_is_a_mean_teacher_bit_for_bit() -> None:
    """Where no slot asks for more, the student's weights and the average's are the same."""
    same = {"mixing": "none"}
    both = [
        made(method="mean_teacher", consistency_weight=0, noise=0, **same),
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
    method = made(
        selection="two_level",
        weight=["case"],
        preset="dual_teacher",
        view="strong",
        adapt="otsu",
        mixing="none",
    )
    method.know_cases({"labeled": 4, "unlabeled": 4})
    (stage,) = method.stages(BUDGET)
    optims = optimizers(method, stage)
    step(method, stage, 0, optims, make_batch(method, stage))
    before = {name: buffer.clone() for name, buffer in method.named_buffers()}
    guard = Guard(method, torch.amp.GradScaler(enabled=False), deferred=False)
    guard.hold()
    losses_of(method, stage, 4, make_batch(method, stage, seed=4))
    changed = {name for name, b in method.named_buffers() if not torch.equal(b, before[name])}
    assert {"memory.confidence", "cases.table", "cases.prior", "hardness.table"} <= changed
    guard.step(list(optims.values()), torch.tensor(False))
    assert all(torch.equal(b, before[name]) for name, b in method.named_buffers())


@pytest.mark.parametrize("kind", ["shuffle", "cube", "paste", "cutmix"])
def test_every_mixing_of_data_with_sides_is_warned_of(kind: str) -> None:
    from medssl.recipe.contradictions import spec_warnings

    given: dict[str, Any] = {"spec": {"label_pairs": [[1, 2]]}}
    (warning,) = spec_warnings(Recipe.model_validate(given), SelfTrainingSettings(mixing=kind))
    assert "what tells left from right" in warning
    assert spec_warnings(Recipe.model_validate(given), SelfTrainingSettings(mixing="none")) == []


# ------------------------------------------------------------------- what the newest parts may do


def taught(method: Any, iteration: int, batch: Any, lr: float = 0.1) -> torch.Tensor:
    """Return the loss of a step."""
    torch.manual_seed(iteration)
    at = Progress("train", iteration, BUDGET, seed=SEED, lr=lr)
    (loss,) = method.training_step(batch, at).losses()
    return loss


def test_looking_ahead_leaves_all_as_it_was() -> None:
    """Student, average, what is remembered, modes and generators: as without virtual steps."""
    method = made(teacher="future", selection="two_level", weight=["case"], peeks=2)
    method.know_cases({"labeled": 4, "unlabeled": 4})
    (stage,) = method.stages(BUDGET)
    batch = make_batch(method, stage)
    step(method, stage, 0, optimizers(method, stage), batch)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    random, modes = torch.get_rng_state(), [part.training for part in method.modules()]
    at = Progress("train", 4, BUDGET, seed=SEED, lr=0.1)
    guess = method._foreseen(batch, at)
    assert not guess.probs.requires_grad
    assert torch.equal(torch.get_rng_state(), random)
    assert [part.training for part in method.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert all(p.grad is None or not p.grad.isnan().any() for p in method.student.parameters())
    now = method.guess(batch.unlabeled.image).probs
    assert not torch.equal(guess.probs, now), "what labels is not what it is now"


def test_a_step_of_no_length_labels_as_the_average_does() -> None:
    """Without BatchNorm an average that is the student stays it; a longer step moves it."""
    found = {}
    for teacher in ("ema", "future"):
        method = made(pointwise_network, teacher=teacher, threshold=0.4, mixing="none")
        batch = make_batch(method, method.stages(BUDGET)[0])
        found[teacher] = [taught(method, BUDGET - 1, batch, lr).item() for lr in (0.0, 0.5)]
    assert found["future"][0] == found["ema"][0] == found["ema"][1]
    assert found["future"][1] != found["ema"][1]


def test_dropped_features_count_as_much_as_all_other_views() -> None:
    """Nothing dropped but in chance: with one chance in a million it is the weak view again."""
    batch, found = None, {}
    for name, drop in (("views", 0.0), ("half", 0.5), ("none", 1e-6)):
        method = made(small_network, mixing="none", selection="none", feature_drop=drop)
        batch = batch or make_batch(method, method.stages(BUDGET)[0])
        for part in method.modules():
            if isinstance(part, torch.nn.modules.dropout._DropoutNd):
                part.p = 0.0
        torch.manual_seed(0)
        at = Progress("train", BUDGET - 1, BUDGET, seed=SEED)
        found[name] = method.training_step(batch, at).terms["loss/unlabeled"].item()
    assert found["half"] != pytest.approx(found["views"], rel=1e-3)
    # BatchNorm sees the weak patches without labeled ones beside them.
    assert found["none"] == pytest.approx(found["views"], rel=0.2)


@pytest.mark.parametrize("check", ["processes", "resume", "gradients", "host_waits"])
def test_dropped_features_keep_the_contract(check: str) -> None:
    """Some of the other checks have networks that nothing can be dropped of."""
    subject = Subject("self_training", get_method("self_training"), {"feature_drop": 0.5})
    run_check(check, subject, variants_of(CHECKS[check])[0])


def test_scans_that_are_easy_by_now_are_shown_joined_views() -> None:
    method = made(preset="saa")
    method.know_cases({"labeled": 4, "unlabeled": 5})
    (stage,) = method.stages(BUDGET)
    batch = make_batch(method, stage)
    views = (torch.zeros_like(batch.unlabeled.image), torch.ones_like(batch.unlabeled.image))
    unlabeled = replace(batch.unlabeled, views=views, case=torch.tensor([4, 0, 2, 3]))
    batch = replace(batch, unlabeled=unlabeled)
    seen: list[torch.Tensor] = []
    method.student.register_forward_pre_hook(lambda _, args: seen.append(args[0][-4:]))
    losses = torch.tensor([0.01, 1.1, 0.03, 1.0, 0.0])
    method.hardness.table[:4] = torch.stack([torch.full((4,), 9.0), torch.ones(4), losses[:4]], 1)
    kept = method.hardness.table.clone()
    for iteration, joined in ((7, [False] * 4), (8, [False, True, True, False])):
        method.hardness.table.copy_(kept)
        taught(method, iteration, batch)
        ones = seen[-1].flatten(1).mean(1)
        # A fifth of the run is over; scan 4 was never seen, scan 3 is hard.
        assert ones.tolist() == pytest.approx([0.5 if each else 0 for each in joined]), iteration
    table = method.hardness.table
    assert table[:, 0].tolist() == [10, 9, 10, 10, 1]
    assert torch.equal(table[1], kept[1]), "a scan that was not seen keeps what was known of it"
    assert table[0, 1].item() == pytest.approx(1.9)
    everywhere = made(view="joined", mixing="none")
    everywhere.student.register_forward_pre_hook(lambda _, args: seen.append(args[0][-4:]))
    taught(everywhere, 0, batch)
    assert seen[-1].flatten(1).mean(1).tolist() == [0.5] * 4


def test_what_is_known_of_scans_is_loaded() -> None:
    one, two = made(preset="saa"), made(preset="saa")
    one.know_cases({"labeled": 1, "unlabeled": 6})
    one.hardness.table[3] = 2.0
    two.load_state_dict(one.state_dict())
    assert torch.equal(two.hardness.table, one.hardness.table)


def test_networks_that_parts_are_not_made_for_are_refused() -> None:
    (problem,) = made(shrink_weight=1.0).check_networks()
    assert "takes 5 classes" in problem
    assert made(small_network, feature_drop=0.5).check_networks() == []
    with pytest.raises(MedSSLError, match="does not say which of its modules"):
        made(pointwise_network, feature_drop=0.5).check_networks()
