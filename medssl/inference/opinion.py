"""A second opinion about a scan beside the network's: what registered atlases say, for instance."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from medssl.data.preprocessing.pipeline import Prepared
from medssl.inference.blocks import Block


class Giver(Protocol):
    """Who has an opinion about scans."""

    def probabilities(self, prepared: Prepared) -> Tensor:
        """Return probabilities ``(K, X, Y, Z)`` of a preprocessed image, float32, on the CPU."""
        ...


@dataclass(frozen=True)
class Opinion:
    """A second opinion, and what it counts.

    Attributes:
        giver: who gives it.
        weight: its share of the mean of probabilities, in [0, 1]; with 1 the network is not asked.
        sha256: of what decides it.
    """

    giver: Giver
    weight: float
    sha256: str


def blended(blocks: Iterable[Block], opinion: Tensor, weight: float) -> Iterator[Block]:
    """Yield blocks of probabilities with an opinion mixed in.

    Args:
        blocks: ``(K, *block)``, or ``(members, K, *block)``.
        opinion: ``(K, X, Y, Z)`` of the whole volume.
        weight: of the opinion, in [0, 1].
    """
    for where, block in blocks:
        yield where, block * (1 - weight) + weight * opinion[(slice(None), *where)]


def as_block(opinion: Tensor, shape: Sequence[int]) -> list[Block]:
    """Return an opinion about a whole volume as its only block."""
    return [(tuple(slice(0, n) for n in shape), opinion)]
