"""Distillation: divergences by hand, a teacher that never changes, labels where they count."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from medssl.methods.distill import Distill, DistillSettings
from medssl.ops.distillation import divergence
from medssl.recipe.load import load_recipe
from medssl.testing.subject import Subject, losses_of, make_batch, step
from medssl.testing.subject import optimizers as optimizers_of


def make(**settings: Any) -> Distill:
    method = Subject("distill", Distill, settings).make()
    assert isinstance(method, Distill)
    return method


def logits_of(*probs: float) -> torch.Tensor:
    return torch.tensor(probs).log().reshape(1, -1, 1, 1)


def test_divergences_by_hand() -> None:
    q, p = logits_of(0.9, 0.1), logits_of(0.6, 0.4)
    torch.testing.assert_close(divergence(p, q, kind="kl").item(), 0.22629, atol=1e-5, rtol=0)
    torch.testing.assert_close(divergence(p, q).item(), 0.06329, atol=1e-5, rtol=0)
    assert abs(divergence(q, q).item()) < 1e-7
    # At temperature 2 the probabilities are sqrt(.9) : sqrt(.1) = 3 : 1, and sqrt(.6) : sqrt(.4).
    a, b = 0.75, 0.6**0.5 / (0.6**0.5 + 0.4**0.5)
    kl = a * torch.tensor(a / b).log() + (1 - a) * torch.tensor((1 - a) / (1 - b)).log()
    torch.testing.assert_close(divergence(p, q, kind="kl", temperature=2.0), 4 * kl)


def test_no_gradient_where_they_agree_and_none_reaches_the_teacher() -> None:
    teacher = torch.randn(2, 3, 4, 4, requires_grad=True)
    for kind in ("js", "kl"):
        student = teacher.detach().clone().requires_grad_()
        divergence(student, teacher, kind=kind).backward()  # type: ignore[arg-type]
        assert student.grad is not None
        assert student.grad.abs().max() < 1e-7
    assert teacher.grad is None


def test_a_student_that_is_its_teacher_has_nothing_to_learn_of_it() -> None:
    method = make(labeled_weight=0)
    stage = method.stages(40)[0]
    for module in method.student.modules():
        if isinstance(module, nn.Dropout2d | nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.BatchNorm2d):  # in train mode it would see its batch
            module.track_running_stats, module.running_mean, module.running_var = False, None, None
    method.learn_from(copy.deepcopy(method.student))
    (loss,), output = losses_of(method, stage, 0, make_batch(method, stage))
    assert loss.abs() < 1e-6
    assert output.terms["teacher/agreement"] == 1


def test_the_teacher_stays_as_it_is_and_out_of_what_is_saved() -> None:
    method = make()
    teacher = method._taught_by[0]
    before = copy.deepcopy(teacher.state_dict())
    stage = method.stages(40)[0]
    method.train()
    for iteration in range(2):
        step(method, stage, iteration, optimizers_of(method, stage), make_batch(method, stage))
    assert not any(module.training for module in teacher.modules())
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(name.startswith("student.") for name in method.state_dict())
    method.double()
    assert next(teacher.parameters()).dtype == torch.float64


def test_labels_count_from_a_share_of_the_iterations() -> None:
    method = make(labels_from=0.5, labeled_weight=2.0)
    stage = method.stages(40)[0]
    batch = make_batch(method, stage)
    for iteration, weight in ((19, 0.0), (20, 2.0)):
        (loss,), output = losses_of(method, stage, iteration, batch)
        terms = output.terms
        assert terms["weight/labeled"] == weight
        torch.testing.assert_close(
            loss.detach(), terms["loss/distillation"] + weight * terms["loss/labeled"]
        )


def test_settings_that_learn_nothing_are_refused() -> None:
    settings = DistillSettings(divergence_weight=0, dice_weight=0)
    recipe = load_recipe("quickstart").recipe
    assert "both 0" in next(iter(settings.check_recipe(recipe)))
    late = DistillSettings(labels_from=1)
    assert "do nothing" in next(iter(late.warn_recipe(recipe, ["labels_from"])))
