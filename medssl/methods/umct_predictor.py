"""What a UMCT model predicts with: one view, or all views fused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from medssl.ops.fusion import fuse_others, vote_scores
from medssl.ops.orientations import Orientation, permute_axes, restore_axes
from medssl.ops.uncertainty import mc_statistics, reduce_uncertainty, stochastic_mode
from medssl.ops.variants import Granularity


class OrientedNetwork(nn.Module):
    """The network of one view, from image to logits in the image's frame."""

    def __init__(self, network: nn.Module, orientation: Orientation) -> None:
        super().__init__()
        self.network = network
        self.orientation = orientation

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C_in, *spatial)`` to logits ``(B, C, *spatial)``."""
        seen = permute_axes(x, self.orientation).contiguous()
        return restore_axes(self.network(seen), self.orientation)


class FusedNetworks(nn.Module):
    """The views together, from image to the logarithm of fused probabilities.

    Args:
        networks: one per view, shared with the method.
        orientations: their axis orders.
        fusion: ``mean`` of the probabilities; ``ulf`` weighted by certainty over ``samples``
            dropout passes, which are drawn from a fixed seed; ``vote`` of the majority, ties going
            to the larger summed probability.
        samples: passes per view of ``ulf``.
        granularity: of the uncertainty, for ``ulf``.
        eps: see :func:`medssl.ops.fusion.fuse_others`.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        orientations: Sequence[Orientation],
        *,
        fusion: Literal["mean", "ulf", "vote"] = "mean",
        samples: int = 10,
        granularity: Granularity = "voxel",
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        pairs = zip(networks, orientations, strict=True)
        self.members = nn.ModuleList(
            OrientedNetwork(network, orientation) for network, orientation in pairs
        )
        self.fusion = fusion
        self.samples = samples
        self.granularity: Granularity = granularity
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C_in, *spatial)`` to log-probabilities ``(B, C, *spatial)``."""
        if self.fusion == "ulf":
            fused = self._ulf(x)
        else:
            probs = [member(x).float().softmax(dim=1) for member in self.members]
            fused = vote_scores(probs) if self.fusion == "vote" else torch.stack(probs).mean(dim=0)
        return fused.clamp_min(torch.finfo(fused.dtype).tiny).log()

    def _ulf(self, x: Tensor) -> Tensor:
        probs, uncertainty = [], []
        devices = [x.device] if x.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(0)
            for member in self.members:
                with stochastic_mode(member):
                    samples = (member(x).float().softmax(dim=1) for _ in range(self.samples))
                    mean, variance = mc_statistics(samples)
                probs.append(mean)
                uncertainty.append(reduce_uncertainty(variance, self.granularity))
        fused = fuse_others(probs, uncertainty, eps=self.eps)
        return fused / fused.sum(dim=1, keepdim=True)
