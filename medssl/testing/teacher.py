"""A teacher is the moving average that its decay says."""

from __future__ import annotations

import copy
from typing import Any

import torch

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
    """After a step: teacher = d teacher + (1 - d) student; buffers as ``ema_buffers`` says."""
    method: Any = subject.make()
    if not all(hasattr(method, part) for part in ("student", "teacher", "decay")):
        raise NotApplicable("no single EMA teacher")
    stage = method.stages(BUDGET)[-1]
    method.start_stage(stage.name)
    optims = optimizers(method, stage)
    parameters = {key for key, _ in method.teacher.named_parameters()}
    rule = getattr(method.settings, "ema_buffers", "average")
    for iteration in range(3):
        back_propagate(method, stage, iteration, optims, make_batch(method, stage))
        for optimizer in optims.values():
            optimizer.step()
        before = copy.deepcopy(method.teacher.state_dict())
        student = copy.deepcopy(method.student.state_dict())
        method.after_step(progress_of(stage, iteration))
        d = method.decay(iteration)
        expect(0 <= d < 1, "the decay lies in [0, 1)", d)
        for key, value in method.teacher.state_dict().items():
            wanted = before[key]
            if key in parameters or rule == "average":
                mean = d * before[key].float() + (1 - d) * student[key].float()
                wanted = mean.to(value.dtype)
            elif rule == "copy":
                wanted = student[key]
            expect(
                torch.allclose(value.double(), wanted.double(), rtol=1.3e-6, atol=1e-5),
                f"after iteration {iteration} the teacher's {key!r} is d teacher + (1 - d) student "
                f"with d = {d} (buffers: {rule})",
                f"a difference of {(value.double() - wanted.double()).abs().max().item():.3g}",
            )
        for key, value in method.student.state_dict().items():
            expect(
                torch.equal(value, student[key]), f"after_step leaves the student's {key!r}", "not"
            )
