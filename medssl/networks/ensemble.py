"""Several networks as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """Average the probabilities of several networks: image in, log mean probabilities out."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C_in, *spatial)`` to log probabilities ``(B, C, *spatial)``, float32."""
        total: Tensor | None = None
        for member in self.members:
            probs = torch.softmax(member(x).float(), dim=1)
            total = probs if total is None else total + probs
        assert total is not None
        mean = total / len(self.members)
        return mean.clamp_min(torch.finfo(mean.dtype).tiny).log()
