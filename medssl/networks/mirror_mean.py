"""A network averaged over mirror images of its input; needs PyTorch alone, bundles carry it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn


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
