"""The 2D U-Net of the semi-supervised literature (ACDC)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medssl.networks.layers import kaiming_init


class UNet2DBlock(nn.Module):
    """Twice convolution 3, BatchNorm, LeakyReLU, with element-wise dropout between the two."""

    def __init__(self, channels_in: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.conv_conv = nn.Sequential(
            nn.Conv2d(channels_in, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.LeakyReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.LeakyReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, channels_in, H, W)`` to ``(B, channels, H, W)``."""
        return self.conv_conv(x)


class Down(nn.Module):
    """Max-pool by 2, then a block."""

    def __init__(self, channels_in: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(
            nn.MaxPool2d(2), UNet2DBlock(channels_in, channels, dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Halve the resolution."""
        return self.maxpool_conv(x)


class Up(nn.Module):
    """Convolution 1 to the skip's channels, bilinear doubling, concatenation, a block."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.conv1x1 = nn.Conv2d(channels_in, channels, 1)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.conv = UNet2DBlock(2 * channels, channels, 0.0)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Double the resolution and merge the skip connection."""
        return self.conv(torch.cat([skip, self.up(self.conv1x1(x))], dim=1))


class Encoder(nn.Module):
    """Five levels."""

    def __init__(self, in_channels: int, channels: Sequence[int], dropout: Sequence[float]) -> None:
        super().__init__()
        c, p = channels, dropout
        self.in_conv = UNet2DBlock(in_channels, c[0], p[0])
        self.down1 = Down(c[0], c[1], p[1])
        self.down2 = Down(c[1], c[2], p[2])
        self.down3 = Down(c[2], c[3], p[3])
        self.down4 = Down(c[3], c[4], p[4])

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features of all levels, finest first."""
        features = [self.in_conv(x)]
        for down in (self.down1, self.down2, self.down3, self.down4):
            features.append(down(features[-1]))
        return features


class Decoder(nn.Module):
    """Mirror of the encoder."""

    def __init__(self, num_classes: int, channels: Sequence[int]) -> None:
        super().__init__()
        c = channels
        self.up1 = Up(c[4], c[3])
        self.up2 = Up(c[3], c[2])
        self.up3 = Up(c[2], c[1])
        self.up4 = Up(c[1], c[0])
        self.out_conv = nn.Conv2d(c[0], num_classes, 3, padding=1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Turn the features into logits."""
        x = features[4]
        for level, up in zip((3, 2, 1, 0), (self.up1, self.up2, self.up3, self.up4), strict=True):
            x = up(x, features[level])
        return self.out_conv(x)


class UNet2D(nn.Module):
    """2D U-Net with 16-32-64-128-256 channels and rising dropout in the encoder.

    1,813,764 parameters with one input channel and four classes. State-dict names are those of
    published checkpoints (``encoder.down1.maxpool_conv.1.conv_conv.0.weight``). Sides must be
    multiples of 16.

    Args:
        in_channels: image channels.
        num_classes: output channels.
        channels: of the five levels.
        dropout: element-wise dropout of the five encoder levels; the decoder has none.
        init: ``default`` (PyTorch's) or ``kaiming`` (normal, fan-in).

    Source: SSL4MIS / PyMIC U-Net as used by SS-Net (MICCAI 2022) and BCP (CVPR 2023).
    """

    def __init__(
        self,
        *,
        in_channels: int = 1,
        num_classes: int = 4,
        channels: Sequence[int] = (16, 32, 64, 128, 256),
        dropout: Sequence[float] = (0.05, 0.1, 0.2, 0.3, 0.5),
        init: str = "default",
    ) -> None:
        super().__init__()
        self.encoder = Encoder(in_channels, channels, dropout)
        self.decoder = Decoder(num_classes, channels)
        if init == "kaiming":
            kaiming_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C_in, H, W)`` to logits ``(B, num_classes, H, W)``."""
        return self.decoder(self.encoder(x))
