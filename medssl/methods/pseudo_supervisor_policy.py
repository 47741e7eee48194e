"""The policy of the pseudo supervisor: its actions, its network, and how actions are drawn.

The method is in :mod:`medssl.methods.pseudo_supervisor`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from medssl.ops.moving import to_device
from medssl.ops.policy import sample_actions

THRESHOLDS = (0.5, 0.7, 0.9, 0.95, float("inf"))
"""What the actions mean; the last drops the class."""
DROP = len(THRESHOLDS) - 1
FIXED = {"always_0.5": 0, "always_0.95": 3}
HIDDEN = 32


class ThresholdPolicy(nn.Module):
    """Map a patch's description ``(B, F)`` to logits of its thresholds ``(B, C, 5)``.

    The last layer starts at zero: at first all actions are equally likely.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.features = 5 * num_classes + 2
        last = nn.Linear(HIDDEN, num_classes * len(THRESHOLDS))
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
        return out.unflatten(-1, (self.num_classes, len(THRESHOLDS)))


def draw_actions(logits: Tensor, rng: np.random.RandomState) -> Tensor:
    """Draw an action per patch and class.

    Args:
        logits: ``(B, C, A)``.
        rng: gives one uniform number per patch and class.

    Returns:
        int64 ``(B, C)`` in ``[0, A)``.
    """
    drawn = rng.random_sample(tuple(logits.shape[:2]))
    uniform = to_device(torch.from_numpy(drawn).to(logits.dtype), logits.device)
    return sample_actions(torch.log_softmax(logits, dim=-1), uniform)
