"""Networks that see their process's rows of a batch, and methods that see all of it.

A method calls a network with a whole batch and gets the logits of the whole batch; in between, each
process computes its own rows. The loss is the same everywhere, and its gradient at the logits too;
each process carries that of its rows back through the network, and the engine adds the weights'
gradients up. So no method knows of processes, whatever it does across the batch: mixing, a Dice
over the batch, the best of four students, networks that take turns.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from medssl.errors import MedSSLError
from medssl.methods.base import Method
from medssl.networks.whole_batch import Rows, prepare, seeing
from medssl.ops.deep_supervision import Outputs
from medssl.training.distributed import World


class _Take(torch.autograd.Function):
    """Take this process's rows; the gradient is put together from all processes'."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, world: World) -> Tensor:
        ctx.world, ctx.count = world, len(x)
        rows = world.rows(len(x))
        return x[rows.start : rows.stop]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return ctx.world.whole(grads[0], ctx.count), None


class _Gather(torch.autograd.Function):
    """Put the rows of all processes together; the gradient of one's own rows goes back."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, world: World, count: int) -> Tensor:
        ctx.rows = world.rows(count)
        return world.whole(rows, count)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0][ctx.rows.start : ctx.rows.stop], None, None


class _Share(torch.autograd.Function):
    """Pass a tensor on and multiply its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0] * ctx.factor, None


class SharedBatches:
    """Divide the batches of a method's networks between processes, while :meth:`active`.

    Args:
        method: its networks' layers and hooks are changed in place.
        world: the processes.

    Raises:
        MedSSLError: a network has a layer that cannot be divided.
    """

    def __init__(self, method: Method, world: World) -> None:
        self.world = world
        self._active = False
        self._calls: list[tuple[ExitStack, int]] = []
        if world.alone:
            return
        for name, child in method.named_children():
            if name in method.undivided:
                continue
            for network in child if isinstance(child, nn.ModuleList) else (child,):
                try:
                    prepare(network)
                except ValueError as error:
                    raise MedSSLError(
                        f"the network's layer {error}",
                        where="network",
                        fix="train in one process, or choose another network",
                    ) from error
                # Closures, and not this object's methods: a copied network shares them.
                network.register_forward_pre_hook(lambda _, inputs: self._before(inputs))
                network.register_forward_hook(
                    lambda _, __, output: self._after(output), always_call=True
                )
        method.sum_tensors = self._sum  # type: ignore[method-assign]  # the engine's part of it

    def _sum(self, tensors: list[Tensor]) -> list[Tensor]:
        out = [t.clone() for t in tensors]
        self.world.sum_tensors(out)
        return out

    @contextmanager
    def active(self) -> Iterator[None]:
        """Divide batches in the enclosed passes, and not in those of a validation."""
        self._active = not self.world.alone
        try:
            yield
        finally:
            self._active = False
            self._calls.clear()

    def _before(self, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not self._active:
            return None
        x, *others = inputs
        world, entered, needs_grad = self.world, ExitStack(), torch.is_grad_enabled()
        self._calls.append((entered, len(x)))
        if len(x) < world.size:
            # Everyone computes all rows: the inputs' gradient is whole, the weights' too often.
            return (_Share.apply(x, world.size) if needs_grad else x, *others)
        rows = world.rows(len(x))
        context = Rows(rows.start, rows.stop, len(x), world.add_up, world.size)
        entered.enter_context(seeing(context))
        mine = _Take.apply(x, world) if needs_grad else x[rows.start : rows.stop]
        return (mine, *others)

    def _after(self, output: Any) -> Any:
        if not self._active or not self._calls:
            return None
        entered, count = self._calls.pop()
        entered.close()
        if isinstance(output, Outputs):
            return output.each(lambda scale: self._whole(scale, count))
        return self._whole(output, count) if isinstance(output, Tensor) else None  # it failed

    def _whole(self, output: Tensor, count: int) -> Any:
        """Return all rows of an output of which this process has computed its own."""
        if count < self.world.size:
            return _Share.apply(output, 1 / self.world.size)
        return _Gather.apply(output, self.world, count)
