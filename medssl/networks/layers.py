"""Pieces shared by the networks written here."""

from __future__ import annotations

from torch import nn

CONV: dict[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
CONV_TRANSPOSE: dict[int, type[nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
DROPOUT: dict[int, type[nn.Module]] = {2: nn.Dropout2d, 3: nn.Dropout3d}
NORM: dict[str, dict[int, type[nn.Module]]] = {
    "batch": {2: nn.BatchNorm2d, 3: nn.BatchNorm3d},
    "instance": {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d},
}


def kaiming_init(module: nn.Module) -> None:
    """Draw all convolution weights from Kaiming's normal distribution (fan-in); norms at 1 and 0.

    Biases of convolutions keep PyTorch's default.
    """
    kinds = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    for child in module.modules():
        if isinstance(child, kinds):
            nn.init.kaiming_normal_(child.weight)
        elif isinstance(child, (nn.BatchNorm2d, nn.BatchNorm3d)):
            nn.init.ones_(child.weight)
            nn.init.zeros_(child.bias)
