"""Several batches through one network: in one pass, where that gives the same result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.layers.drop_path import DropPath
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd


def treats_samples_apart(network: nn.Module) -> bool:
    """Return whether what a network gives for a sample is the same in any batch.

    It is not where BatchNorm averages over the batch, which also moves its buffers once a pass, or
    where dropout deals its random numbers out in the order of the batch.
    """
    for module in network.modules():
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
            return False
        if isinstance(module, _DropoutNd) and module.training and module.p > 0:
            return False
        if isinstance(module, DropPath) and module.training:
            return False
    return True


def forward_each(network: nn.Module, parts: Sequence[Tensor]) -> list[Any]:
    """Return the outputs for each of several batches ``(B_i, C, *spatial)`` of one patch size.

    In one pass if the network treats samples apart: a device computes one large batch faster than
    two small ones. Else one after the other, as asked.
    """
    if len(parts) < 2 or not treats_samples_apart(network):
        return [network(part) for part in parts]
    joined = network(torch.cat(list(parts)))
    return list(joined.split([len(part) for part in parts]))
