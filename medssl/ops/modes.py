"""Train mode and evaluation mode: switched only where it is needed, and put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


def set_mode(module: nn.Module, mode: str) -> None:
    """Put a module into mode ``train`` or ``eval``, if it is not in it."""
    train = mode == "train"
    if module.training is not train:
        module.train(train)


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, and every part of it back as it was afterwards."""
    flags = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in flags:
            part.training = training
