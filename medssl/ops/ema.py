"""Exponential moving average of a network: the only one in the package."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from medssl.ops.variants import BufferRule


def frozen_copy(module: nn.Module) -> nn.Module:
    """Return a deep copy that takes no gradient: a teacher that starts as its student."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def copy_weights(target: nn.Module, source: nn.Module) -> None:
    """Copy all parameters and buffers of ``source`` into ``target`` of the same structure."""
    target.load_state_dict(source.state_dict())


def ema_decay(iteration: int, decay: float, *, warmup: bool = True) -> float:
    """Return the decay to use after a 0-based iteration.

    With warm-up it is ``min(1 - 1 / (iteration + 1), decay)``: the plain mean of the students so
    far, until that window is as long as the decay's. At iteration 0 the teacher becomes a copy.

    Source: Tarvainen and Valpola, Mean Teacher (2017), published code.
    """
    return min(1.0 - 1.0 / (iteration + 1), decay) if warmup else decay


@torch.no_grad()
def ema_update(
    teacher: nn.Module, student: nn.Module, decay: float, *, buffers: BufferRule = "average"
) -> None:
    """Move the teacher toward the student, in place: ``t <- decay t + (1 - decay) s``.

    Args:
        teacher: network of the same structure as the student.
        student: the trained network.
        decay: in [0, 1]; 0 copies.
        buffers: what happens to BatchNorm's running statistics and other buffers. ``average``
            averages them as well (an integer buffer is averaged as float and truncated), ``copy``
            takes the student's, ``keep`` leaves the teacher's own, which then come from its own
            forward passes in train mode.
    """
    targets, sources = list(teacher.parameters()), list(student.parameters())
    if buffers == "average":
        for target, source in zip(teacher.buffers(), student.buffers(), strict=True):
            if target.is_floating_point():
                targets.append(target)  # type: ignore[arg-type]
                sources.append(source)  # type: ignore[arg-type]
            else:
                _average_integer(target, source, decay)
    elif buffers == "copy":
        pairs = list(zip(teacher.buffers(), student.buffers(), strict=True))
        if pairs:
            torch._foreach_copy_([t for t, _ in pairs], [s for _, s in pairs])
    elif buffers != "keep":
        raise ValueError(f"buffers must be average, copy or keep, not {buffers!r}")
    if targets:
        torch._foreach_lerp_(list[Tensor](targets), list[Tensor](sources), 1.0 - decay)


def _average_integer(target: Tensor, source: Tensor, decay: float) -> None:
    """Average an integer buffer as float; ``copy_`` truncates it back."""
    target.copy_(target.float() * decay + source.float() * (1.0 - decay))
