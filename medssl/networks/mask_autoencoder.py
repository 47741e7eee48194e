"""Denoising autoencoder of label masks: what a plausible segmentation looks like."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medssl.networks.layers import CONV
from medssl.networks.vnet import VNet
from medssl.networks.whole_batch import randn_like

Bottleneck = Literal["fc", "conv"]

_FOURTH = ("block_four_dw", "block_five", "block_five_up", "block_six")
_THIRD = ("block_three_dw", "block_four", "block_six_up", "block_seven")
DEEPER: dict[int, tuple[str, ...]] = {4: (), 3: _FOURTH, 2: _FOURTH + _THIRD}
"""Parts of the V-Net that an autoencoder of fewer levels does without."""


class MaskAutoencoder(VNet):
    """A V-Net without dropout and, unless asked for, skip connections, with a narrow code.

    Bottleneck ``fc``: two fully connected layers around one code for the whole patch. They need a
    fixed grid of features, ``grid``, which is the patch divided by 16; another number of features
    is averaged to it and repeated back. With the published sizes it is exactly the published
    network: 73,737,378 parameters for a patch of 112 x 112 x 80 and two classes, 136,975,829 for
    144 x 144 x 96 and five, nearly all of them in these two layers. State-dict names follow it.

    Bottleneck ``conv``: one code per feature position, by convolutions of kernel 1. It takes any
    patch and does not have to learn where in a patch a structure may lie, which suits random
    crops; the context of a code is still 194 voxels wide (90 with three levels).

    Sides that are not multiples of ``2 ** levels`` are padded with the border and cropped again.

    Args:
        spatial_dims: 2 or 3.
        in_channels: 1 for class indices, ``num_classes`` for one-hot or soft labels.
        num_classes: classes including background.
        filters: channels of the first level.
        bottleneck: ``fc`` or ``conv``.
        embedding: length of a code.
        grid: ``fc`` only: features per axis; None means 2.
        levels: how often the encoder halves every axis: 4 as published, 3 for a finer code that
            is learned in fewer iterations, or 2.
        skips: add the encoder's features to the decoder's, as the V-Net does. Details then pass
            beside the code, and what is learned is the repair rather than the drawing of a mask.
        init: ``default`` (PyTorch's) or ``uniform``, the published one: every parameter, also the
            scales of BatchNorm, from U(-a, a) with a = 1 / sqrt(length of its first axis).

    Source: Adiga V et al., MICCAI 2022; the convolutional bottleneck and the skip connections are
    this package's.
    """

    def __init__(
        self,
        *,
        spatial_dims: int = 3,
        in_channels: int = 1,
        num_classes: int = 2,
        filters: int = 16,
        bottleneck: Bottleneck = "fc",
        embedding: int = 512,
        grid: Sequence[int] | None = None,
        levels: int = 4,
        skips: bool = False,
        init: Literal["default", "uniform"] = "default",
    ) -> None:
        super().__init__(
            spatial_dims=spatial_dims,
            in_channels=in_channels,
            num_classes=num_classes,
            filters=filters,
            dropout=0.0,
        )
        if bottleneck not in ("fc", "conv"):
            raise ValueError(f"bottleneck must be fc or conv, not {bottleneck!r}")
        self.grid = tuple(grid) if grid is not None else (2,) * spatial_dims
        if len(self.grid) != spatial_dims:
            raise ValueError(f"grid {self.grid} needs {spatial_dims} numbers, one per axis")
        if levels not in (2, 3, 4):
            raise ValueError(f"levels must be 2, 3 or 4, not {levels}")
        for name in DEEPER[levels]:
            delattr(self, name)
        self.bottleneck, self.factor, self.skips = bottleneck, 2**levels, skips
        self.channels = filters * self.factor
        features = self.channels * math.prod(self.grid)
        if bottleneck == "fc":
            self.fc_mu: nn.Module = nn.Linear(features, embedding)
            self.fc_rec: nn.Module = nn.Linear(embedding, features)
        else:
            self.fc_mu = CONV[spatial_dims](self.channels, embedding, 1)
            self.fc_rec = CONV[spatial_dims](embedding, self.channels, 1)
        if init == "uniform":
            _uniform_init(self)

    def forward(self, x: Tensor, *, latent_noise: float = 0.0) -> Tensor:
        """Map an encoded mask ``(B, in_channels, *spatial)`` to logits ``(B, C, *spatial)``.

        Args:
            x: see :func:`encode_mask`.
            latent_noise: standard deviation of noise on the code, cut at two of them; drawn from
                torch's generator in both modes.
        """
        spatial = x.shape[2:]
        *skipped, features = self._encode(x)
        if not self.skips:
            skipped.clear()  # not held while decoding
        code = self._code(features)
        if latent_noise:
            noise = randn_like(code) * latent_noise
            code = code + noise.clamp_(-2 * latent_noise, 2 * latent_noise)
        logits = self._decode(self._rebuild(code, features.shape[2:]), skipped)
        inside: tuple[Any, ...] = (..., *(slice(n) for n in spatial))
        return logits[inside]

    def embedding(self, x: Tensor) -> Tensor:
        """Return the codes of encoded masks, normalized to length 1: ``(B, embedding, ...)``."""
        return F.normalize(self._code(self._encode(x)[-1]), dim=1)

    def _encode(self, x: Tensor) -> list[Tensor]:
        """Return the features of each level, from fine to coarse."""
        out = [self.block_one(_pad(x, self.factor))]
        out.append(self.block_two(self.block_one_dw(out[-1])))
        out.append(self.block_three(self.block_two_dw(out[-1])))
        if self.factor > 4:
            out.append(self.block_four(self.block_three_dw(out[-1])))
        if self.factor > 8:
            out.append(self.block_five(self.block_four_dw(out[-1])))
        return out

    def _code(self, features: Tensor) -> Tensor:
        if self.bottleneck == "conv":
            return self.fc_mu(features)
        if features.shape[2:] != self.grid:
            pool: Any = F.adaptive_avg_pool2d if features.ndim == 4 else F.adaptive_avg_pool3d
            features = pool(features, self.grid)
        return self.fc_mu(features.flatten(1))

    def _rebuild(self, code: Tensor, shape: torch.Size) -> Tensor:
        features = self.fc_rec(code)
        if self.bottleneck == "conv":
            return features
        features = features.view(len(code), self.channels, *self.grid)
        return features if shape == self.grid else F.interpolate(features, size=shape)

    def _decode(self, y: Tensor, skipped: list[Tensor]) -> Tensor:
        """Return logits; ``skipped`` are the levels above the coarsest, from fine to coarse."""

        def joined(up: Tensor, level: int) -> Tensor:
            return up + skipped[level] if self.skips else up

        if self.factor > 8:
            y = self.block_six(joined(self.block_five_up(y), 3))
        if self.factor > 4:
            y = self.block_seven(joined(self.block_six_up(y), 2))
        y = self.block_eight(joined(self.block_seven_up(y), 1))
        return self.out_conv(self.block_nine(joined(self.block_eight_up(y), 0)))


def _pad(x: Tensor, factor: int) -> Tensor:
    """Repeat the border at the end of each axis up to a multiple of ``factor``."""
    missing = [-n % factor for n in reversed(x.shape[2:])]
    if not any(missing):
        return x
    return F.pad(x, [v for n in missing for v in (0, n)], mode="replicate")


def _uniform_init(module: nn.Module) -> None:
    for parameter in module.parameters():
        bound = 1.0 / math.sqrt(parameter.shape[0])
        nn.init.uniform_(parameter, -bound, bound)
