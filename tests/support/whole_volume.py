"""All class probabilities of an image at once, as the blocks of prediction put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from medssl.inference.blocks import probability_blocks
from medssl.inference.windows import (
    Predict,
    WindowProgress,
    Windows,
    as_slices,
    stride_from_overlap,
)


def windows_of(
    patch: Sequence[int],
    stride: Sequence[int] | None = None,
    *,
    overlap: float = 0.5,
    **options: Any,
) -> Windows:
    """Return windows whose stride is given, or follows from the share that neighbors repeat."""
    stride = stride_from_overlap(patch, overlap) if stride is None else stride
    return Windows(tuple(patch), tuple(stride), **options)


def sliding_window(
    image: Tensor,
    predict: Predict,
    *,
    slice_axis: int | None = None,
    progress: WindowProgress | None = None,
    **options: Any,
) -> Tensor:
    """Return the mean class probabilities ``(K, *S)`` of overlapping windows.

    Args:
        image: ``(C, *S)``.
        slice_axis: axis across the slices of a volume that a 2D network predicts one by one.
        options: as for :func:`windows_of`.
    """
    windows = windows_of(**options)
    if slice_axis is not None:
        predict, windows = as_slices(predict, windows, slice_axis)
    parts = list(probability_blocks(image, predict, windows, progress=progress))
    result = torch.empty(parts[0][1].shape[0], *image.shape[1:])
    for where, block in parts:
        result[(slice(None), *where)] = block
    return result
