"""The policy of a method that chooses one of a few actions per patch and class."""

from __future__ import annotations

import torch
from torch import Tensor, nn

HIDDEN = 32


class ThresholdPolicy(nn.Module):
    """Map a patch's description ``(B, F)`` to logits of its actions ``(B, C, A)``.

    The last layer starts at zero: at first all actions are equally likely.
    """

    def __init__(self, num_classes: int, *, actions: int) -> None:
        super().__init__()
        self.shape = (num_classes, actions)
        self.features = 5 * num_classes + 2
        last = nn.Linear(HIDDEN, num_classes * actions)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(
            nn.Linear(self.features, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(),
            last,
        )

    def forward(self, description: Tensor) -> Tensor:
        """Compute the logits in float32, whatever the autocast."""
        with torch.autocast(description.device.type, enabled=False):
            out = self.layers(description.float())
        return out.unflatten(-1, self.shape)
