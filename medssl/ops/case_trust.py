"""Which unlabeled scans to trust, by what networks say of their patches; no label is needed.

A scan of another kind gives itself away in four ways: a teacher is sure of little that it finds
there, the student does not find the same, what is found is not what is found in other scans, and
the network's features are far from those of every labeled scan. The last does not depend on how
well anything is found, so it tells most while the network is weak.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FIXED = 6
"""Columns of a table before those of the classes: patches, voxels, structure, sure, both, each."""
LEAST = 4
"""Patches of a scan that have to be seen before anything is said of it."""
FLOOR = 0.2
"""A scan that is trusted less than this is left out."""
STEEP = 4
"""Power of the median distance over a scan's own: twice as far as the median counts a sixteenth."""
FAR = 10.0
"""Most spreads from the median that one feature counts, so that none decides alone."""


def tally(first: Tensor, second: Tensor, kept: Tensor, classes: int) -> Tensor:
    """Count what two networks find in each patch.

    Args:
        first: the teacher's labels ``(B, *spatial)``.
        second: the student's.
        kept: boolean ``(B, *spatial)``, where the teacher is believed.
        classes: K, background included.

    Returns:
        float32 ``(B, 6 + K - 1)``: one patch; its voxels; those where either finds a structure; of
        these, those that are kept; twice those where both find the same; those of the first and of
        the second; and those of the first by structure.
    """
    either = (first > 0) | (second > 0)
    same = (first == second) & (first > 0)
    one = torch.ones_like(kept)
    counted = [one, either, either & kept, same, first > 0, second > 0]
    counted += [first == k for k in range(1, classes)]
    voxels, structure, sure, both, mine, other, *by_class = [
        each.flatten(1).sum(1).float() for each in counted
    ]
    rows = [torch.ones_like(voxels), voxels, structure, sure, 2 * both, mine + other, *by_class]
    return torch.stack(rows, dim=1)


def remembered_cases(table: Tensor, new: Tensor, case: Tensor, decay: float) -> Tensor:
    """Take patches into a table of scans ``(U, columns)``; those not seen stay as they are.

    Args:
        table: of before.
        new: ``(B, columns)``, see :func:`tally`.
        case: ``(B,)`` rows of the patches' scans.
        decay: what a scan keeps of its past; the number of patches forgets nothing.
    """
    added = torch.zeros_like(table).index_add(0, case, new)
    kept = torch.cat([table[:, :1], decay * table[:, 1:]], dim=1)
    return torch.where(added[:, :1] > 0, kept + added, table)


def pooled(features: Sequence[Tensor]) -> Tensor:
    """Describe each patch by the mean and standard deviation of each channel.

    Args:
        features: of levels of a network, ``(B, C_i, *spatial_i)`` each.

    Returns:
        float32 ``(B, 2 + 2 sum(C_i))``, two columns of ones first: counts of patches, one that
        forgets nothing and one that forgets with the features, see :func:`remembered_cases`.
    """
    flat = [level.float().flatten(2) for level in features]
    described = [each for f in flat for each in (f.mean(2), f.std(2, unbiased=False))]
    return torch.cat([described[0].new_ones(len(described[0]), 2), *described], dim=1)


def familiarity(unlabeled: Tensor, labeled: Tensor) -> Tensor:
    """Return how near each unlabeled scan is to the nearest labeled one, in [0, 1].

    Distances are Euclidean, each feature in units of its spread (1.4826 times the median absolute
    deviation) around the median of all scans, at most :data:`FAR` of them. The nearest labeled scan
    counts, not their mean, so that labeled scans of two kinds make both familiar. A scan at the
    median of the distances or nearer has 1, others fall with the fourth power; a scan of which too
    little is known has 1.

    Args:
        unlabeled: remembered rows of :func:`pooled`, ``(U, 2 + F)``.
        labeled: the same, ``(L, 2 + F)``.

    Source: a deep nearest-neighbor score (Sun et al., "Out-of-distribution detection with deep
    nearest neighbors", ICML 2022) on channel statistics, with a robust unit in place of a norm.
    """
    known, shown = unlabeled[:, 0] >= LEAST, labeled[:, 0] > 0
    ours, theirs = (rows[:, 2:] / rows[:, 1:2].clamp(min=1e-12) for rows in (unlabeled, labeled))
    everyone, there = torch.cat([ours, theirs]), torch.cat([known, shown])
    off = everyone - (middle := _median(everyone, there))
    unit = (1.4826 * _median(off.abs(), there)).clamp(min=1e-6) + 1e-3 * middle.abs()
    ours, theirs = (off / unit).clamp(-FAR, FAR).split([len(ours), len(theirs)])
    apart = torch.cdist(ours, theirs, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = torch.where(shown, apart, torch.inf).amin(1)
    usual = _median(nearest, known).clamp(min=1e-12)
    near = (usual / nearest.clamp(min=1e-12)).clamp(max=1) ** STEEP
    return torch.where(known & shown.any(), near, 1.0)


def figures(table: Tensor, familiar: Tensor | None = None) -> dict[str, Tensor]:
    """Return what a table says of each scan, ``(U,)`` each, in [0, 1].

    ``believed`` is the share of what is found in it that the teacher is sure of; ``agreement`` the
    Dice of teacher and student; ``likeness`` the volume of all structures that it shares with the
    median scan, by all that either has (Ruzicka); ``familiar`` what is given, see
    :func:`familiarity`; ``score`` the geometric mean of the first three, which say the same
    in three ways, times the last; ``trust`` the score over that of the median scan, at most 1, and
    0 below :data:`FLOOR`. Of a scan of fewer than :data:`LEAST` patches the last alone counts, and
    of all while nothing is found in half of them.
    """
    patches, voxels, structure, sure, both, each = table[:, :FIXED].unbind(1)
    known = patches >= LEAST
    believed, agreement = sure / structure.clamp(min=1), both / each.clamp(min=1)
    volume = table[:, FIXED:] / voxels.clamp(min=1).unsqueeze(1)
    typical = _median(volume, known)
    shared = torch.minimum(volume, typical).sum(1)
    likeness = shared / torch.maximum(volume, typical).sum(1).clamp(min=1e-12)
    near = torch.ones_like(patches) if familiar is None else familiar
    score = (believed * agreement * likeness) ** (1 / 3) * near
    usual = _median(score, known)
    trust = (score / usual.clamp(min=1e-12)).clamp(max=1)
    trust = torch.where(known & (usual > 0), trust, near)
    trust = torch.where(trust < FLOOR, 0.0, trust)
    found = {"believed": believed, "agreement": agreement, "likeness": likeness, "familiar": near}
    return {"trust": trust, "score": score, **found, "patches": patches}


def _median(values: Tensor, known: Tensor) -> Tensor:
    """Return the lower median over the rows that are known, 0 of none."""
    row = known.view(-1, *[1] * (values.ndim - 1))
    ordered = torch.where(row, values, torch.inf).sort(dim=0).values
    middle = ((known.sum() - 1) // 2).clamp(min=0)
    return torch.where(known.any(), ordered.index_select(0, middle.view(1))[0], 0.0)


def prior_step(prior: Tensor, probs: Tensor, label: Tensor, decay: float) -> Tensor:
    """Estimate how frequent classes are in unlabeled patches, one step of EM further.

    Args:
        prior: ``(2, K)``, of labels and of unlabeled patches so far.
        probs: ``(B, K, *spatial)`` probabilities of unlabeled patches, by a network that learned
            from labels as frequent as these.
        label: ``(B, *spatial)`` labels, 255 where there is none.
        decay: what both keep of their past.

    Source: Saerens et al., "Adjusting the outputs of a classifier to new a priori probabilities"
    (Neural Computation 14, 2002), eq. 2.9, one step on each batch.
    """
    classes = probs.shape[1]
    shares = torch.stack([(label == k).sum() for k in range(classes)]).float()
    seen = shares.sum()
    shares = torch.where(seen > 0, shares / seen.clamp(min=1), prior[0])
    ratio = (prior[1] / prior[0].clamp(min=1e-6)).view(1, classes, *[1] * (probs.ndim - 2))
    weighed = probs * ratio
    weighed = weighed / weighed.sum(1, keepdim=True).clamp(min=1e-12)
    found = weighed.transpose(0, 1).flatten(1).mean(1)
    return decay * prior + (1 - decay) * torch.stack([shares, found])


def prior_shift(prior: Tensor) -> Tensor:
    """Return how far the shares of structures differ, background apart: half the sum of absolute
    differences, 0 to 1; with one structure it is 0.
    """
    shares = prior[:, 1:] / prior[:, 1:].sum(1, keepdim=True).clamp(min=1e-12)
    return (shares[0] - shares[1]).abs().sum() / 2
