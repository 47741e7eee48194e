"""Channels-last networks: where they pay, and what has to follow the weights into that layout."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from medssl.methods.base import Method
from medssl.training.compilation import networks_of

CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
_INSTANCE = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def why_not_channels_last(network: nn.Module, device: torch.device, precision: str) -> str | None:
    """Return why a network keeps the usual layout; None where channels last is faster.

    Tensor cores compute convolutions in half precision channels last, and convert anything else
    on the way in and out. InstanceNorm returns the usual layout whatever it is given, so that a
    network with it would convert back and forth between any two layers: a step of nnU-Net's
    became 24 % slower (PyTorch issue 59168).

    Args:
        network: any module.
        device: that trains.
        precision: ``fp32``, ``bf16`` or ``fp16``.
    """
    if device.type != "cuda":
        return f"it pays on CUDA cards alone, not on {device.type}"
    if precision == "fp32":
        return "tensor cores compute in bf16 and fp16, and the run is in fp32"
    modules = list(network.modules())
    if any(isinstance(m, _INSTANCE) for m in modules):
        return "InstanceNorm returns the usual layout, and every layer would convert"
    if any(isinstance(m, nn.SyncBatchNorm) for m in modules):
        return "SyncBatchNorm of volumes is slow in it (PyTorch issue 88021)"
    if not any(isinstance(m, nn.Conv2d | nn.Conv3d) for m in modules):
        return "it has no convolution"
    return None


def use_channels_last(
    method: Method, setting: bool | str, *, device: torch.device, precision: str
) -> bool:
    """Lay the networks of a method out channels last, if wanted or, for ``auto``, if it pays.

    Returns:
        Whether any network now is.
    """
    changed = False
    for network in networks_of(method):
        reason = why_not_channels_last(network, device, precision)
        if setting is True or (setting == "auto" and reason is None):
            # PyTorch's types leave this keyword of `to` out.
            network.to(memory_format=CHANNELS_LAST[method.spatial_dims])  # type: ignore[call-overload]
            changed = True
    return changed


def follow_layout(optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Lay the state of optimizers out as their parameters are.

    It may come from a checkpoint of another layout, which fused optimizers refuse.
    """
    for optimizer in optimizers:
        for parameter, state in optimizer.state.items():
            for key, value in state.items():
                alike = isinstance(value, torch.Tensor) and value.shape == parameter.shape
                if alike and value.stride() != parameter.stride():
                    state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
