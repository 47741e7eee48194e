"""What every window of a prediction on a CPU needs of memory: less of it, and the same again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.module import register_module_forward_hook

from medssl.freed_memory import freed_memory_kept
from medssl.inference.windows import Predict


@contextmanager
def memory_reused(predict: Predict, model: nn.Module) -> Iterator[Predict]:
    """Yield ``predict``; after its first call, freed blocks that its next calls want are kept.

    The first call shows how large they are: as the largest tensor that a module takes or returns.
    What is larger, such as buffers of a large scan and a convolution's workspace, goes back to the
    system. Batch normalizations work in place meanwhile. Results are the same, bit by bit.

    Args:
        predict: see :data:`medssl.inference.windows.Predict`; runs ``model``.
        model: on the host and in evaluation mode; it is as before afterwards.
    """
    with ExitStack() as kept:
        kept.enter_context(_normalizing_in_place(model))
        seen: list[int] = []

        def look(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            tensors = [x for x in (*inputs, output) if isinstance(x, Tensor)]
            seen.extend(x.numel() * x.element_size() for x in tensors)

        def watched(windows: Tensor) -> Tensor:
            if seen:
                return predict(windows)
            handle = register_module_forward_hook(look)  # of all modules: scripted ones take none
            try:
                logits = predict(windows)
            finally:
                handle.remove()
            seen.append(logits.numel() * logits.element_size())
            kept.enter_context(freed_memory_kept(max(seen)))
            return logits

        yield watched


@contextmanager
def _normalizing_in_place(model: nn.Module) -> Iterator[None]:
    """Let batch normalizations overwrite what the convolution before them has just made.

    Nothing else reads it where both follow each other in a plain ``nn.Sequential``. Otherwise what
    a network's first stage returns lies above the hole that its input has left, which smaller
    blocks soon divide: the last stage finds no room there, and memory grows by one more block.
    """
    norms = list(_after_convolutions(model))
    for norm in norms:
        norm.forward = partial(_normalized, norm)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in norms:
            vars(norm).pop("forward", None)


def _after_convolutions(model: nn.Module) -> Iterator[_BatchNorm]:
    for module in model.modules():
        if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
            for layer, norm in pairwise(module):
                watched = isinstance(layer, nn.Module) and bool(layer._forward_hooks)
                if isinstance(layer, _ConvNd) and isinstance(norm, _BatchNorm) and not watched:
                    yield norm


def _normalized(norm: _BatchNorm, x: Tensor) -> Tensor:
    """Return what a normalization gives for ``x``, in its memory where that is possible."""
    if norm.running_mean is None or norm.training or x.dtype != norm.running_mean.dtype:
        return type(norm).forward(norm, x)
    values = norm.weight, norm.bias, norm.running_mean, norm.running_var
    unused = torch.empty(0), torch.empty(0)
    torch.native_batch_norm(x, *values, False, 0.0, norm.eps, out=(x, *unused))
    return x
