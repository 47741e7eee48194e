"""Dropout of whole channels that two views of a patch share out between them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def complementary_masks(
    count: int, channels: int, rng: np.random.RandomState, *, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Draw factors for the channels of two views: what one loses, the other has twice.

    Args:
        count: B, patches. A half of them, rounded down, keeps all channels in both views.
        channels: C.
        rng: draws channels, each with probability 1/2, then the patches that keep all.
        device: of the masks.

    Returns:
        Two float32 ``(B, C)`` of values 0, 1 and 2, that add up to 2.

    Source: Yang et al., UniMatch V2 (TPAMI 2025, arXiv 2410.10777), published code.
    """
    first = 2.0 * rng.randint(0, 2, size=(count, channels))
    first[rng.permutation(count)[: count // 2]] = 1.0
    mask = torch.from_numpy(first).float().to(device, non_blocking=True)
    return mask, 2.0 - mask
