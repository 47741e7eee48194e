"""Optimizers, and learning-rate schedules as pure functions of the iteration."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from medssl.recipe_schema import OptimizerSettings, ScheduleSettings

FUSED_DEVICES = ("cuda", "cpu")


def learning_rate(iteration: int, total: int, base: float, schedule: ScheduleSettings) -> float:
    """Return the learning rate of a 0-based ``iteration`` of a stage of ``total`` iterations.

    Being a function of the iteration alone, it needs no state in a checkpoint, and a finished run
    can be extended.
    """
    if schedule.name == "warmup_constant_cosine":
        return _warmup_constant_cosine(iteration, total, base, schedule)
    if iteration < schedule.warmup:
        return base * (iteration + 1) / schedule.warmup
    done = (iteration - schedule.warmup) / max(1, total - schedule.warmup)
    match schedule.name:
        case "constant":
            return base
        case "step":
            return base * schedule.gamma ** (iteration // schedule.step_size)
        case "poly":
            return schedule.min_lr + (base - schedule.min_lr) * (1 - done) ** schedule.power
        case "cosine":
            return schedule.min_lr + (base - schedule.min_lr) * (1 + math.cos(math.pi * done)) / 2


def _warmup_constant_cosine(
    iteration: int, total: int, base: float, schedule: ScheduleSettings
) -> float:
    """Rise from the lowest rate, stay, and fall back to it along half a cosine.

    Source: RAIL (Zhao et al. 2025), published code.
    """
    low, start = schedule.min_lr, schedule.decay_start * total
    if iteration < schedule.warmup:
        return low + (base - low) * iteration / schedule.warmup
    if iteration < start:
        return base
    done = min((iteration - start) / (total - start), 1.0)
    return low + (base - low) * (1 + math.cos(math.pi * done)) / 2


def build_optimizer(
    parameters: Iterable[nn.Parameter], settings: OptimizerSettings, device: torch.device
) -> torch.optim.Optimizer:
    """Build an optimizer: fused, one pass over the weights, where torch has that.

    On a CPU it takes a quarter of the time of the foreach form (SGD of 8.8 million weights 4.9
    against 20.6 ms, Adam 7.3 against 27.4).
    """
    parameters = list(parameters)
    how = {"fused": True} if device.type in FUSED_DEVICES else {"foreach": True}
    common = {"lr": settings.lr, "weight_decay": settings.weight_decay, **how}
    if settings.name == "sgd":
        return torch.optim.SGD(
            parameters, momentum=settings.momentum, nesterov=settings.nesterov, **common
        )
    kind = torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam
    return kind(parameters, betas=settings.betas, **common)


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load a saved state, but keep how this optimizer computes.

    The state may come from another device, or from a version that computed otherwise.
    """
    how = [(group["fused"], group["foreach"]) for group in optimizer.param_groups]
    optimizer.load_state_dict(saved)
    for group, (fused, foreach) in zip(optimizer.param_groups, how, strict=True):
        group["fused"], group["foreach"] = fused, foreach
