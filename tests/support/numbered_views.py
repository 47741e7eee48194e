"""Views of which everything can be told from the image: what travels with voxels can be checked."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from medssl.ops.perturb import View

PARTS = ("label", "truth", "weight", "soft")


def numbered(count: int, shape: tuple[int, ...], first: int = 0) -> Tensor:
    """Return patches ``(N, 1, *spatial)`` in which every voxel has a number of its own."""
    return (first + torch.arange(count * prod(shape))).view(count, 1, *shape)


def told_by(image: Tensor) -> View:
    """Return a view of which all can be told from the image's numbers."""
    flat = image[:, 0]
    soft = torch.stack([flat * 0.5, flat * 2.0], dim=1)
    return View(image, label=flat % 7, truth=flat % 3 == 0, weight=flat / 10, soft=soft)


def expect_travelled(view: View) -> None:
    """Make sure that all that is known of a voxel is what its number says."""
    expected = told_by(view.image)
    for name in PARTS:
        assert torch.equal(getattr(view, name), getattr(expected, name)), name
