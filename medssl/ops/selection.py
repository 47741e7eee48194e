"""Which pseudo-labels count, and how much: rules on a histogram of confidence by predicted class.

The histogram ``(K, 64)`` is all that is remembered of earlier iterations, and every rule is a
function of it: no store of scores, nothing that waits for the host, the same on any number of
processes. A rule gives two confidences per class, ``(K, 2)``: a voxel below the lower one does not
count, one from the upper one on counts fully, one between counts as much as it is confident. A
class that was not seen yet has NaN, and :func:`levels_or` puts a threshold in its place.

No rule depends on the histogram's scale: ``h`` and ``10 h`` give the same levels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BINS = 64
"""Bins of confidence in [0, 1]; the middle of bin b is ``(b + 1/2) / 64``."""


def bin_centres(device: torch.device | str | None = None) -> Tensor:
    """Return the middle of each bin, ``(64,)`` float32."""
    return (torch.arange(BINS, device=device, dtype=torch.float32) + 0.5) / BINS


def class_histogram(confidence: Tensor, label: Tensor, classes: int) -> Tensor:
    """Count voxels by predicted class and confidence.

    Args:
        confidence: ``(B, *spatial)`` in [0, 1].
        label: ``(B, *spatial)`` class indices; 255 is not counted.
        classes: K, background included.

    Returns:
        float32 ``(K, 64)``.
    """
    place = (confidence.float() * BINS).long().clamp_(0, BINS - 1)
    known = label < classes
    index = torch.where(known, label, 0) * BINS + place
    flat = torch.zeros(classes * BINS, device=label.device)
    flat.scatter_add_(0, index.flatten(), known.flatten().float())
    return flat.view(classes, BINS)


def remembered(old: Tensor, new: Tensor, decay: float) -> Tensor:
    """Return ``decay old + (1 - decay) new``."""
    return decay * old + (1.0 - decay) * new


def mean_of(histogram: Tensor) -> Tensor:
    """Return the mean confidence of each row ``(K, 64)``, ``(K,)``; NaN of an empty one."""
    return (histogram * bin_centres(histogram.device)).sum(-1) / histogram.sum(-1)


def variance_of(histogram: Tensor) -> Tensor:
    """Return the variance of confidence of each row ``(K, 64)``, ``(K,)``; NaN of an empty one."""
    apart = bin_centres(histogram.device) - mean_of(histogram).unsqueeze(-1)
    return (histogram * apart.square()).sum(-1) / histogram.sum(-1)


def scaled_by_class(overall: Tensor, by_class: Tensor) -> Tensor:
    """Return ``overall by_class / max by_class``: classes that are less sure have less to reach.

    Args:
        overall: the threshold of the surest class, a scalar.
        by_class: ``(K,)`` mean confidence or frequency of each class, NaN of an unseen one.

    Source: Wang et al., FreeMatch (ICLR 2023, arXiv 2205.07246), eq. 8.
    """
    return overall * by_class / torch.nan_to_num(by_class, nan=0.0).amax()


def adaptive(histogram: Tensor) -> Tensor:
    """Let each class reach the mean confidence of all voxels, less where it is less sure itself.

    FreeMatch's rule with the mean confidence of the voxels that are *predicted* as a class in place
    of the class's mean probability, which of voxels is its frequency: a structure of 2 % would have
    no threshold at all.

    Args:
        histogram: ``(K, 64)``.

    Returns:
        ``(K, 2)``, both levels equal.
    """
    return _alike(scaled_by_class(mean_of(histogram.sum(0)), mean_of(histogram)))


def two_means(histogram: Tensor, *, steps: int = 10) -> Tensor:
    """Return the centres of two clusters of confidence per class, the lower one first.

    Args:
        histogram: ``(K, 64)``.
        steps: of k-means, which starts at the least and the largest confidence that was seen.

    Returns:
        ``(K, 2)``; equal for a class of one bin.

    Source: Liu et al., HSSDA (CVPR 2023), whose code takes the centres, too.
    """
    low, high = _extremes(histogram)
    centres = bin_centres(histogram.device)
    for _ in range(steps):
        upper = (centres - low).abs() > (centres - high).abs()
        mass = torch.stack([histogram * ~upper, histogram * upper])
        mean = (mass * centres).sum(-1, keepdim=True) / mass.sum(-1, keepdim=True)
        # A class of one bin has no upper cluster.
        low, high = mean[0], torch.where(mean[1].isnan(), mean[0], mean[1])
    return torch.cat([low, high], dim=1)


def two_normals(
    histogram: Tensor, *, steps: int = 20, variance: float = 0.05, floor: float = 1e-4
) -> tuple[Tensor, Tensor, Tensor]:
    """Fit two normal distributions to each class's confidence by expectation-maximization.

    Args:
        histogram: ``(K, 64)``.
        steps: how many, always.
        variance: of both at the start; their means start at the least and the largest confidence.
        floor: least variance.

    Returns:
        Means, variances and shares, ``(K, 2)`` each, the lower mean first.
    """
    centres = bin_centres(histogram.device)
    share_of_bin = (histogram / histogram.sum(-1, keepdim=True)).unsqueeze(1)
    mean = torch.cat(_extremes(histogram), dim=1)
    spread = torch.full_like(mean, variance)
    share = torch.full_like(mean, 0.5)
    for _ in range(steps):
        belongs = torch.softmax(_log_density(centres, mean, spread, share), dim=1) * share_of_bin
        share = belongs.sum(-1)
        weight = share.clamp_min(1e-12)
        mean = (belongs * centres).sum(-1) / weight
        apart = (centres - mean.unsqueeze(-1)).square()
        spread = ((belongs * apart).sum(-1) / weight).clamp_min(floor)
    order = mean.argsort(dim=1)
    return mean.gather(1, order), spread.gather(1, order), share.gather(1, order)


def gmm_peak(histogram: Tensor) -> Tensor:
    """Return the mean of the surer of two normal distributions per class, as both levels.

    Args:
        histogram: ``(K, 64)``.

    Returns:
        ``(K, 2)``.

    Source: Wang et al., Consistent-Teacher (CVPR 2023), the rule; its code stops the fit before it
    has found the modes.
    """
    return _alike(two_normals(histogram)[0][:, 1])


def gmm_valley(histogram: Tensor) -> Tensor:
    """Return where the density of two normal distributions is least between their means.

    The peak of the sure ones drops half of the sure voxels; the valley parts them from the others.

    Args:
        histogram: ``(K, 64)``.

    Returns:
        ``(K, 2)``, both levels equal; the upper mean where no bin lies between.
    """
    mean, spread, share = two_normals(histogram)
    centres = bin_centres(histogram.device)
    density = torch.logsumexp(_log_density(centres, mean, spread, share), dim=1)
    between = (centres > mean[:, :1]) & (centres < mean[:, 1:])
    lowest = torch.where(between, density, math.inf).argmin(dim=1)
    return _alike(torch.where(between.any(dim=1), centres[lowest], mean[:, 1]))


def reliable_threshold(right: Tensor, wrong: Tensor, target: float) -> Tensor:
    """Return the least confidence from which on labels are right often enough, per class.

    Args:
        right: ``(K, 64)`` histogram of voxels whose label is right.
        wrong: ``(K, 64)`` of those whose label is wrong.
        target: share of right ones among all from the threshold on.

    Returns:
        ``(K, 2)``, both levels the lower edge of a bin; 1 where no threshold is good enough, and
        NaN of a class without voxels.
    """
    good = right.flip(-1).cumsum(-1).flip(-1)
    all_ = good + wrong.flip(-1).cumsum(-1).flip(-1)
    reached = (good >= target * all_) & (all_ > 0)
    edges = torch.arange(BINS, device=right.device, dtype=torch.float32) / BINS
    least = torch.where(reached, edges, 1.0).amin(-1)
    return _alike(torch.where(all_[:, 0] > 0, least, math.nan))


def otsu(values: Tensor, mass: Tensor) -> Tensor:
    """Return the value that parts others best: the largest variance between below and above.

    Args:
        values: ``(N,)`` of any order, such as the middles of bins or a figure of each scan.
        mass: ``(..., N)``, how often each is there; what is not there at all may be NaN.

    Returns:
        ``(...)``: the largest value that is still below; NaN where no two values differ.

    Source: Otsu (IEEE Trans. SMC 9, 1979), as Gui et al., SAA (ICCV 2023), part naive samples.
    """
    order = torch.nan_to_num(values, nan=math.inf).argsort()
    ordered, weight = torch.nan_to_num(values[order]), mass[..., order]
    below, moment = weight.cumsum(-1), (weight * ordered).cumsum(-1)
    above, whole = below[..., -1:] - below, moment[..., -1:]
    apart = moment / below - (whole - moment) / above
    # Between equal values there is no cut: what is equal is on one side.
    cuts = (ordered.diff(append=ordered[-1:]) > 0) & (below > 0) & (above > 0)
    spread = torch.where(cuts, below * above * apart.square(), -1.0)
    best = ordered.expand_as(spread).gather(-1, spread.argmax(-1, keepdim=True))
    return torch.where(cuts.any(-1), best.squeeze(-1), math.nan)


def levels_or(levels: Tensor, threshold: float) -> Tensor:
    """Return levels ``(K, 2)`` with a threshold for the classes that have none yet."""
    return torch.nan_to_num(levels, nan=threshold)


def voxel_weight(confidence: Tensor, label: Tensor, levels: Tensor) -> Tensor:
    """Weigh voxels: 0 below the lower level of their class, 1 from the upper on, else confidence.

    Args:
        confidence: ``(B, *spatial)``.
        label: ``(B, *spatial)`` class indices; one of 255 has weight 0.
        levels: ``(K, 2)``.

    Returns:
        float32 ``(B, *spatial)`` in [0, 1].
    """
    known = label < len(levels)
    low, high = levels[torch.where(known, label, 0)].unbind(-1)
    sure = torch.where(confidence >= high, 1.0, confidence.float())
    return torch.where(known & (confidence >= low), sure, 0.0)


def normal_weight(
    confidence: Tensor, mean: Tensor, variance: Tensor, *, sigmas: float = 2
) -> Tensor:
    """Weigh voxels that are less sure than the mean by a normal distribution, others by 1.

    ``exp(-min(c - mean, 0)^2 / (2 variance / sigmas^2))``.

    Args:
        confidence: any shape.
        mean: of confidence, broadcastable to it.
        variance: of confidence, broadcastable to it; that of nearly nothing counts as 1e-8.
        sigmas: how many standard deviations are one of the distribution.

    Source: Chen et al., SoftMatch (ICLR 2023, arXiv 2301.10921), eq. 7, and its code's ``n_sigma``.
    """
    below = (confidence.float() - mean).clamp_max(0)
    return torch.exp(-below.square() / (2 * variance.clamp_min(1e-8) / sigmas**2))


def _alike(level: Tensor) -> Tensor:
    return torch.stack([level, level], dim=1)


def _extremes(histogram: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least and the largest confidence that was seen, ``(K, 1)`` each, or NaN."""
    centres, seen = bin_centres(histogram.device), histogram > 0
    low = torch.where(seen, centres, math.inf).amin(-1, keepdim=True)
    high = torch.where(seen, centres, -math.inf).amax(-1, keepdim=True)
    empty = ~seen.any(-1, keepdim=True)
    return torch.where(empty, math.nan, low), torch.where(empty, math.nan, high)


def _log_density(centres: Tensor, mean: Tensor, variance: Tensor, share: Tensor) -> Tensor:
    """Return the logarithm of each part's density at the bins, ``(K, 2, 64)``."""
    apart = (centres - mean.unsqueeze(-1)).square()
    wide = variance.unsqueeze(-1)
    return share.clamp_min(1e-12).log().unsqueeze(-1) - 0.5 * (apart / wide + wide.log())
