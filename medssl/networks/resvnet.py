"""The ResV-Net of the semi-supervised literature: a 3D ResNet-34 encoder with a V-Net decoder."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from medssl.networks.layers import CONV, NORM
from medssl.networks.vnet import Resample, VNetBlock


class ResVNetBlock(nn.Module):
    """Twice convolution 3 and instance norm, added to a shortcut, ReLU."""

    def __init__(self, channels_in: int, channels: int, *, dims: int, stride: int) -> None:
        super().__init__()
        conv, norm = CONV[dims], NORM["instance"][dims]
        self.conv1 = conv(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = norm(channels)
        self.conv2 = conv(channels, channels, 3, padding=1, bias=False)
        self.bn2 = norm(channels)
        self.downsample = nn.Sequential()
        if stride != 1 or channels_in != channels:
            self.downsample = nn.Sequential(
                conv(channels_in, channels, 1, stride=stride, bias=False), norm(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, channels_in, *spatial)`` to ``(B, channels, *spatial / stride)``."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        return F.relu(y + self.downsample(x), inplace=True)


class ResNetEncoder(nn.Module):
    """ResNet-34 without pooling: full resolution, then four halvings of 3, 4, 6 and 3 blocks."""

    def __init__(self, in_channels: int, filters: int, *, dims: int) -> None:
        super().__init__()
        c = [filters * 2**i for i in range(5)]
        self.conv1 = CONV[dims](in_channels, c[0], 7, padding=3, bias=False)
        self.bn1 = NORM["instance"][dims](c[0])

        def layer(level: int, blocks: int) -> nn.Sequential:
            first = ResVNetBlock(c[level - 1], c[level], dims=dims, stride=2)
            rest = [
                ResVNetBlock(c[level], c[level], dims=dims, stride=1) for _ in range(blocks - 1)
            ]
            return nn.Sequential(first, *rest)

        self.layer1, self.layer2 = layer(1, 3), layer(2, 4)
        self.layer3, self.layer4 = layer(3, 6), layer(4, 3)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features of the five levels, finest first."""
        features = [F.relu(self.bn1(self.conv1(x)), inplace=True)]
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            features.append(layer(features[-1]))
        return features


class ResVNet(nn.Module):
    """Residual encoder with instance norm, the decoder of :class:`~medssl.networks.vnet.VNet`.

    With 16 filters, one input channel and two classes it has 17,921,810 parameters. State-dict
    names are those of the published checkpoints (``resencoder.layer1.0.conv1.weight``), which hold
    7.4 million more of modules that are never used: load those non-strictly. There is no dropout.
    Sides must be multiples of 16.

    Args:
        spatial_dims: 2 or 3.
        in_channels: image channels.
        num_classes: output channels.
        filters: channels of the first level.
        norm: ``batch`` or ``instance``, of the decoder.

    Source: SDCL (Song and Wang, MICCAI 2024) and RAIL (Zhao et al. 2025).
    """

    def __init__(
        self,
        *,
        spatial_dims: int = 3,
        in_channels: int = 1,
        num_classes: int = 2,
        filters: int = 16,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        dims = spatial_dims
        c = [filters * 2**i for i in range(5)]

        def block(n: int, channels: int) -> VNetBlock:
            return VNetBlock(n, channels, channels, dims=dims, norm=norm)

        def up(channels_in: int, channels: int) -> Resample:
            return Resample(channels_in, channels, dims=dims, norm=norm, up=True)

        self.resencoder = ResNetEncoder(in_channels, filters, dims=dims)
        self.block_five_up = up(c[4], c[3])
        self.block_six = block(3, c[3])
        self.block_six_up = up(c[3], c[2])
        self.block_seven = block(3, c[2])
        self.block_seven_up = up(c[2], c[1])
        self.block_eight = block(2, c[1])
        self.block_eight_up = up(c[1], c[0])
        self.block_nine = block(1, c[0])
        self.out_conv = CONV[dims](c[0], num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C_in, *spatial)`` to logits ``(B, num_classes, *spatial)``."""
        x1, x2, x3, x4, x5 = self.resencoder(x)
        y = self.block_six(self.block_five_up(x5) + x4)
        y = self.block_seven(self.block_six_up(y) + x3)
        y = self.block_eight(self.block_seven_up(y) + x2)
        y = self.block_nine(self.block_eight_up(y) + x1)
        return self.out_conv(y)
