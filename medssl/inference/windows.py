"""The windows of an image: where they lie, and the network's probabilities in each.

MONAI's ``sliding_window_inference`` takes an overlap, floors it to a stride (15 for ``1 - 16/96``)
and stitches in the dtype of the input. The protocols of the literature name strides, so they are
taken as they are here. With equal strides both give the same numbers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Blend = Literal["gaussian", "constant"]
Predict = Callable[[Tensor], Tensor]
"""Windows ``(N, C, *patch)`` in, logits ``(N, K, *patch)`` out."""
WindowProgress = Callable[[int, int], None]
"""Called with the number of windows done and their total."""
VOXELS_AT_A_TIME = 2**19
"""Of small windows that go through the network together on a CPU."""


@dataclass(frozen=True)
class Windows:
    """How an image is cut into windows, and how they are put together again.

    Attributes:
        patch: spatial size of a window.
        stride: voxels between windows, per axis.
        batch: windows per forward pass.
        blend: ``constant`` weights all voxels of a window alike, ``gaussian`` its center more
            (MONAI's importance map: sigma one eighth of the window).
        pad_value: surrounds an image that is smaller than the patch.
        device: where the network runs.
    """

    patch: tuple[int, ...]
    stride: tuple[int, ...]
    batch: int = 4
    blend: Blend = "gaussian"
    pad_value: float = 0.0
    device: torch.device | str = "cpu"


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


def windows_at_a_time(most: int, patch: Sequence[int], device: torch.device) -> int:
    """Return how many windows go through the network together.

    On a CPU large windows go one by one: several together are no faster there, and their memory is
    what a prediction needs most. Small ones go together as far as they make one large one, for of
    single small volumes PyTorch uses a slow convolution.

    Args:
        most: on a card, and of small windows.
        patch: of a window.
        device: where the network runs.
    """
    if device.type != "cpu":
        return most
    return max(1, min(most, VOXELS_AT_A_TIME // math.prod(patch)))


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


@dataclass(frozen=True)
class Empty:
    """Windows that are background by their intensities alone.

    Attributes:
        below: a window whose voxels are all at most this, in every channel, is not predicted.
        classes: number of classes K, of all members one after another; such a window gets
            probability 1 of class 0.
        members: how many share that probability, each with classes of its own.
    """

    below: float
    classes: int
    members: int = 1

    def probabilities(self, patch: Sequence[int]) -> Tensor:
        """Return ``(K, *patch)``: certainly background."""
        out = torch.zeros(self.classes, *patch)
        out[:: self.classes // self.members] = 1.0 / self.members
        return out


def window_probabilities(
    image: Tensor,
    predict: Predict,
    origins: Sequence[tuple[int, ...]],
    windows: Windows,
    *,
    empty: Empty | None = None,
    progress: WindowProgress | None = None,
) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """Yield the corner and the class probabilities ``(K, *patch)`` (float32, on device) per window.

    No gradient is recorded, and only one batch of windows is on the device at any time.

    Args:
        image: ``(C, *S)``, no axis shorter than the patch.
        predict: see :data:`Predict`.
        origins: corners of the windows, in the order in which they are wanted.
        windows: their size, how many go at a time, and where.
        empty: which windows not to predict; None: all are predicted.
        progress: called after each forward pass.

    Raises:
        ValueError: ``predict`` returned something else than one logit map per window.
    """
    for first in range(0, len(origins), windows.batch):
        corners = origins[first : first + windows.batch]
        pieces = [image[_window(corner, windows.patch)] for corner in corners]
        wanted = [i for i, p in enumerate(pieces) if empty is None or bool((p > empty.below).any())]
        found: dict[int, Tensor] = {}
        if wanted:
            logits = _logits(torch.stack([pieces[i] for i in wanted]), predict, windows.device)
            found = dict(zip(wanted, logits.float().softmax(dim=1), strict=True))
            del logits  # nothing of a window is left when the next one needs memory
        for i, corner in enumerate(corners):
            if i in found:
                yield corner, found.pop(i)
            elif empty is not None:
                yield corner, empty.probabilities(windows.patch).to(windows.device)
        if progress is not None:
            progress(first + len(corners), len(origins))


def _logits(windows: Tensor, predict: Predict, device: torch.device | str) -> Tensor:
    """Return the logits ``(N, K, *patch)`` of windows ``(N, C, *patch)``."""
    with torch.inference_mode():
        logits = predict(windows.to(device=device, dtype=torch.float32))
    if logits.ndim != windows.ndim or (logits.shape[0], *logits.shape[2:]) != (
        windows.shape[0],
        *windows.shape[2:],
    ):
        raise ValueError(
            f"windows {tuple(windows.shape)} gave logits {tuple(logits.shape)}; expected "
            f"({windows.shape[0]}, classes, {', '.join(map(str, windows.shape[2:]))})"
        )
    return logits


def _window(corner: Sequence[int], patch: Sequence[int]) -> tuple[slice, ...]:
    return (slice(None), *(slice(a, a + p) for a, p in zip(corner, patch, strict=True)))


def column_size(
    shape: Sequence[int], patch: Sequence[int], classes: int, budget: float
) -> tuple[int, ...] | None:
    """Return how wide columns may be, along all axes but the first, to fit a memory budget.

    In memory at a time are the sum over ``patch[0]`` rows and the block taken from it. A column is
    never narrower than the patch, for then there would be more windows, not less memory.

    Args:
        shape, patch: of the volume and of a window.
        budget: bytes.

    Returns:
        Voxels per axis, or None if the volume need not be cut.
    """
    voxels = budget / (2 * 4 * (classes + 1) * patch[0])
    sizes = list(shape[1:])
    for axis, least in enumerate(patch[1:]):
        others = math.prod(sizes[:axis] + sizes[axis + 1 :])
        sizes[axis] = min(sizes[axis], max(int(voxels // others), least))
    return None if sizes == list(shape[1:]) else tuple(sizes)


def as_slices(predict: Predict, windows: Windows, slice_axis: int) -> tuple[Predict, Windows]:
    """Let a 2D network predict volumes: windows one voxel thick across ``slice_axis``.

    Args:
        predict: see :data:`Predict`, for windows ``(N, C, *patch)`` of two axes.
        windows: patch and stride along the two axes that are not ``slice_axis``, in their order.
        slice_axis: spatial axis (0 to 2) across the slices.

    Returns:
        The same for three axes.

    Raises:
        ValueError: not two numbers, or no such axis.
    """
    patch, stride = windows.patch, windows.stride
    if len(patch) != 2 or len(stride) != 2 or not 0 <= slice_axis <= 2:
        raise ValueError(f"slices of patch {tuple(patch)} across axis {slice_axis}")

    def predict_slices(slices: Tensor) -> Tensor:
        return predict(slices.squeeze(slice_axis + 2)).unsqueeze(slice_axis + 2)

    return predict_slices, replace(
        windows,
        patch=(*patch[:slice_axis], 1, *patch[slice_axis:]),
        stride=(*stride[:slice_axis], 1, *stride[slice_axis:]),
    )
