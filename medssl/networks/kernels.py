"""Which axes a network treats alike."""

from __future__ import annotations

from torch import nn


def has_symmetric_kernels(network: nn.Module) -> bool:
    """Return whether no convolution of a network treats one axis differently from another."""
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)]
    return all(len(set(m.kernel_size)) == 1 for m in convolutions)
