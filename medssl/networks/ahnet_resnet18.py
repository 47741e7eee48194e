"""AH-Net on ResNet-18: an encoder of n x n x 1 kernels that can start from 2D weights.

Encoder: ResNet-18 whose 3x3 kernels became 3x3x1 and whose stem is 7x7x3; the last axis is halved
by max-pooling. Decoder: 1x1x1 projection, x2 trilinear, additive skip, and a dense block of
pseudo-3D layers. Every side must be a multiple of 32.

Sources: Liu et al., AH-Net (MICCAI 2018), for the decoder; Xia et al., UMCT (MedIA 2020), whose
printed parameter counts (11.79 M) identify this encoder. Dropout is ours: no source places it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medssl.networks.layers import DROPOUT, kaiming_init

WIDTHS = (64, 128, 256, 512)
GROWTH = 20
BOTTLENECK = 4 * GROWTH
DENSE_LAYERS = 3


def inflate_kernel(weight: Tensor) -> Tensor:
    """Turn a ``(out, in, k, k)`` kernel into ``(out, in, k, k, 1)``: the same, slice by slice."""
    return weight.unsqueeze(-1)


def inflate_2d(state: Mapping[str, Tensor], *, in_channels: int = 1) -> dict[str, Tensor]:
    """Turn the state dict of torchvision's ResNet-18 into that of this encoder.

    The three color channels of the stem become the three taps of its kernel along the last axis,
    shared among the image channels. The classifier is dropped.

    Args:
        state: torchvision's names (``conv1.weight``, ``layer1.0.conv1.weight``, ...).
        in_channels: image channels of the network.

    Raises:
        KeyError: there is no ``conv1.weight``.
    """
    stem = state["conv1.weight"].permute(0, 2, 3, 1).unsqueeze(1) / in_channels
    out = {"conv1.weight": stem.expand(-1, in_channels, -1, -1, -1).contiguous()}
    for key, value in state.items():
        if key == "conv1.weight" or key.startswith("fc.") or "num_batches" in key:
            continue
        key = key.replace("downsample.0.", "shortcut_conv.").replace(
            "downsample.1.", "shortcut_bn."
        )
        if key.startswith("bn1."):
            key = key.replace("bn1.", "bn0.", 1)
        out[key] = inflate_kernel(value) if value.ndim == 4 else value
    return out


def _plane_conv(channels_in: int, channels: int, stride: int = 1) -> nn.Conv3d:
    """Return a 3x3x1 convolution; the stride acts in the plane."""
    return nn.Conv3d(
        channels_in, channels, (3, 3, 1), (stride, stride, 1), padding=(1, 1, 0), bias=False
    )


def _norm_relu_conv(channels_in: int, conv: nn.Conv3d) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm3d(channels_in), nn.ReLU(inplace=True), conv)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=True)


class ResNetBlock(nn.Module):
    """ResNet's basic block with 3x3x1 kernels; ``stride`` 2 also halves the last axis by max."""

    def __init__(self, channels_in: int, channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = _plane_conv(channels_in, channels, stride)
        self.bn1 = nn.BatchNorm3d(channels)
        self.conv2 = _plane_conv(channels, channels)
        self.bn2 = nn.BatchNorm3d(channels)
        self.halve = stride == 2
        if self.halve:
            self.shortcut_conv = nn.Conv3d(channels_in, channels, 1, (2, 2, 1), bias=False)
            self.shortcut_bn = nn.BatchNorm3d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, channels_in, X, Y, Z)`` to ``(B, channels, X, Y, Z)``, or half of each side."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.halve:
            y = F.max_pool3d(y, (1, 1, 2))
            x = self.shortcut_bn(F.max_pool3d(self.shortcut_conv(x), (1, 1, 2)))
        return F.relu(x + y)


class DenseLayer(nn.Module):
    """Append ``GROWTH`` channels computed by in-plane and, on top, through-plane kernels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = _norm_relu_conv(channels, nn.Conv3d(channels, BOTTLENECK, 1, bias=False))
        self.plane = _norm_relu_conv(BOTTLENECK, _plane_conv(BOTTLENECK, GROWTH))
        through = nn.Conv3d(GROWTH, GROWTH, (1, 1, 3), padding=(0, 0, 1), bias=False)
        self.through = _norm_relu_conv(GROWTH, through)
        self.mix = _norm_relu_conv(GROWTH, nn.Conv3d(GROWTH, GROWTH, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, *spatial)`` to ``(B, C + GROWTH, *spatial)``."""
        # The first ReLU works in place on the output of BatchNorm, never on x itself.
        plane = self.plane(self.squeeze(x))
        return torch.cat([x, self.mix(plane + self.through(plane))], dim=1)


def _dense_block(channels: int, dropout: float) -> nn.Sequential:
    layers = [DenseLayer(channels + i * GROWTH) for i in range(DENSE_LAYERS)]
    return nn.Sequential(*layers, DROPOUT[3](dropout))


class AHNetResNet18(nn.Module):
    """AH-Net with a ResNet-18 encoder; 11,790,840 parameters for one channel and two classes.

    Args:
        in_channels: image channels.
        num_classes: output channels.
        dropout: probability of channel dropout after each dense block of the decoder.
        init: ``kaiming`` (normal, fan-in) or ``default`` (PyTorch's).
    """

    def __init__(
        self,
        *,
        in_channels: int = 1,
        num_classes: int = 2,
        dropout: float = 0.2,
        init: str = "kaiming",
    ) -> None:
        super().__init__()
        a, b, c, d = WIDTHS
        more = DENSE_LAYERS * GROWTH

        def project(channels_in: int, channels: int) -> nn.Sequential:
            conv = nn.Conv3d(channels_in, channels, 1, bias=False)
            return _norm_relu_conv(channels_in, conv)

        self.conv1 = nn.Conv3d(in_channels, a, (7, 7, 3), (2, 2, 1), padding=(3, 3, 1), bias=False)
        self.pool1 = nn.MaxPool3d((1, 1, 2))
        self.bn0 = nn.BatchNorm3d(a)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool3d(3, stride=2, padding=1)
        self.layer1 = nn.Sequential(ResNetBlock(a, a), ResNetBlock(a, a))
        self.layer2 = nn.Sequential(ResNetBlock(a, b, stride=2), ResNetBlock(b, b))
        self.layer3 = nn.Sequential(ResNetBlock(b, c, stride=2), ResNetBlock(c, c))
        self.layer4 = nn.Sequential(ResNetBlock(c, d, stride=2), ResNetBlock(d, d))
        self.up0 = project(d, c)
        self.dense0 = _dense_block(c, dropout)
        self.up1 = project(c + more, b)
        self.dense1 = _dense_block(b, dropout)
        self.up2 = project(b + more, a)
        self.dense2 = _dense_block(a, dropout)
        self.trans1 = project(a + more, a)
        self.dense3 = _dense_block(a, dropout)
        self.up3 = project(a + more, a)
        self.dense4 = _dense_block(a, dropout)
        self.final = _norm_relu_conv(a + more, _plane_conv(a + more, num_classes))
        if init == "kaiming":
            kaiming_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C_in, X, Y, Z)`` to logits ``(B, num_classes, X, Y, Z)``."""
        stem = self.relu(self.bn0(self.pool1(self.conv1(x))))
        pooled = self.maxpool(stem)
        x1 = self.layer1(pooled)
        x2 = self.layer2(x1)
        x3 = self.layer3(x2)
        x4 = self.layer4(x3)
        y = self.dense0(_double(self.up0(x4)) + x3)
        y = self.dense1(_double(self.up1(y)) + x2)
        y = self.dense2(_double(self.up2(y)) + x1)
        y = self.dense3(self.trans1(y) + pooled)
        y = self.dense4(_double(self.up3(y)) + stem)
        return _double(self.final(y))

    def load_2d(self, state: Mapping[str, Tensor]) -> None:
        """Start the encoder from the state dict of torchvision's ResNet-18.

        Raises:
            ValueError: it is not the state dict of a ResNet-18.
        """
        encoder = {k: v for k, v in self.state_dict().items() if _in_encoder(k)}
        try:
            inflated = inflate_2d(state, in_channels=self.conv1.in_channels)
        except KeyError as error:
            raise ValueError(f"it has no {error.args[0]}") from error
        wrong = sorted(encoder.keys() ^ inflated.keys())
        wrong += [k for k, v in encoder.items() if k in inflated and v.shape != inflated[k].shape]
        if wrong:
            raise ValueError(f"{len(wrong)} entries are missing or misfit, the first {wrong[0]!r}")
        self.load_state_dict(inflated, strict=False)


def _in_encoder(key: str) -> bool:
    # Older files have no counters of BatchNorm, and nothing depends on them here.
    return key.startswith(("conv1.", "bn0.", "layer")) and "num_batches" not in key
