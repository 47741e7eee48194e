"""Deep supervision: a network that also predicts at coarser scales, and losses over all of them.

In training such a network returns :class:`Outputs` in place of logits; in eval mode (teachers,
validation, prediction) it returns the logits of full resolution alone. Losses of labels take either
(:mod:`medssl.ops.losses`); whatever else looks at a prediction takes :func:`finest`.

Labels are mixed at full resolution and then made smaller by keeping one voxel of each block, so
that class, ignore index and regions of a coarse voxel are those of one voxel, and belong together.

Source: weights and scales as in nnU-Net (Isensee et al. 2021): 1, 1/2, 1/4, ... to a sum of 1; its
lowest scale, of weight 0, is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Outputs:
    """Logits of one batch at several scales.

    A slice or a division of it is one of the batch, as with a tensor.

    Attributes:
        scales: ``(B, C, *spatial_i)``, the finest first; sides of the finest are multiples of those
            of the others.
    """

    scales: tuple[Tensor, ...]

    def __len__(self) -> int:
        """Return the number of patches."""
        return len(self.scales[0])

    def __getitem__(self, rows: slice) -> Outputs:
        """Return some patches."""
        return self.each(lambda x: x[rows])

    def each(self, change: Callable[[Tensor], Tensor]) -> Outputs:
        """Return what ``change`` makes of each scale."""
        return Outputs(tuple(change(x) for x in self.scales))

    def split(self, sizes: Sequence[int]) -> list[Outputs]:
        """Divide the patches into parts of these sizes."""
        parts = zip(*(x.split(list(sizes)) for x in self.scales), strict=True)
        return [Outputs(part) for part in parts]

    def chunk(self, count: int) -> list[Outputs]:
        """Divide the patches into so many parts."""
        return [Outputs(part) for part in zip(*(x.chunk(count) for x in self.scales), strict=True)]


Prediction = Tensor | Outputs
"""Logits ``(B, C, *spatial)``, or those of several scales."""


def finest(prediction: Prediction) -> Tensor:
    """Return the logits of full resolution, ``(B, C, *spatial)``."""
    return prediction.scales[0] if isinstance(prediction, Outputs) else prediction


def joined(predictions: Sequence[Prediction]) -> Prediction:
    """Put the batches of several predictions together."""
    several = [p.scales for p in predictions if isinstance(p, Outputs)]
    if not several:
        return torch.cat([finest(p) for p in predictions])
    return Outputs(tuple(torch.cat(scale) for scale in zip(*several, strict=True)))


def scale_weights(count: int) -> list[float]:
    """Return the weights of ``count`` scales, the finest first: 1, 1/2, 1/4, ... to a sum of 1."""
    total = 2 - 0.5 ** (count - 1)
    return [0.5**i / total for i in range(count)]


def shrink(volume: Tensor, size: Sequence[int]) -> Tensor:
    """Keep the middle voxel (of an even number the upper one) of each block; a view.

    Args:
        volume: ``(..., *spatial)``: labels, weights, regions, probabilities.
        size: voxels per axis to keep, divisors of the volume's.
    """
    for axis, kept in enumerate(size, start=volume.ndim - len(size)):
        step = volume.shape[axis] // kept
        if step > 1:
            index = [slice(None)] * volume.ndim
            index[axis] = slice(step // 2, None, step)
            volume = volume[tuple(index)]
    return volume


def over_scales(
    loss: Callable[..., Tensor], prediction: Prediction, *volumes: Tensor | None
) -> Tensor:
    """Compute the weighted mean of a loss over the scales of a prediction.

    Args:
        loss: of logits ``(B, C, *spatial)`` and the ``volumes``, a scalar or several.
        prediction: logits, for which this is ``loss`` itself, or those of several scales.
        volumes: labels, weights and the like of full resolution, ``(B, ..., *spatial)``; None
            stays None.
    """
    if isinstance(prediction, Tensor):
        return loss(prediction, *volumes)
    values = []
    weights = scale_weights(len(prediction.scales))
    for weight, logits in zip(weights, prediction.scales, strict=True):
        size = logits.shape[2:]
        smaller = [None if volume is None else shrink(volume, size) for volume in volumes]
        values.append(weight * loss(logits, *smaller))
    return torch.stack(values).sum(0)
