"""Sliding-window inference with exact strides: all class probabilities of an image at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medssl.inference.blocks import probability_blocks
from medssl.inference.windows import Blend, Predict, WindowProgress, as_slices, stride_from_overlap


def sliding_window(
    image: Tensor,
    predict: Predict,
    *,
    patch: Sequence[int],
    stride: Sequence[int] | None = None,
    overlap: float = 0.5,
    window_batch: int = 4,
    blend: Blend = "gaussian",
    pad_value: float = 0.0,
    device: torch.device | str = "cpu",
    progress: WindowProgress | None = None,
) -> Tensor:
    """Return the mean class probabilities of overlapping windows, in 2D or 3D.

    Args:
        image: ``(C, *S)``.
        predict: see :data:`Predict`; called without gradient, softmax is applied to its result.
        patch: spatial size of a window.
        stride: voxels between windows, per axis; overrides ``overlap``.
        overlap: share of a window that its neighbor repeats, in ``[0, 1)``.
        window_batch: windows per forward pass.
        blend: ``constant`` weights all voxels of a window alike, ``gaussian`` its center more
            (MONAI's importance map: sigma one eighth of the window).
        pad_value: surrounds an image that is smaller than the patch.
        device: where ``predict`` runs.
        progress: called after each forward pass.

    Returns:
        Probabilities ``(K, *S)``, float32 on the CPU.

    Raises:
        ValueError: stride and patch do not fit the image or each other.
    """
    result: Tensor | None = None
    for where, block in probability_blocks(
        image,
        predict,
        patch=patch,
        stride=stride,
        overlap=overlap,
        window_batch=window_batch,
        blend=blend,
        pad_value=pad_value,
        device=device,
        progress=progress,
    ):
        if result is None:
            result = torch.empty(block.shape[0], *image.shape[1:])
        result[(slice(None), *where)] = block
    assert result is not None
    return result


def slice_by_slice(
    image: Tensor,
    predict: Predict,
    *,
    patch: Sequence[int],
    slice_axis: int = 2,
    stride: Sequence[int] | None = None,
    overlap: float = 0.5,
    window_batch: int = 4,
    blend: Blend = "gaussian",
    pad_value: float = 0.0,
    device: torch.device | str = "cpu",
    progress: WindowProgress | None = None,
) -> Tensor:
    """Return the class probabilities of a 2D network over a volume, one slice at a time.

    A slice is a volume one voxel thick: each goes through the same sliding window, and one forward
    pass may hold windows of several slices. A slice as large as the patch is one window.

    Args:
        image: ``(C, X, Y, Z)``.
        predict: see :data:`Predict`, for windows ``(N, C, *patch)`` of two axes.
        patch: size of a window along the two axes that are not ``slice_axis``, in their order.
        slice_axis: spatial axis (0 to 2) across the slices.
        stride: voxels between windows along the same two axes; overrides ``overlap``.
        overlap, window_batch, blend, pad_value, device, progress: as for :func:`sliding_window`.

    Returns:
        Probabilities ``(K, X, Y, Z)``, float32 on the CPU.

    Raises:
        ValueError: patch, stride or image do not have the dimensions above.
    """
    if image.ndim != 4:
        raise ValueError(f"slices of an image of shape {tuple(image.shape)}")
    stride = stride_from_overlap(patch, overlap) if stride is None else stride
    predict, patch, stride = as_slices(predict, patch, stride, slice_axis)
    return sliding_window(
        image,
        predict,
        patch=patch,
        stride=stride,
        window_batch=window_batch,
        blend=blend,
        pad_value=pad_value,
        device=device,
        progress=progress,
    )
