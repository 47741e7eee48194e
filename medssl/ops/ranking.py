"""How well a score ranks what is true above what is not."""

from __future__ import annotations

import torch
from torch import Tensor


def auroc(score: Tensor, positive: Tensor) -> Tensor:
    """Compute the area under the ROC curve, exactly, from ranks.

    It is the probability that a random positive has a higher score than a random negative, a tie
    counting half: 1 where the score separates them, 0.5 where it knows nothing.

    Args:
        score: any shape; larger means positive.
        positive: boolean, the same shape.

    Returns:
        float64 scalar in [0, 1]; NaN without a positive or without a negative.

    Raises:
        ValueError: the shapes differ.

    Source: Mann and Whitney (1947); Hanley and McNeil, Radiology 1982.
    """
    if score.shape != positive.shape:
        raise ValueError(f"one score per item: {tuple(score.shape)} and {tuple(positive.shape)}")
    flags = positive.flatten().bool()
    values, place = torch.unique(score.detach().flatten(), return_inverse=True)
    # Counts are integers far below 2^53: sums of float64 are exact.
    counts = torch.zeros(2, len(values), dtype=torch.float64, device=score.device)
    ones = torch.ones(len(place), dtype=torch.float64, device=score.device)
    counts[1].index_add_(0, place[flags], ones[flags])
    counts[0].index_add_(0, place[~flags], ones[~flags])
    negatives, positives = counts
    below = negatives.cumsum(0) - negatives
    won = (positives * (below + 0.5 * negatives)).sum()
    return won / (positives.sum() * negatives.sum())
