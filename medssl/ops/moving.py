"""Copies from the host to a device that the host does not wait for."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device, and go on at once where the device allows it.

    An MPS device does not: it may read the tensor after the host has freed it (PyTorch issues
    139550 and 189690), so there the host waits.
    """
    return tensor.to(device, non_blocking=device.type != "mps")
