"""Mean class probabilities of overlapping windows, as ``medssl predict`` takes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.inferers import SlidingWindowInferer
from torch import Tensor, nn

from medssl.networks.mirror_mean import MirrorMean


class ProbabilityInferer(SlidingWindowInferer):
    """Average a network's probabilities, where MONAI's own inferer averages its logits.

    Args:
        roi_size: voxels of a window; two numbers go slice by slice.
        stride: voxels between windows, as many numbers.
        slice_axis: axis of the volume across the slices.
        mirror: arguments of :class:`~medssl.networks.mirror_mean.MirrorMean` but the network, to
            average over mirror images; None: it is not mirrored.
        skip_empty: call windows background whose voxels all have the image's lowest intensity.
        options: of MONAI's inferer, ``sw_batch_size`` and ``mode`` for instance.
    """

    def __init__(
        self,
        roi_size: Sequence[int],
        stride: Sequence[int],
        *,
        slice_axis: int = 2,
        mirror: dict[str, Any] | None = None,
        skip_empty: bool = False,
        **options: Any,
    ) -> None:
        size, step = list(roi_size), list(stride)
        self.across = slice_axis + 2 if len(size) == 2 else None
        if self.across is not None:
            size.insert(slice_axis, 1)
            step.insert(slice_axis, 1)
        # MONAI rounds a stride down; the small number keeps it at what it is meant to be.
        overlap = [max(0.0, 1 - s / n - 1e-6) for s, n in zip(step, size, strict=True)]
        super().__init__(roi_size=size, overlap=overlap, **options)
        self.mirror, self.skip_empty = mirror, skip_empty

    def __call__(
        self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Map an image ``(1, C, X, Y, Z)`` to probabilities ``(1, K, X, Y, Z)``, float32."""
        lowest = float(inputs.min())
        self.cval = lowest  # surrounds an image smaller than a window, as in training
        if self.mirror is not None:
            assert isinstance(network, nn.Module)
            network = MirrorMean(network, **self.mirror).eval()

        def probabilities(windows: Tensor, *more: Any, **named: Any) -> Tensor:
            flat = windows if self.across is None else windows.squeeze(self.across)
            found = torch.softmax(network(flat, *more, **named).float(), dim=1)
            if self.skip_empty:
                empty = (flat <= lowest).flatten(1).all(dim=1)
                found[empty] = 0.0
                found[empty, 0] = 1.0
            return found if self.across is None else found.unsqueeze(self.across)

        return super().__call__(inputs, probabilities, *args, **kwargs)
