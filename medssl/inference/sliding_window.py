"""Sliding-window inference with exact strides, softmax in float32 and bounded device memory.

MONAI's ``sliding_window_inference`` takes an overlap, floors it to a stride (15 for ``1 - 16/96``)
and stitches in the dtype of the input. The protocols of the literature name strides, so the loop
here takes them as they are. With equal strides both give the same numbers.

Windows (:func:`window_probabilities`) and what is done with them (:class:`WindowMean`) are apart,
so that another reduction can consume the same windows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from monai.data.utils import compute_importance_map
from torch import Tensor

Blend = Literal["gaussian", "constant"]
Predict = Callable[[Tensor], Tensor]
"""Windows ``(N, C, *patch)`` in, logits ``(N, K, *patch)`` out."""
WindowProgress = Callable[[int, int], None]
"""Called with the number of windows done and their total."""


def window_starts(size: int, window: int, stride: int) -> list[int]:
    """Return the first voxel of each window along one axis.

    There are ``ceil((size - window) / stride) + 1`` windows, the k-th starting at
    ``min(k * stride, size - window)``, as in the test scripts of SSL4MIS and BCP. An axis shorter
    than the window has one window at 0 (the axis is padded).

    Raises:
        ValueError: the stride is not in ``1 ... window``, so voxels would be left out.
    """
    if not 1 <= stride <= window:
        raise ValueError(f"stride {stride} must be from 1 to the window's {window} voxels")
    if size <= window:
        return [0]
    count = math.ceil((size - window) / stride) + 1
    return [min(k * stride, size - window) for k in range(count)]


def stride_from_overlap(patch: Sequence[int], overlap: float) -> tuple[int, ...]:
    """Return the stride, in voxels, at which neighboring windows share ``overlap`` of themselves.

    Rounded down, but safe from floating point: 96 voxels at overlap ``1 - 16/96`` give 16.
    """
    return tuple(max(1, math.floor(size * (1 - overlap) + 1e-6)) for size in patch)


def window_origins(
    shape: Sequence[int], patch: Sequence[int], stride: Sequence[int]
) -> list[tuple[int, ...]]:
    """Return the corner of every window over a volume, the last axis running fastest."""
    axes = [window_starts(n, p, s) for n, p, s in zip(shape, patch, stride, strict=True)]
    return list(itertools.product(*axes))


def pad_to_patch(
    image: Tensor, patch: Sequence[int], *, value: float = 0.0
) -> tuple[Tensor, tuple[slice, ...]]:
    """Pad ``(C, *S)`` symmetrically to at least the patch, the smaller half on the low side.

    Returns:
        The padded image, and the slices that cut a ``(K, *padded)`` result back to ``(K, *S)``.
    """
    shape = image.shape[1:]
    missing = [max(p - n, 0) for n, p in zip(shape, patch, strict=True)]
    low = [m // 2 for m in missing]
    crop = (slice(None), *(slice(a, a + n) for a, n in zip(low, shape, strict=True)))
    if not any(missing):
        return image, crop
    pads = [side for a, m in zip(low, missing, strict=True) for side in ((m - a), a)]
    return F.pad(image, pads[::-1], value=value), crop


def window_probabilities(
    image: Tensor,
    predict: Predict,
    origins: Sequence[tuple[int, ...]],
    *,
    patch: Sequence[int],
    window_batch: int,
    device: torch.device | str,
    progress: WindowProgress | None = None,
) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """Yield the corner and the class probabilities ``(K, *patch)`` (float32, on device) per window.

    No gradient is recorded, and only ``window_batch`` windows are on the device at any time.

    Args:
        image: ``(C, *S)``, no axis shorter than the patch.
        predict: see :data:`Predict`.
        origins: corners of the windows, in the order in which they are wanted.
        patch: spatial size of a window.
        window_batch: windows per forward pass.
        device: where ``predict`` runs.
        progress: called after each forward pass.

    Raises:
        ValueError: ``predict`` returned something else than one logit map per window.
    """
    for first in range(0, len(origins), window_batch):
        corners = origins[first : first + window_batch]
        windows = torch.stack([image[_window(corner, patch)] for corner in corners])
        with torch.inference_mode():
            logits = predict(windows.to(device=device, dtype=torch.float32))
            expected = (len(corners), *patch)
            if logits.ndim != image.ndim + 1 or (logits.shape[0], *logits.shape[2:]) != expected:
                raise ValueError(
                    f"windows {tuple(windows.shape)} gave logits {tuple(logits.shape)}; "
                    f"expected ({len(corners)}, classes, {', '.join(map(str, patch))})"
                )
            probabilities = logits.float().softmax(dim=1)
        yield from zip(corners, probabilities, strict=True)
        if progress is not None:
            progress(first + len(corners), len(origins))


class WindowMean:
    """Weighted mean of overlapping windows, accumulated in float32 on the CPU.

    Args:
        shape: spatial shape of the volume.
        weight: importance ``(*patch)`` of the voxels of a window; all positive.
    """

    def __init__(self, shape: Sequence[int], weight: Tensor) -> None:
        self._shape = tuple(shape)
        self._patch = tuple(weight.shape)
        self._weight = weight
        self._weight_cpu = weight.cpu()
        self._sum: Tensor | None = None
        self._total = torch.zeros(1, *self._shape)

    @torch.no_grad()
    def add(self, corner: tuple[int, ...], probabilities: Tensor) -> None:
        """Add the probabilities ``(K, *patch)`` of the window at ``corner``."""
        if self._sum is None:
            self._sum = torch.zeros(probabilities.shape[0], *self._shape)
        where = _window(corner, self._patch)
        self._sum[where] += (probabilities * self._weight).cpu()
        self._total[where] += self._weight_cpu

    @torch.no_grad()
    def result(self) -> Tensor:
        """Return the mean ``(K, *S)``. It reuses the sum's memory: call it once, at the end."""
        if self._sum is None:
            raise ValueError("no window was added")
        return self._sum.div_(self._total)


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
    image = image.detach().as_subclass(Tensor)
    patch = tuple(int(p) for p in patch)
    stride = stride_from_overlap(patch, overlap) if stride is None else tuple(stride)
    if len(patch) != image.ndim - 1 or len(stride) != len(patch):
        raise ValueError(
            f"patch {patch} and stride {stride} for an image of shape {tuple(image.shape)}"
        )
    padded, crop = pad_to_patch(image, patch, value=pad_value)
    mean = WindowMean(padded.shape[1:], compute_importance_map(patch, mode=blend, device=device))
    windows = window_probabilities(
        padded,
        predict,
        window_origins(padded.shape[1:], patch, stride),
        patch=patch,
        window_batch=window_batch,
        device=device,
        progress=progress,
    )
    for corner, probabilities in windows:
        mean.add(corner, probabilities)
    result = mean.result()
    return result if padded is image else result[crop].clone()


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
    if image.ndim != 4 or len(patch) != 2 or not 0 <= slice_axis <= 2:
        raise ValueError(
            f"slices of patch {tuple(patch)} across axis {slice_axis} of an image of shape "
            f"{tuple(image.shape)}"
        )
    flat = stride_from_overlap(patch, overlap) if stride is None else tuple(stride)

    def predict_slices(windows: Tensor) -> Tensor:
        return predict(windows.squeeze(slice_axis + 2)).unsqueeze(slice_axis + 2)

    return sliding_window(
        image,
        predict_slices,
        patch=(*patch[:slice_axis], 1, *patch[slice_axis:]),
        stride=(*flat[:slice_axis], 1, *flat[slice_axis:]),
        window_batch=window_batch,
        blend=blend,
        pad_value=pad_value,
        device=device,
        progress=progress,
    )


def _window(corner: Sequence[int], patch: Sequence[int]) -> tuple[slice, ...]:
    return (slice(None), *(slice(a, a + p) for a, p in zip(corner, patch, strict=True)))
