"""torch.compile for the networks of a method, in training alone and with a way back.

Networks are compiled in place: the keys of their state stay as they are, so that checkpoints of
compiled and plain runs are the same. Windows of a prediction come in batches of any size, and a
compiler would start again for each; networks that predict or are diagnosed run as they are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from medssl.methods.base import Method
from medssl.optional import is_installed

LEAST_BATCHES = 5000
"""Batches from which compiling pays, by what others report for 3D networks on cards.

It made a step 1.1 times as fast and took 24 s for one network in one mode (MONAI's tutorial); the
methods here make one to six such graphs, so compiling takes up to two minutes, and the tenth of a
quarter-second step returns two of them in 5000.
"""

BACKEND = "inductor"


def wants_compiling(setting: bool | str, device: torch.device, batches: int) -> bool:
    """Return whether to compile.

    Args:
        setting: ``training.compile``.
        device: that trains.
        batches: of the whole run.
    """
    if setting != "auto":
        return bool(setting)
    able = device.type == "cuda" and sys.platform != "win32" and is_installed("triton")
    return able and batches >= LEAST_BATCHES


def networks_of(method: nn.Module) -> list[nn.Module]:
    """Return the networks that a method has built, students and teachers alike."""
    return [module for module in method.modules() if hasattr(module, "blueprint")]


class Compiled:
    """Compile the networks of a method; if that fails, go on without and say so once.

    Each shape of a batch is compiled by itself: patches are of one size, and a method uses two or
    three batch sizes at most.

    Args:
        method: its networks are compiled when they are first called in training.
        say: tells the user.
        backend: of torch.compile.
    """

    def __init__(
        self, method: Method, say: Callable[[str], None], *, backend: str | None = None
    ) -> None:
        self.method, self.say = method, say
        self.failed = False
        for network in networks_of(method):
            network.compile(backend=backend or BACKEND, dynamic=False)
            compiled = network._compiled_call_impl
            assert compiled is not None
            # Where nn.Module keeps what `compile` made; it is left out of copies and of pickles.
            network._compiled_call_impl = self._guarded(network, compiled)

    def _guarded(self, network: nn.Module, compiled: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            predicting = torch.is_inference_mode_enabled() or not self.method.training
            if not self.failed and not predicting:
                try:
                    return compiled(*args, **kwargs)
                except _compiler_errors() as error:
                    self._give_up(error)
            return network._call_impl(*args, **kwargs)

        return call

    def _give_up(self, error: Exception) -> None:
        self.failed = True
        for network in networks_of(self.method):
            network._compiled_call_impl = None
        reason = " ".join(str(error).split())
        self.say(
            f"warning: the networks cannot be compiled here and run as they are "
            f"({type(error).__name__}: {reason[:200]})"
        )


def _compiler_errors() -> tuple[type[Exception], ...]:
    from torch._dynamo.exc import TorchDynamoException

    return (TorchDynamoException,)


def compile_networks(
    method: Method,
    setting: bool | str,
    *,
    device: torch.device,
    batches: int,
    alone: bool,
    say: Callable[[str], None],
) -> Compiled | None:
    """Compile a method's networks if that is wanted; see `wants_compiling`.

    Not in several processes, which exchange rows in the middle of a pass.
    """
    if not wants_compiling(setting, device, batches):
        return None
    if not alone:
        say("note: networks are not compiled in several processes")
        return None
    say("note: the networks are compiled; the first iterations take minutes")
    return Compiled(method, say)
