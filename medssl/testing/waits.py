"""No step makes the host wait for the device.

The networks, the batch and the step run on PyTorch's ``meta`` device, which has shapes and no
values: whatever wants to see a value (``item``, ``nonzero``, ``numpy``, a Python ``if``) fails, and
so does mixing the tensors of two devices. A card would run the same code; on a CPU neither mistake
would show.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from medssl.device import make_scaler
from medssl.methods.base import Batch, Method, Progress
from medssl.methods.settings import Stage
from medssl.ops.components import begin_largest_components
from medssl.ops.corruption import corrupt_masks
from medssl.testing.contract import ContractError
from medssl.testing.subject import BUDGET, Subject, make_batch, progress_of
from medssl.training.nonfinite import Guard, gradient_norm
from medssl.training.step_log import StepLog

META = torch.device("meta")
ALLOWED: list[tuple[Any, Any]] = [
    # scipy finds the components on the host, while a card computes the student's pass.
    (begin_largest_components, lambda label, *_, **__: lambda: label),
    # scipy corrupts the masks, which takes longer than their copy; a short stage of its own.
    (corrupt_masks, lambda masks, *_, **__: masks),
]
"""What may look at values, and what stands for it here."""


class NoNumbersToDevice(TorchFunctionMode):
    """Refuse tensors that are made on the device out of numbers of the host."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call ``func`` and look at where its result lies."""
        out = func(*args, **(kwargs or {}))
        if func in (torch.tensor, torch.as_tensor) and out.device == META:
            raise RuntimeError("a copy to the device is waited for")
        return out


class NoBlockingCopies(TorchDispatchMode):
    """Refuse copies from the host that a card would finish before the host goes on."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call ``func`` and look at whether it copied."""
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default:
            source, waits = args[0], not (kwargs or {}).get("non_blocking", False)
            if source.device.type == "cpu" and out.device == META and waits:
                raise RuntimeError("a copy to the device is waited for")
        return out


@contextlib.contextmanager
def never_waiting() -> Iterator[None]:
    """Refuse what a card would make the host wait for, on the meta device."""
    with NoNumbersToDevice(), NoBlockingCopies():
        yield


@contextlib.contextmanager
def meta_device(method: type[Method]) -> Iterator[None]:
    """Replace what is allowed where a method's modules name it; know autocast on ``meta``."""
    real = torch.autocast

    def autocast(device_type: str, *args: Any, **kwargs: Any) -> Any:
        if device_type == "meta":
            return contextlib.nullcontext()
        return real(device_type, *args, **kwargs)

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch, "autocast", autocast))
        for cls in method.__mro__:
            module = sys.modules.get(cls.__module__)
            for name, value in list(vars(module).items()) if module else ():
                for function, stand_in in ALLOWED:
                    if value is function:
                        stack.enter_context(mock.patch.object(module, name, stand_in))
        yield


def check_no_step_makes_the_host_wait(subject: Subject) -> None:
    """A step of each stage runs on a device that has no values."""
    with meta_device(subject.method):
        for method, stage, progress in steps_on(subject, META):
            batch = to_device(make_batch(method, stage), META)
            try:
                take_step(method, batch, stage, progress)
            except (NotImplementedError, RuntimeError) as error:
                raise ContractError(
                    f"a step of stage {stage.name!r} looks at a value on the device, or copies one "
                    "to it, so that the host has to wait (.item(), float(), a Python if, nonzero, "
                    "numpy, torch.tensor on the device, tensors of two devices); expected: none of "
                    f"it; seen: {error}"
                ) from error


def to_device(part: Any, device: torch.device) -> Any:
    """Return a batch, or a part of one, on a device."""
    if part is None or isinstance(part, Tensor):
        return None if part is None else part.to(device)
    if isinstance(part, tuple):
        return tuple(to_device(each, device) for each in part)
    return replace(part, **{k: to_device(v, device) for k, v in vars(part).items()})


def steps_on(subject: Subject, device: torch.device) -> Iterator[tuple[Method, Stage, Progress]]:
    """Yield a method at a step of each stage; the first may check what later ones rely on."""
    for stage in subject.make().stages(BUDGET):
        method = subject.make()
        for earlier in method.stages(BUDGET):
            method.start_stage(earlier.name)
            if earlier.name == stage.name:
                break
        yield method.to(device).train(), stage, progress_of(stage, 1)


def take_step(method: Method, batch: Batch, stage: Stage, progress: Progress) -> None:
    """Take a step as the engine does, without its optimizers."""
    guard = Guard(method, make_scaler(torch.device("cpu"), "fp32"), deferred=True)
    with never_waiting():
        guard.hold()
        output = method.training_step(batch, progress)
        total: Tensor | None = None
        for loss in output.losses():
            loss.backward()
            total = loss.detach() if total is None else total + loss.detach()
        if total is None or total.device.type == "cpu":
            raise ContractError("the loss lies on the device of the batch, not on the CPU")
        StepLog().add(total, output.terms)
        parameters = [p for group in method.trainable(stage.name).values() for p in group]
        norm = gradient_norm(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        guard.step([], guard.judge(total, norm))
        method.after_step(progress)
