"""Updates of several sites made one: means and robust means, weights, lengths. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Literal

import torch
from torch import Tensor

RECENT = 3
"""Rounds whose accepted updates say how long an update usually is."""
_LEAST = 3
"""So many updates of one round say it where there was no round before."""


def site_weights(
    rule: Literal["iterations", "labeled"], figures: Mapping[str, Mapping[str, int]]
) -> dict[str, float]:
    """Return the weight of each site in the mean; they add up to 1.

    Args:
        rule: ``iterations``: by the iterations of the round, so equal where all train alike; those
            of a site without labels count as its guesses do, less at first. ``labeled``: sites that
            have labels share among them, by labeled patients, what they would have if all sites
            were equal; a site without labels has its equal share, less at first as well. (By
            patients alone it would have none, and what it learned would be lost.)
        figures: of each site, ``iterations`` and ``labeled_patients``.
    """
    done = {site: float(max(f.get("iterations", 0), 0)) for site, f in figures.items()}
    if rule == "iterations":
        counts = done
    else:
        patients = {site: max(f.get("labeled_patients", 0), 0) for site, f in figures.items()}
        total, sites = sum(patients.values()), sum(n > 0 for n in patients.values())
        most = max(done.values(), default=0.0) or 1.0
        counts = {s: n * sites / total if n else done[s] / most for s, n in patients.items()}
    whole = sum(counts.values())
    if whole == 0:
        return {site: 1 / len(counts) for site in counts}
    return {site: count / whole for site, count in counts.items()}


def averaged(
    tensors: Sequence[Tensor],
    weights: Sequence[float],
    how: Literal["mean", "median", "trimmed"] = "mean",
    trim: float = 0.2,
) -> Tensor:
    """Return one tensor of several; computed in float64, so that one alone comes back as it was.

    Args:
        tensors: of the same shape.
        weights: of the mean (FedAvg, McMahan et al., 2017); the others, which are to bear a site
            that lies (Yin et al., 2018, definitions 1 and 2), take no weights.
        how: mean, median of each number, or its mean without the smallest and the largest.
        trim: the share that is left out on each side; rounded down to whole sites.
    """
    stacked = torch.stack([tensor.double() for tensor in tensors])
    if how == "mean":
        share = torch.tensor(weights, dtype=torch.float64)
        share = share.view(-1, *[1] * (stacked.ndim - 1))
        return ((stacked * share).sum(0) / share.sum()).to(tensors[0].dtype)
    count = len(tensors)
    left = (count - 1) // 2 if how == "median" else math.floor(trim * count)
    kept = stacked.sort(0).values[left : count - left]
    return kept.mean(0).to(tensors[0].dtype)


def length(tensors: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> float:
    """Return the Euclidean length of an update: how far it went from its base."""
    squares = [(tensors[n].double() - base[n].double()).square().sum() for n in base]
    return math.sqrt(float(sum(squares)))


def too_long(
    lengths: Mapping[str, float], before: Sequence[Sequence[float]], limit: float
) -> dict[str, str]:
    """Return which sites' updates are refused for their length, and why.

    Args:
        lengths: of this round's updates, by site.
        before: those that were accepted, round by round.
        limit: times the median of the last ``RECENT`` rounds; in the first round times the median
            of its own updates, if there are three or more.
    """
    usual = [value for one in before[-RECENT:] for value in one]
    if not before and len(lengths) >= _LEAST:
        usual = list(lengths.values())
    if not usual or median(usual) == 0:
        return {}
    middle = median(usual)
    return {
        site: f"its length {value:.3g} is more than {limit:g} times the usual {middle:.3g}"
        for site, value in lengths.items()
        if not value <= limit * middle
    }
