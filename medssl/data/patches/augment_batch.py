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

DRAWN = ("matrix", "weak", "strong_changes")
"""What a batch of plain crops says about each of them besides image and label."""


def change_intensities(images: Tensor, rows: np.ndarray) -> Tensor:
    """Blur, then gamma, contrast, brightness and noise, as a row of each patch says.

    Args:
        images: ``(B, C, *spatial)`` float32; the very same is returned if nothing changes.
        rows: ``(B, 7)``, see `UNCHANGED`.
    """
    images = ops.change_gamma(ops.blur(images, rows[:, 0]), rows[:, 1])
    return ops.change_linearly(
        images, contrast=rows[:, 2], brightness=rows[:, 3], noise=rows[:, 4], seeds=rows[:, 5:]
    )


def finish(patches: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Move a batch of plain crops to ``device`` and do there what was drawn for them.

    Args:
        patches: ``image (B, C, *spatial)`` of any float type or none, ``label (B, *spatial)``
            uint8 or none; on the host ``matrix (B, n, n)``, ``weak (B, 7)`` and
            ``strong_changes (B, 7)`` where there is something to do. A finished batch is moved as
            it is.
        device: where to compute.

    Returns:
        ``image`` float32, ``label`` of its type, and ``strong`` like ``image``, as far as given.
    """
    out = {k: to_device(v, device) for k, v in patches.items() if k not in DRAWN}
    image, label = out.get("image"), out.get("label")
    if image is not None:
        image = image.float()
    if "matrix" in patches:
        image, label = ops.warp(image, label, patches["matrix"].numpy())
    if image is not None and "weak" in patches:
        image = change_intensities(image, patches["weak"].numpy())
    if image is not None:
        out["image"] = image
    if label is not None:
        out["label"] = label
    if image is not None and "strong_changes" in patches:
        strong = change_intensities(image, patches["strong_changes"].numpy())
        out["strong"] = strong.clone() if strong is image else strong
    return out
