"""The augmentation that is arithmetic, for a whole batch on whatever device: warp and intensities.

What is cheap (cutting, turning, mirroring) is done where the volumes lie; this part may follow in
the loader, patch by patch, or on the card, batch by batch. Both give the same patches.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from medssl.data.patches import augment_ops as ops
from medssl.ops.moving import to_device

CHANGES, VIEW = "changes_", "view_"
"""What was drawn for a further view of a batch of plain crops, and that view, by number."""


def views_of(batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """Return the further views of a finished batch, in order."""
    return tuple(batch[f"{VIEW}{k}"] for k in range(sum(name.startswith(VIEW) for name in batch)))


def change_intensities(images: Tensor, rows: np.ndarray) -> Tensor:
    """Blur, low resolution, gamma, contrast, brightness and noise, as a row of each patch says.

    Args:
        images: ``(B, C, *spatial)`` float32; the very same is returned if nothing changes.
        rows: ``(B, 9)``, see `UNCHANGED`.
    """
    images = ops.lower_resolution(ops.blur(images, rows[:, 0]), rows[:, 7])
    images = ops.change_gamma(ops.change_gamma(images, rows[:, 8], inverted=True), rows[:, 1])
    return ops.change_linearly(
        images, contrast=rows[:, 2], brightness=rows[:, 3], noise=rows[:, 4], seeds=rows[:, 5:7]
    )


def finish(patches: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Move a batch of plain crops to ``device`` and do there what was drawn for them.

    Args:
        patches: ``image (B, C, *spatial)`` of any float type or none, ``label (B, *spatial)``
            uint8 or none; on the host ``matrix (B, n, n)``, ``deform (B, 3)``, ``weak (B, 9)`` and,
            for each further view, ``changes_0 (B, 9)``, ... where there is something to do. All
            else, and a finished batch, is moved as it is.
        device: where to compute.

    Returns:
        ``image`` float32, ``label`` of its type, and ``view_0``, ... like ``image``, as far as
        given.
    """
    drawn = [k for k in patches if k in ("matrix", "deform", "weak") or k.startswith(CHANGES)]
    out = {k: to_device(v, device) for k, v in patches.items() if k not in drawn}
    image, label = out.get("image"), out.get("label")
    if image is not None:
        image = image.float()
    if "matrix" in patches:
        deform = patches["deform"].numpy() if "deform" in patches else None
        image, label = ops.warp(image, label, patches["matrix"].numpy(), deform)
    if image is not None and "weak" in patches:
        image = change_intensities(image, patches["weak"].numpy())
    if image is not None:
        out["image"] = image
    if label is not None:
        out["label"] = label
    for name in (k for k in drawn if k.startswith(CHANGES)):
        if image is None:
            break
        view = change_intensities(image, patches[name].numpy())
        out[name.replace(CHANGES, VIEW)] = view.clone() if view is image else view
    return out
