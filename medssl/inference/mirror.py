"""Test-time augmentation by mirroring: the mean over all allowed mirror images of a window."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from medssl.data.datasets.case import LabelMap
from medssl.data.patches.sides import class_pairs
from medssl.errors import MedSSLError
from medssl.settings.spec import DataSpec
from medssl.settings.specs import axis_along


class MirrorMean(nn.Module):
    """Average a network's probabilities over mirror images of its input.

    Deterministic, unlike random test-time augmentation: all ``2^n`` combinations of the axes are
    predicted and averaged, one at a time.

    Args:
        network: image in, logits out.
        axes: spatial axes of the window (0 is the first after the channels) that may be mirrored.
        swap_axis: the axis whose mirroring exchanges left and right, or None.
        pairs: class indices of left and right structures, exchanged with that axis.
    """

    def __init__(
        self,
        network: nn.Module,
        axes: Sequence[int],
        *,
        swap_axis: int | None = None,
        pairs: Iterable[Sequence[int]] = (),
    ) -> None:
        super().__init__()
        self.network = network
        self.axes = tuple(axes)
        self.swap_axis = swap_axis
        self.pairs = tuple((int(a), int(b)) for a, b in pairs)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, *spatial)`` to log mean probabilities ``(B, K, *spatial)``, float32."""
        total: Tensor | None = None
        for probs in self.each(x):
            total = probs if total is None else total + probs
        assert total is not None
        return (total / self.count).clamp_min(torch.finfo(torch.float32).tiny).log()

    @property
    def count(self) -> int:
        """Number of mirror images, the image itself among them."""
        return 2 ** len(self.axes)

    def each(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the probabilities of each mirror image, mirrored back."""
        for number in range(len(self.axes) + 1):
            for chosen in itertools.combinations(self.axes, number):
                yield self._mirrored(x, chosen)

    def _mirrored(self, x: Tensor, axes: Sequence[int]) -> Tensor:
        """Return the probabilities of a mirrored image, mirrored back."""
        dims = [axis + 2 for axis in axes]
        logits = self.network(x.flip(dims) if dims else x)
        probs = logits.float().softmax(dim=1)
        probs = probs.flip(dims) if dims else probs
        if self.pairs and self.swap_axis in axes:
            order = list(range(probs.shape[1]))
            for a, b in self.pairs:
                order[a], order[b] = b, a
            probs = probs[:, order]
        return probs


def mirrored(
    model: nn.Module, spec: DataSpec, label_map: LabelMap, *, spatial_dims: int
) -> MirrorMean:
    """Wrap a network so that it averages over the mirror images the data spec allows.

    Args:
        model: image in, logits out.
        spec: which axes may be mirrored, and where left and right are.
        label_map: the classes of the logits.
        spatial_dims: of a window; 2 where it is a slice across ``spec.slice_axis``.

    Raises:
        MedSSLError: the spec allows no axis, or does not say which one is left-right where that
            has to be known.
    """
    volume = [a for a in range(3) if spatial_dims == 3 or a != spec.slice_axis]
    axes = [volume.index(a) for a in spec.flip_axes if a in volume]
    if not axes:
        raise MedSSLError(
            f"data spec {spec.name!r} allows no axis to be mirrored",
            fix="leave out --tta (inference.tta), or set spec.flip_axes where mirroring is anatomy",
        )
    pairs = class_pairs(spec, label_map, mirrored=True, where=Path(spec.name))
    side = axis_along(spec, "R")
    if pairs and side is None:
        raise MedSSLError(
            f"data spec {spec.name!r} keeps stored axes, so it is not known which one to "
            "mirror for left and right to be exchanged",
            fix="leave out --tta (inference.tta), or set spec.orientation to RAS",
        )
    swap = volume.index(side) if side in volume else None
    return MirrorMean(model, axes, swap_axis=swap, pairs=pairs)
