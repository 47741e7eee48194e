"""Several networks as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """Average the probabilities of several networks: image in, log mean probabilities out."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C_in, *spatial)`` to log probabilities ``(B, C, *spatial)``, float32."""
        total: Tensor | None = None
        for probs in self.each(x):
            total = probs if total is None else total + probs
        assert total is not None
        mean = total / len(self.members)
        return mean.clamp_min(torch.finfo(mean.dtype).tiny).log()

    @property
    def count(self) -> int:
        """Number of members."""
        return len(self.members)

    def each(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the probabilities ``(B, C, *spatial)`` of one member after another."""
        for member in self.members:
            yield torch.softmax(member(x).float(), dim=1)


@runtime_checkable
class HasMembers(Protocol):
    """A model whose probabilities are the mean of its members' probabilities."""

    count: int

    def each(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the probabilities of one member after another."""
        ...


class SideBySide(nn.Module):
    """The members of a model as one distribution over member and class.

    A softmax over the output gives each member's probabilities over the number of members, so that
    whatever averages windows averages every member by itself, and the sum over members is the mean.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C_in, *spatial)`` to ``(B, members * C, *spatial)``, members outermost."""
        assert isinstance(self.model, HasMembers)
        probs = torch.cat(list(self.model.each(x)), dim=1)
        return probs.clamp_min(torch.finfo(probs.dtype).tiny).log()
