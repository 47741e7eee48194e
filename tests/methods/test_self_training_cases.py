"""`weight: case` of self_training: scans that are not trusted teach nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from medssl.methods.registry import get_method
from medssl.methods.scan_trust import Cases
from medssl.methods.self_training_settings import SelfTrainingSettings
from medssl.settings.recipe import Recipe
from medssl.testing.subject import (
    BUDGET,
    Subject,
    losses_of,
    make_batch,
    optimizers,
    pointwise_network,
    small_network,
    step,
    sure_network,
)


def made(network: Any = sure_network, **settings: Any) -> Any:
    given = {"weight": ["case"], "mixing": "none", **settings}
    method = Subject("self_training", get_method("self_training"), given, network=network).make()
    method.know_cases({"labeled": 4, "unlabeled": 4})
    return method


def good(count: int) -> torch.Tensor:
    """Return the table of scans that are all alike."""
    return torch.tensor([[9.0, 1000, 100, 80, 90, 100, 60, 40]] * count)


def test_a_scan_without_trust_is_not_learned_from() -> None:
    method = made()
    (stage,) = method.stages(BUDGET)
    batch = make_batch(method, stage)
    other = replace(batch, unlabeled=replace(batch.unlabeled, image=batch.unlabeled.image.clone()))
    other.unlabeled.image[2] = 3 * torch.randn(other.unlabeled.image[2].shape)

    def gradient(one: Any) -> list[torch.Tensor]:
        # Without normalization, patches do not see each other.
        subject = made(pointwise_network, threshold=0.4)
        subject.cases.table.copy_(good(4))
        subject.cases.table[2, 3:5] = 0
        (total,), output = losses_of(subject, stage, 39, one)  # no look at the student's labels
        assert output.terms["cases/left_out"] == 0.25
        total.backward()
        return [p.grad for p in subject.student.parameters()]

    for a, b in zip(gradient(batch), gradient(other), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_each_scan_has_its_row_and_the_table_says_so() -> None:
    method = made()
    (stage,) = method.stages(BUDGET)
    optims = optimizers(method, stage)
    for iteration in range(20):
        batch = make_batch(method, stage, seed=iteration)
        case = torch.tensor([0, 0, 1, 3])
        batch = replace(batch, unlabeled=replace(batch.unlabeled, case=case))
        _, output = step(method, stage, iteration, optims, batch)
    table = method.unlabeled_table()
    assert table["patches"].tolist() == [10, 5, 0, 5], "every fourth iteration"
    assert table["trust"][2] == 1, "it was never seen"
    figures = ("believed", "agreement", "likeness", "familiar")
    assert all(0 <= v <= 1 for k in figures for v in table[k])
    assert {"cases/trust", "cases/left_out", "prior/shift"} <= output.terms.keys()
    assert made(weight=[]).unlabeled_table() == {}


def test_a_scan_of_another_kind_is_not_familiar() -> None:
    """By features alone: labels of the four scans are not looked at here."""
    method = made(small_network)
    (stage,) = method.stages(BUDGET)
    for iteration in range(0, 24, 4):
        batch = make_batch(method, stage, seed=iteration)
        case = torch.arange(4)
        image = batch.unlabeled.image.clone()
        image[2] = 4 * torch.randn(image[2].shape, generator=torch.Generator().manual_seed(0))
        batch = replace(batch, unlabeled=replace(batch.unlabeled, image=image, case=case))
        losses_of(method, stage, iteration, batch)
    near = method.unlabeled_table()["familiar"]
    assert near.argmin() == 2
    assert near[2] < 0.2
    assert made().cases.channels == 0, "a network that does not say where it can be tapped"


def test_a_feature_that_overflows_is_not_remembered() -> None:
    method = made(small_network)
    case = torch.tensor([0, 1])
    images = torch.randn(2, 1, 16, 16)
    images[1] = torch.inf
    method.teacher.eval()
    with method.cases.watched("unlabeled", case, method.teacher), torch.no_grad():
        method.teacher(images)
    rows = method.cases.unlabeled
    assert rows[:, 0].tolist() == [1, 0, 0, 0]
    assert rows.isfinite().all()


def test_a_run_is_opened_with_as_many_scans_as_it_had() -> None:
    method = made()
    method.know_cases({"labeled": 4, "unlabeled": 7})
    for name in Cases.by_scan:
        getattr(method.cases, name).add_(1)
    other = made()
    other.load_state_dict(method.state_dict())
    for name, kept in method.cases.named_buffers():
        assert torch.equal(other.cases.get_buffer(name), kept)


def test_a_student_is_not_compared_with_itself() -> None:
    settings = SelfTrainingSettings(weight="case", teacher="student")
    (problem,) = settings.check_recipe(Recipe())
    assert "compares the student with its teacher" in problem
