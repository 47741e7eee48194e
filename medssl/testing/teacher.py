"""A teacher is the moving average that its decay says."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from medssl.testing.contract import NotApplicable, expect
from medssl.testing.subject import (
    BUDGET,
    Subject,
    back_propagate,
    make_batch,
    optimizers,
    progress_of,
)


def check_the_teacher_is_the_closed_form_average(subject: Subject) -> None:
    """After a step: teacher = d teacher + (1 - d) student; buffers as ``ema_buffers`` says.

    A method with several averages says by ``averages(progress)`` which modules follow its student
    after an iteration, each with its decay.
    """
    method: Any = subject.make()
    several = hasattr(method, "averages")
    if not (several or all(hasattr(method, part) for part in ("student", "teacher", "decay"))):
        raise NotApplicable("no single EMA teacher")
    stage = method.stages(BUDGET)[-1]
    method.start_stage(stage.name)
    optims = optimizers(method, stage)
    rule = getattr(method.settings, "ema_buffers", "average")
    for iteration in range(3):
        back_propagate(method, stage, iteration, optims, make_batch(method, stage))
        for optimizer in optims.values():
            optimizer.step()
        progress = progress_of(stage, iteration)
        decays = method.averages(progress) if several else {"teacher": method.decay(iteration)}
        before = copy.deepcopy(method.state_dict())
        method.after_step(progress)
        for name, d in decays.items():
            expect(0 <= d < 1, "the decay lies in [0, 1)", d)
            _expect_average(method, name, before, d, rule, f"after iteration {iteration}")
        followed = tuple(f"{name}." for name in decays)
        for key, value in method.state_dict().items():
            if key.startswith(("student.", "teacher")) and not key.startswith(followed):
                expect(torch.equal(value, before[key]), f"after_step leaves {key!r}", "not")


def _expect_average(
    method: nn.Module, name: str, before: dict[str, Tensor], d: float, rule: str, when: str
) -> None:
    """Look at one average, by its module's name and the method's state before its update."""
    teacher = method.get_submodule(name)
    parameters = {key for key, _ in teacher.named_parameters()}
    for key, value in teacher.state_dict().items():
        old, student = before[f"{name}.{key}"], before[f"student.{key}"]
        wanted = old
        if key in parameters or rule == "average":
            wanted = (d * old.float() + (1 - d) * student.float()).to(value.dtype)
        elif rule == "copy":
            wanted = student
        expect(
            torch.allclose(value.double(), wanted.double(), rtol=1.3e-6, atol=1e-5),
            f"{when} the {name}'s {key!r} is d teacher + (1 - d) student with d = {d} (buffers: "
            f"{rule})",
            f"a difference of {(value.double() - wanted.double()).abs().max().item():.3g}",
        )
