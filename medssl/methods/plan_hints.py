"""What a method says about itself to whoever plans a recipe for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Choices = Mapping[str, tuple[Any, str]]
"""Values by key, each with its reason in plain words."""


@dataclass(frozen=True)
class Advice:
    """A setting that a planned recipe writes down, where all its conditions hold.

    Attributes:
        key: the setting.
        value: what it should be.
        reason: why, in plain words; ``{pieces}`` stands for what is known of the structures.
        section: ``method``, or ``training`` for a key of that section.
        device: only where a ``cpu`` or a ``cuda`` card will train.
        below: only for budgets of fewer iterations.
        network: only with this network.
        several_pieces: only where a structure may consist of several pieces.
    """

    key: str
    value: Any
    reason: str
    section: Literal["method", "training"] = "method"
    device: Literal["cpu", "cuda"] | None = None
    below: int | None = None
    network: str | None = None
    several_pieces: bool = False


@dataclass(frozen=True)
class PublishedNetwork:
    """The network that the paper used: planned on a card, for patches that suit it.

    Attributes:
        name: as registered.
        reason: why, in plain words.
        settings: of the network.
    """

    name: str
    reason: str
    settings: Choices = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """What speaks for a method where nobody asked for one.

    Attributes:
        reason: what was measured, in plain words.
        least_iterations: with fewer no figure is in its favor.
        cost: processor time of an iteration in multiples of labels alone, where it was measured.
    """

    reason: str
    least_iterations: int
    cost: float


@dataclass(frozen=True)
class PlanHints:
    """What a method needs of a plan; the defaults are those of a method without special needs.

    Attributes:
        summary: what it does, in a few words; empty: its paper.
        trained_networks: how many networks of the recipe's kind it trains.
        turns_volumes: it looks at volumes along other axes, so that voxels and patches have to be
            cubes, which are cut small, since there is a network for each view.
        dropout: chance that a network's dropout needs, and why; None leaves it alone.
        network: the published network, if the method lives from it.
        advice: settings to write down.
        measure_with: settings with which a step takes as much memory, in less time.
        best: what makes it the method of a plan that names none; one method has it.
    """

    summary: str = ""
    trained_networks: int = 1
    turns_volumes: bool = False
    dropout: tuple[float, str] | None = None
    network: PublishedNetwork | None = None
    advice: tuple[Advice, ...] = ()
    measure_with: Mapping[str, Any] = field(default_factory=dict)
    best: Measured | None = None
