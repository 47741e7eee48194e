"""What a step of gradient descent would change, without taking it.

As in Meta Pseudo Labels (Pham et al. 2021): the loss of held-out data before and after a step tells
whether the labels that the step learns from are of use.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from medssl.ops.modes import eval_mode

HALF_PRECISION_SCALE = 1024.0
"""Keeps a gradient from vanishing in float16; a power of two changes no bit."""


def gradients_of(loss: Tensor, parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """Return the gradient of a scalar loss for each parameter; zeros where it has none."""
    found = torch.autograd.grad(
        loss * HALF_PRECISION_SCALE,
        list(parameters),
        allow_unused=True,
        materialize_grads=True,
    )
    return [g / HALF_PRECISION_SCALE for g in found]


@torch.no_grad()
def around_step(
    network: nn.Module, gradients: Sequence[Tensor], image: Tensor, *, lr: float
) -> tuple[Tensor, Tensor]:
    """Return what a network gives before and after a virtual step, which is taken back.

    In eval mode and float32, with the same images before and after. Neither the network's weights
    and buffers nor torch's random generator change; it is left in train mode.

    Args:
        network: image in, logits out.
        gradients: one for each parameter. The step is ``lr`` times the gradient, whose norm is cut
            at 1.
        image: ``(B, C, *spatial)``.
        lr: length of the step.

    Returns:
        Logits ``(B, K, *spatial)`` before and after.
    """
    length = _length(gradients, lr)
    # In place and back: torch.func.functional_call leaves the moved weights in a network that
    # registers a module under two names, as DynUNet does. Through `data`, since autograd must
    # not take weights for changed that are back when it needs them.
    parameters = [p.data for p in network.parameters()]
    kept = [p.clone() for p in parameters]
    try:
        with eval_mode(network), _full_precision(image.device):
            before = network(image)
            for p, g in zip(parameters, gradients, strict=True):
                p.sub_(length * g)
            after = network(image)
    finally:
        for p, old in zip(parameters, kept, strict=True):
            p.copy_(old)
    return before, after


def _length(gradients: Sequence[Tensor], lr: float) -> Tensor:
    """Return the factor of gradients whose norm is cut at 1, in a step of length ``lr``."""
    norm = torch.stack([g.norm() for g in gradients]).norm()
    return lr * (1 / (norm + 1e-12)).clamp(max=1.0)


@torch.no_grad()
def descend(parameters: Iterable[nn.Parameter], gradients: Sequence[Tensor], *, lr: float) -> None:
    """Take a plain step of gradient descent in place, the gradients' norm cut at 1."""
    length = _length(gradients, lr)
    for p, g in zip(parameters, gradients, strict=True):
        p.data.sub_(length * g)
    torch.clear_autocast_cache()  # of the weights before the step, cast


@contextmanager
def put_back(module: nn.Module) -> Iterator[None]:
    """Put weights, buffers and torch's generators back to what they were before.

    What is computed inside may change them in place, and is as if it had never happened.
    """
    tensors = [t.data for t in (*module.parameters(), *module.buffers())]
    kept = [t.clone() for t in tensors]
    cards = {t.device for t in tensors if t.device.type == "cuda"}
    try:
        with torch.random.fork_rng(list(cards)):
            yield
    finally:
        for t, old in zip(tensors, kept, strict=True):
            t.copy_(old)
        torch.clear_autocast_cache()


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Compute in float32 without autocast and TF32, which would round a virtual step away."""
    switches: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = False
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


def carry_gradients(
    value: Tensor, parameters: Iterable[nn.Parameter], gradients: Iterable[Tensor]
) -> Tensor:
    """Return a detached scalar with ``gradients`` as its gradient for ``parameters``.

    A gradient that a virtual step needed is so handed on, not computed twice.
    """
    pairs = zip(parameters, gradients, strict=True)
    linear = torch.stack([(p.float() * g.float()).sum() for p, g in pairs]).sum()
    return value + (linear - linear.detach())
