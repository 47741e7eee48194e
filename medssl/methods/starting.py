"""Weights that training starts from: how a method's networks take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import nn

from medssl.networks.build import blueprint_of


class Loader(Protocol):
    """Fills a network with given weights; see :meth:`medssl.methods.base.Method.start_from`."""

    def __call__(self, network: nn.Module, *, keep_head: bool = False) -> None:
        """Load what fits."""


def start_peers(load: Loader, networks: Sequence[nn.Module]) -> None:
    """Load networks that teach each other, those built as the first one is.

    All but the first keep a head of their own: twins would always agree.
    """
    for number, network in enumerate(networks):
        if blueprint_of(network) == blueprint_of(networks[0]):
            load(network, keep_head=number > 0)
