"""The V-Net of the semi-supervised literature (not MONAI's VNet, which is another network)."""

from __future__ import annotations

from torch import Tensor, nn

from medssl.networks.layers import CONV, CONV_TRANSPOSE, DROPOUT, NORM, kaiming_init


class VNetBlock(nn.Module):
    """``n`` times convolution 3, normalization, ReLU; no residual connection."""

    def __init__(self, n: int, channels_in: int, channels: int, *, dims: int, norm: str) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(n):
            layers += [
                CONV[dims](channels if i else channels_in, channels, 3, padding=1),
                NORM[norm][dims](channels),
                nn.ReLU(inplace=True),
            ]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, channels_in, *spatial)`` to ``(B, channels, *spatial)``."""
        return self.conv(x)


class Resample(nn.Module):
    """Halve or double the resolution by a convolution of kernel 2 and stride 2, norm, ReLU."""

    def __init__(self, channels_in: int, channels: int, *, dims: int, norm: str, up: bool) -> None:
        super().__init__()
        kind = CONV_TRANSPOSE if up else CONV
        self.conv = nn.Sequential(
            kind[dims](channels_in, channels, 2, stride=2),
            NORM[norm][dims](channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Change the resolution."""
        return self.conv(x)


class VNet(nn.Module):
    """Five levels, 1-2-3-3-3 convolutions down and 3-3-2-1 up, additive skip connections.

    With 16 filters, BatchNorm, one input channel and two classes it has 9,448,866 parameters
    (9,443,266 with InstanceNorm, which is not affine). State-dict names are those of the published
    checkpoints (``block_one.conv.0.weight``). Sides must be multiples of 16.

    Args:
        spatial_dims: 2 or 3.
        in_channels: image channels.
        num_classes: output channels.
        filters: channels of the first level.
        norm: ``batch`` or ``instance``.
        dropout: channel dropout after the bottleneck and before the last convolution.
        init: ``default`` (PyTorch's) or ``kaiming`` (normal, fan-in).

    Source: UA-MT (Yu et al., MICCAI 2019) and the methods that followed it.
    """

    def __init__(
        self,
        *,
        spatial_dims: int = 3,
        in_channels: int = 1,
        num_classes: int = 2,
        filters: int = 16,
        norm: str = "batch",
        dropout: float = 0.5,
        init: str = "default",
    ) -> None:
        super().__init__()
        c = [filters * 2**i for i in range(5)]

        def block(n: int, channels_in: int, channels: int) -> VNetBlock:
            return VNetBlock(n, channels_in, channels, dims=spatial_dims, norm=norm)

        def resample(channels_in: int, channels: int, *, up: bool) -> Resample:
            return Resample(channels_in, channels, dims=spatial_dims, norm=norm, up=up)

        self.block_one = block(1, in_channels, c[0])
        self.block_one_dw = resample(c[0], c[1], up=False)
        self.block_two = block(2, c[1], c[1])
        self.block_two_dw = resample(c[1], c[2], up=False)
        self.block_three = block(3, c[2], c[2])
        self.block_three_dw = resample(c[2], c[3], up=False)
        self.block_four = block(3, c[3], c[3])
        self.block_four_dw = resample(c[3], c[4], up=False)
        self.block_five = block(3, c[4], c[4])
        self.block_five_up = resample(c[4], c[3], up=True)
        self.block_six = block(3, c[3], c[3])
        self.block_six_up = resample(c[3], c[2], up=True)
        self.block_seven = block(3, c[2], c[2])
        self.block_seven_up = resample(c[2], c[1], up=True)
        self.block_eight = block(2, c[1], c[1])
        self.block_eight_up = resample(c[1], c[0], up=True)
        self.block_nine = block(1, c[0], c[0])
        self.dropout = DROPOUT[spatial_dims](dropout)
        self.out_conv = CONV[spatial_dims](c[0], num_classes, 1)
        if init == "kaiming":
            kaiming_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C_in, *spatial)`` to logits ``(B, num_classes, *spatial)``."""
        x1 = self.block_one(x)
        x2 = self.block_two(self.block_one_dw(x1))
        x3 = self.block_three(self.block_two_dw(x2))
        x4 = self.block_four(self.block_three_dw(x3))
        x5 = self.dropout(self.block_five(self.block_four_dw(x4)))
        y = self.block_six(self.block_five_up(x5) + x4)
        y = self.block_seven(self.block_six_up(y) + x3)
        y = self.block_eight(self.block_seven_up(y) + x2)
        y = self.block_nine(self.block_eight_up(y) + x1)
        return self.out_conv(self.dropout(y))
