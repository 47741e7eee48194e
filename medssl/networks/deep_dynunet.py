"""MONAI's DynUNet with heads at coarser scales, for deep supervision.

MONAI's own deep supervision enlarges every scale to full resolution, computes the heads when it
predicts, too, and keeps their graphs, so that the network cannot be copied. Here the heads exist in
training alone: in eval mode, and without them, it is MONAI's network, with the same weights.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from monai.networks.nets import DynUNet
from torch import Tensor, nn

from medssl.networks.build import blueprint_of
from medssl.networks.builtin import DynUNetSettings
from medssl.ops.deep_supervision import Outputs


class DeepDynUNet(DynUNet):
    """A DynUNet that returns logits of several scales in training mode."""

    deep_heads: nn.ModuleList

    def forward(self, x: Tensor) -> Tensor | Outputs:
        """Map ``(B, C_in, *spatial)`` to logits; in training mode to those of several scales."""
        if not self.training:
            out: Tensor = super().forward(x)
            return out
        skips = [self.input_block(x)]
        for block in self.downsamples:
            skips.append(block(skips[-1]))
        features, levels = self.bottleneck(skips[-1]), list[Tensor]()
        for block, skip in zip(self.upsamples, reversed(skips), strict=True):
            features = block(features, skip)
            levels.append(features)
        coarser = [h(f) for h, f in zip(self.deep_heads, levels[-2::-1], strict=False)]
        return Outputs((self.output_block(features), *coarser))


def add_heads(network: DynUNet, settings: DynUNetSettings) -> None:
    """Give a DynUNet the heads that its settings ask for, in place; none by default."""
    if not settings.heads:
        return
    network.__class__ = DeepDynUNet
    with torch.no_grad():
        heads = nn.ModuleList([network.get_output_block(i + 1) for i in range(settings.heads)])
        network.deep_heads = heads.apply(network.initialize_weights)


def without_heads(model: nn.Module) -> nn.Module:
    """Take away, in place, what a model needs in training alone; its predictions stay."""
    for network in model.modules():
        if isinstance(network, DeepDynUNet):
            del network.deep_heads
            network.__class__ = DynUNet  # type: ignore[assignment]  # what it was before
            blueprint = blueprint_of(network)
            if blueprint is not None:
                plain = {**blueprint.settings, "deep_supervision": False}
                network.blueprint = replace(blueprint, settings=plain)  # type: ignore[assignment]
    return model
