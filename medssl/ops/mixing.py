"""Copy-paste mixing: turn a box into a mask, combine two images with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medssl.ops.boxes import Box


def box_mask(
    shape: Sequence[int],
    boxes: Box | Sequence[Box],
    *,
    device: torch.device | str | None = None,
) -> Tensor:
    """Return a boolean mask, True outside and False inside the box.

    Args:
        shape: spatial shape.
        boxes: one box gives a mask ``(*spatial)``, a list of n boxes ``(n, *spatial)``.
        device: where the mask is made.
    """
    single = isinstance(boxes[0][0], int)
    listed: Sequence[Box] = [boxes] if single else boxes  # type: ignore[assignment, list-item]
    mask = torch.ones((len(listed), *shape), dtype=torch.bool, device=device)
    for row, box in zip(mask, listed, strict=True):
        row[tuple(slice(start, stop) for start, stop in box)] = False
    return mask[0] if single else mask


def mix(outside: Tensor, inside: Tensor, mask: Tensor) -> Tensor:
    """Combine two images or two label maps: ``outside`` where the mask is set, else ``inside``.

    Args:
        outside: the canvas, ``(B, C, *spatial)`` or ``(B, *spatial)``.
        inside: what is pasted into the box, of the same shape.
        mask: ``(B or 1, *spatial)``, True or 1 outside the box.
    """
    if outside.shape != inside.shape:
        raise ValueError(f"cannot mix shapes {tuple(outside.shape)} and {tuple(inside.shape)}")
    keep = mask if mask.dtype == torch.bool else mask > 0.5
    if outside.ndim == keep.ndim + 1:
        keep = keep.unsqueeze(1)
    if outside.ndim != keep.ndim:
        raise ValueError(
            f"mask {tuple(mask.shape)} must be (batch or 1, *spatial) for {tuple(outside.shape)}"
        )
    return torch.where(keep, outside, inside)


def take(x: Tensor, start: int, count: int) -> Tensor:
    """Return samples ``start ... start + count - 1``, beginning again at the first after the last.

    A view where nothing wraps around, so that equal batches are halved without a copy.
    """
    if start + count <= len(x):
        return x[start : start + count]
    return x[[i % len(x) for i in range(start, start + count)]]
