"""Mean probabilities of overlapping windows, block by block, in bounded memory.

The mean is rolled along the first axis: only the rows that later windows still touch are in memory,
and finished rows are handed on as blocks to whoever takes an argmax, an entropy or all of them. The
other axes can be cut into columns where even that is too much.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import torch
from monai.data.utils import compute_importance_map
from torch import Tensor

from medssl.inference.windows import (
    Empty,
    Predict,
    WindowProgress,
    Windows,
    pad_to_patch,
    window_origins,
    window_probabilities,
)

Block = tuple[tuple[slice, ...], Tensor]
"""Where a block lies in the volume ``(*S)``, and its mean probabilities ``(K, *block)``."""


class RollingMean:
    """Weighted mean of overlapping windows, in float32 on the CPU, rolled along the first axis.

    Windows must come with the first axis of their corners rising. Every voxel adds up its windows
    in the order in which they come, so the result does not depend on how a volume is rolled or cut.

    Args:
        shape: spatial shape of what is averaged.
        weight: importance ``(*patch)`` of the voxels of a window; all positive.
    """

    def __init__(self, shape: Sequence[int], weight: Tensor) -> None:
        self._shape = tuple(shape)
        self._weight = weight
        self._weight_cpu = weight.cpu()
        self._rows = weight.shape[0]
        self._first = 0
        self._sum: Tensor | None = None
        self._total = torch.zeros(1, self._rows, *self._shape[1:])

    @torch.no_grad()
    def add(self, corner: Sequence[int], probabilities: Tensor) -> None:
        """Add the probabilities ``(K, *patch)`` of a window; what lies outside is left out.

        Args:
            corner: may be negative, and the window may reach beyond the end, on all axes but the
                first.
            probabilities: on any device.
        """
        if corner[0] != self._first:
            raise ValueError(f"a window at row {corner[0]} while rows start at {self._first}")
        if self._sum is None:
            self._sum = torch.zeros(probabilities.shape[0], self._rows, *self._shape[1:])
        inside, part = [slice(None)], [slice(None)]
        patch = self._weight.shape[1:]
        for start, size, n in zip(corner[1:], patch, self._shape[1:], strict=True):
            low, high = max(start, 0), min(start + size, n)
            inside.append(slice(low, high))
            part.append(slice(low - start, high - start))
        target, source = (slice(None), *inside), (slice(None), *part)
        self._sum[target] += (probabilities[source] * self._weight[tuple(part)]).cpu()
        self._total[target] += self._weight_cpu[tuple(part)]

    @torch.no_grad()
    def roll(self, first: int) -> Tensor:
        """Return the finished rows before row ``first``, ``(K, rows, ...)``, and forget them."""
        if self._sum is None:
            raise ValueError("no window was added")
        done = first - self._first
        mean = self._sum[:, :done] / self._total[:, :done]
        for buffer in (self._sum, self._total):
            kept = self._rows - done
            for start in range(0, kept, done):  # piece by piece: source and target may overlap
                stop = min(start + done, kept)
                buffer[:, start:stop] = buffer[:, start + done : stop + done]
            buffer[:, kept:] = 0
        self._first = first
        return mean


def probability_blocks(
    image: Tensor,
    predict: Predict,
    windows: Windows,
    *,
    column: Sequence[int] | None = None,
    empty: Empty | None = None,
    progress: WindowProgress | None = None,
) -> Iterator[Block]:
    """Yield the mean class probabilities of overlapping windows block by block, in 2D or 3D.

    Blocks do not overlap and cover the volume. Each is new memory that the caller may keep.

    Args:
        image: ``(C, *S)``.
        predict: see :data:`Predict`; called without gradient, softmax is applied to its result.
        windows: how the image is cut.
        column: cut all axes but the first into columns of so many voxels, one after another: less
            memory, but a window that reaches into two columns is predicted twice. None: one column.
        empty: which windows not to predict; None: all are predicted.
        progress: called after each forward pass.

    Raises:
        ValueError: stride and patch do not fit the image or each other.
    """
    image = image.detach().as_subclass(Tensor)
    patch, stride = windows.patch, windows.stride
    if len(patch) != image.ndim - 1 or len(stride) != len(patch):
        raise ValueError(
            f"patch {patch} and stride {stride} for an image of shape {tuple(image.shape)}"
        )
    padded, crop = pad_to_patch(image, patch, value=windows.pad_value)
    shape = tuple(padded.shape[1:])
    weight = compute_importance_map(patch, mode=windows.blend, device=windows.device)
    origins = window_origins(shape, patch, stride)
    columns = _columns(shape, column)
    jobs = [(c, [o for o in origins if _touches(o, patch, c)]) for c in columns]
    total, before = sum(len(own) for _, own in jobs), 0
    for sides, own in jobs:

        def report(done: int, _: int, before: int = before) -> None:
            if progress is not None:
                progress(before + done, total)

        found = window_probabilities(padded, predict, own, windows, empty=empty, progress=report)
        before += len(own)
        mean = RollingMean((shape[0], *(high - low for low, high in sides)), weight)
        offset = [low for low, _ in sides]
        for row, rows in _rolled(found, mean, (0, *offset), shape[0]):
            yield from _cropped(rows, (row, *offset), crop[1:])


def rows_of(blocks: Iterable[Block]) -> Iterator[Block]:
    """Cut blocks ``(..., *block)`` into rows, so that what is made of one takes little memory."""
    for where, block in blocks:
        axis = block.ndim - len(where)
        for index, row in enumerate(range(where[0].start, where[0].stop)):
            yield (slice(row, row + 1), *where[1:]), block.narrow(axis, index, 1)


def _columns(
    shape: Sequence[int], column: Sequence[int] | None
) -> list[tuple[tuple[int, int], ...]]:
    """Return the first and the end voxel of each column along all axes but the first."""
    sizes = shape[1:] if column is None else column
    axes = [
        [(low, min(low + size, n)) for low in range(0, n, max(size, 1))]
        for n, size in zip(shape[1:], sizes, strict=True)
    ]
    return list(itertools.product(*axes))


def _touches(corner: Sequence[int], patch: Sequence[int], sides: Sequence[tuple[int, int]]) -> bool:
    return all(
        start < high and start + size > low
        for start, size, (low, high) in zip(corner[1:], patch[1:], sides, strict=True)
    )


def _rolled(
    windows: Iterator[tuple[tuple[int, ...], Tensor]],
    mean: RollingMean,
    offset: Sequence[int],
    size: int,
) -> Iterator[tuple[int, Tensor]]:
    """Feed windows into a mean; yield the first row and the content of what is finished."""
    first = 0
    for corner, probabilities in windows:
        if corner[0] > first:
            yield first, mean.roll(corner[0])
            first = corner[0]
        mean.add([c - o for c, o in zip(corner, offset, strict=True)], probabilities)
        del probabilities
    yield first, mean.roll(size)


def _cropped(rows: Tensor, start: Sequence[int], crop: Sequence[slice]) -> Iterator[Block]:
    """Cut a block of the padded volume to what lies in the volume itself."""
    inside, where = [slice(None)], []
    for first, size, own in zip(start, rows.shape[1:], crop, strict=True):
        low, high = max(first, own.start), min(first + size, own.stop)
        if high <= low:
            return
        inside.append(slice(low - first, high - first))
        where.append(slice(low - own.start, high - own.start))
    yield tuple(where), rows[tuple(inside)]
