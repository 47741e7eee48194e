"""Layers that act on a whole batch while a network is shown only some of its samples.

Several processes may share a batch, each passing its own rows through a network. Two kinds of layer
then need to know of the other rows: BatchNorm in train mode averages over the batch, and dropout
draws numbers for it. :func:`prepare` makes those of a network act, inside :func:`seeing`, as if the
whole batch were here, so that the result is that of one process. Parameters, buffers and the names
in a state dict stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from monai.networks.layers.drop_path import DropPath
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd


@dataclass(frozen=True)
class Rows:
    """Which samples of a batch are here.

    Attributes:
        start, stop: the first sample, and one past the last.
        total: samples of the whole batch.
        add_up: adds a tensor up over all processes, in place.
        processes: how many there are.
    """

    start: int
    stop: int
    total: int
    add_up: Callable[[Tensor], None]
    processes: int

    def values(self, own: Tensor) -> float:
        """Return how many values a channel of ``(b, C, ...)`` has in the whole batch."""
        return float(self.total * own[0, 0].numel())


_seen: ContextVar[Rows | None] = ContextVar("rows", default=None)


@contextmanager
def seeing(rows: Rows) -> Iterator[None]:
    """Run a network's forward pass on these rows alone."""
    token = _seen.set(rows)
    try:
        yield
    finally:
        _seen.reset(token)


def rows_here() -> Rows | None:
    """Return which samples are here, inside a network's forward pass; None: all of them."""
    return _seen.get()


def put_together(own: Tensor, rows: Rows | None) -> Tensor:
    """Return what all processes have of a batch's samples.

    Args:
        own: of the samples that are here, ``(b, ...)``, without gradient.
        rows: see :func:`rows_here`.
    """
    if rows is None:
        return own
    whole = own.new_zeros((rows.total, *own.shape[1:]))
    whole[rows.start : rows.stop] = own
    rows.add_up(whole)
    return whole


def randn_like(x: Tensor) -> Tensor:
    """Draw normal noise for ``(B, ...)``: for the whole batch, of which the rows here are kept."""
    rows = _seen.get()
    if rows is None:
        return torch.randn_like(x)
    whole = torch.randn((rows.total, *x.shape[1:]), dtype=x.dtype, device=x.device)
    return whole[rows.start : rows.stop]


class _WholeDropout(_DropoutNd):
    """Draw for the whole batch, so that all processes' generators stay in step."""

    def forward(self, x: Tensor) -> Tensor:
        rows = _seen.get()
        if rows is None or not self.training or self.p == 0:
            return super().forward(x)
        channels = not isinstance(self, nn.Dropout)
        shape = (x.shape[1], *[1] * (x.ndim - 2)) if channels else x.shape[1:]
        factor = F.dropout(x.new_ones((rows.total, *shape)), self.p, training=True)
        return x * factor[rows.start : rows.stop]


class WholeDropout(_WholeDropout, nn.Dropout):
    """Dropout of single values."""


class WholeDropout1d(_WholeDropout, nn.Dropout1d):
    """Dropout of channels."""


class WholeDropout2d(_WholeDropout, nn.Dropout2d):
    """Dropout of channels."""


class WholeDropout3d(_WholeDropout, nn.Dropout3d):
    """Dropout of channels."""


class _WholeDropPath(nn.Module):
    """Draw which samples of the whole batch leave out a residual branch."""

    def forward(self, x: Tensor) -> Tensor:
        rows = _seen.get()
        if rows is None:
            return super().forward(x)
        factor = super().forward(x.new_ones((rows.total, *[1] * (x.ndim - 1))))
        return x * factor[rows.start : rows.stop]


class WholeDropPath(_WholeDropPath, DropPath):
    """Stochastic depth, as transformers have it."""


class _Normalize(torch.autograd.Function):
    """Normalize by mean and variance over all processes' rows; gradients of weights stay local."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        scale: Tensor,
        rows: Rows,
    ) -> Tensor:
        shape = (1, -1, *[1] * (x.ndim - 2))
        normal = (x.float() - mean.view(shape)) * scale.view(shape)
        ctx.save_for_backward(normal, weight, scale)
        ctx.shape, ctx.rows, ctx.biased = shape, rows, bias is not None
        out = normal if weight is None else normal * weight.view(shape)
        return (out if bias is None else out + bias.view(shape)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        normal, weight, scale = ctx.saved_tensors
        grad, shape = grads[0].float(), ctx.shape
        dims = [0, *range(2, grad.ndim)]
        sums = torch.stack([grad.sum(dims), (grad * normal).sum(dims)])
        # Each process holds the gradient of its own rows, and gradients of weights are added up
        # over processes where the step ends.
        own = sums.clone()
        ctx.rows.add_up(sums)
        mean_grad, mean_product = (sums / ctx.rows.values(grad)).view(2, *shape)
        factor = scale if weight is None else scale * weight
        back = (grad - mean_grad - normal * mean_product) * factor.view(shape)
        return (
            back.to(grads[0].dtype),
            own[1] if weight is not None else None,
            own[0] if ctx.biased else None,
            *[None] * 3,
        )


class _WholeBatchNorm(_BatchNorm):
    """Take mean and variance over the whole batch, in float32."""

    def forward(self, x: Tensor) -> Tensor:
        rows = _seen.get()
        if rows is None or not (self.training or self.running_mean is None):
            return super().forward(x)
        if x.is_cuda:
            return self._on_cuda(x, rows)
        dims = [0, *range(2, x.ndim)]
        count = rows.values(x)
        shape = (1, -1, *[1] * (x.ndim - 2))
        with torch.no_grad():
            values = x.detach().float()
            mean = values.sum(dims) / count
            rows.add_up(mean)
            variance = (values - mean.view(shape)).square().sum(dims) / count
            rows.add_up(variance)
            self._remember(mean, variance * (count / max(count - 1, 1)))
        scale = (variance + self.eps).rsqrt()
        return _Normalize.apply(x, self.weight, self.bias, mean, scale, rows)

    def _on_cuda(self, x: Tensor, rows: Rows) -> Tensor:
        """Let torch's own kernels do the same."""
        from torch.nn.modules._functions import SyncBatchNorm

        factor = self._factor()
        return SyncBatchNorm.apply(
            x,
            self.weight,
            self.bias,
            self.running_mean,
            self.running_var,
            self.eps,
            factor,
            torch.distributed.group.WORLD,
            rows.processes,
        )

    def _factor(self) -> float:
        """Count a batch; return its share in the running statistics."""
        if self.num_batches_tracked is None:
            return 0.0 if self.momentum is None else self.momentum
        self.num_batches_tracked.add_(1)
        if self.momentum is None:
            return 1.0 / float(self.num_batches_tracked)
        return self.momentum

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        factor = self._factor()
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), factor)
        self.running_var.lerp_(variance.to(self.running_var.dtype), factor)


class WholeBatchNorm1d(_WholeBatchNorm, nn.BatchNorm1d):
    """BatchNorm of ``(B, C)`` or ``(B, C, L)``."""


class WholeBatchNorm2d(_WholeBatchNorm, nn.BatchNorm2d):
    """BatchNorm of ``(B, C, H, W)``."""


class WholeBatchNorm3d(_WholeBatchNorm, nn.BatchNorm3d):
    """BatchNorm of ``(B, C, X, Y, Z)``."""


KINDS: dict[type[nn.Module], type[nn.Module]] = {
    kind.__mro__[2]: kind
    for kind in (
        WholeDropout,
        WholeDropout1d,
        WholeDropout2d,
        WholeDropout3d,
        WholeDropPath,
        WholeBatchNorm1d,
        WholeBatchNorm2d,
        WholeBatchNorm3d,
    )
}
"""By the ordinary class, the one that knows of the other rows."""


def prepare(network: nn.Module) -> None:
    """Give a network's layers the classes of :data:`KINDS`, in place.

    The modules stay the same objects, since a network may hold one of them under two names.

    Raises:
        ValueError: a layer couples the samples of a batch in a way that is not known here.
    """
    for name, module in network.named_modules():
        kind = type(module)
        if kind in KINDS:
            module.__class__ = KINDS[kind]
        elif kind not in KINDS.values() and isinstance(module, (_BatchNorm, _DropoutNd)):
            raise ValueError(f"{name} ({kind.__name__}) cannot be shared between processes")
