"""Weights of a consistency loss: how far a prediction is from a plausible one, or from certain.

Pure functions that keep float64 and compute everything else in float32.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from medssl.ops.losses import IGNORE_INDEX, TINY, one_hot, weighted_mean
from medssl.ops.pseudo_labels import hard_labels
from medssl.ops.ramps import sigmoid_ramp
from medssl.ops.ranking import auroc
from medssl.ops.uncertainty import predictive_entropy
from medssl.ops.variants import Deviation, Normalizer, Reduction, Weighting


def probabilities(logits: Tensor, output: Literal["softmax", "sigmoid"] = "softmax") -> Tensor:
    """Turn logits ``(B, C, *spatial)`` into probabilities, in float32 or better."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return torch.softmax(logits, dim=1) if output == "softmax" else torch.sigmoid(logits)


def deviation(
    plausible: Tensor,
    probs: Tensor,
    *,
    kind: Deviation = "squared",
    reduction: Reduction = "sum",
) -> Tensor:
    """Measure how far a prediction is from the plausible segmentation nearest to it.

    Args:
        plausible: ``(B, C, *spatial)`` probabilities of the autoencoder.
        probs: ``(B, C, *spatial)`` probabilities of the teacher.
        kind: ``squared`` or ``abs`` difference, or ``entropy`` of ``plausible`` alone. ``apart``
            adds the squared distances of ``plausible`` and of ``probs`` from the hard segmentation
            ``h`` of ``probs``. In ``squared`` they cancel, 2 (q - h)(h - p) too small: where both
            are equally unsure, it is 0, which calls a voxel certain that nobody is sure of.
        reduction: over classes; ``per_class`` keeps them. An entropy is a sum already.

    Returns:
        ``(B, C or 1, *spatial)``, 0 where there is no deviation.

    Source: Adiga V et al., MICCAI 2022: ``sum`` of squares in the paper, ``per_class`` in the code;
    ``apart`` is this package's.
    """
    if kind == "entropy":
        return predictive_entropy(plausible).unsqueeze(1)
    if kind == "apart":
        hard = one_hot(hard_labels(probs), probs.shape[1]).to(probs.dtype)
        values = (plausible - hard).square() + (hard - probs).square()
    else:
        difference = plausible - probs
        values = difference.square() if kind == "squared" else difference.abs()
    if reduction == "per_class":
        return values
    if reduction == "max":
        return values.amax(dim=1, keepdim=True)
    total = values.sum(dim=1, keepdim=True)
    return total if reduction == "sum" else total / values.shape[1]


def certainty(
    uncertainty: Tensor, *, kind: Weighting = "exp", gamma: float = 1.0, threshold: float = 0.5
) -> Tensor:
    """Turn an uncertainty into a weight: ``exp(-gamma U)``, ``U < threshold``, or 1."""
    if kind == "exp":
        return torch.exp(-gamma * uncertainty)
    if kind == "threshold":
        return (uncertainty < threshold).to(uncertainty.dtype)
    return torch.ones_like(uncertainty)


def entropy_threshold(
    iteration: int, length: float, *, num_classes: int = 2, start: float = 0.75
) -> float:
    """Return UA-MT's threshold in nats: rising from ``start`` times log C to log C.

    Args:
        iteration: 0-based.
        length: iterations until the threshold lets everything pass.
        num_classes: C; log C is the largest entropy there is. The published code takes log 2
            whatever the number of classes.
        start: share of log C in the beginning (more by the foot of the ramp, exp(-5)).

    Source: Yu et al., UA-MT, MICCAI 2019, and its published code.
    """
    return (start + (1 - start) * sigmoid_ramp(iteration, length)) * math.log(num_classes)


def weighted_consistency(
    student_logits: Tensor,
    teacher_logits: Tensor,
    weight: Tensor | None = None,
    *,
    normalizer: Normalizer = "mean",
) -> Tensor:
    """Compute the weighted squared difference ``d`` of two softmax outputs.

    No gradient reaches the teacher. Everything masked out gives zero.

    Args:
        student_logits: ``(B, C, *spatial)``.
        teacher_logits: the same shape.
        weight: ``w``, ``(B, C or 1, *spatial)``; None is 1 everywhere.
        normalizer: ``mean`` is the weighted mean over voxels and classes, the scale of a plain mean
            teacher; ``poster`` sums over classes, C times as much; ``official`` is
            ``sum(w d) / (2 sum(w))``, which is the mean for a weight per voxel and two classes and
            half of it for a weight per voxel and class.

    Source: Adiga V et al., MICCAI 2022; ``official`` as inherited from UA-MT's code.
    """
    squared = (probabilities(student_logits) - probabilities(teacher_logits.detach())).square()
    if normalizer == "official":
        weight = torch.ones_like(squared) if weight is None else weight.to(squared.dtype)
        return (weight * squared).sum() / (2 * weight.sum() + TINY)
    mean = weighted_mean(squared, weight)
    return mean * squared.shape[1] if normalizer == "poster" else mean


def error_auroc(uncertainty: Tensor, predicted: Tensor, label: Tensor) -> Tensor:
    """Compute how well an uncertainty finds the voxels that are wrongly predicted.

    Args:
        uncertainty: ``(B, C or 1, *spatial)``; summed over its channels.
        predicted: ``(B, *spatial)`` classes.
        label: ``(B, *spatial)`` true classes; voxels of 255 do not count.

    Returns:
        The mean over samples of their AUROC, a float64 scalar. Samples without an error, or without
        a right voxel, are left out; NaN if all are.
    """
    values = uncertainty.sum(dim=1)
    areas = []
    for value, guess, truth in zip(values, predicted, label, strict=True):
        known = truth != IGNORE_INDEX
        areas.append(auroc(value[known], (guess != truth)[known]))
    return torch.stack(areas).nanmean()
