"""Networks built from their names, and what they were built from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from medssl.errors import MedSSLError
from medssl.networks.network import Network
from medssl.networks.registry import check_dims, resolve_network

MAX_PARAMETERS = 2_000_000_000
MAX_WIDTH, USUAL_WIDTH, MAX_NUMBERS = 4096, 512, 200
"""Beyond the first no network has a number, up to the second none needs a look at its size."""


@dataclass(frozen=True)
class Blueprint:
    """What a network was built from: enough to build it again elsewhere.

    Attributes:
        name: registered name.
        settings: the network's own settings, defaults filled in.
        spatial_dims, in_channels, num_classes: as given to :func:`build_network`.
    """

    name: str
    settings: dict[str, Any]
    spatial_dims: int
    in_channels: int
    num_classes: int

    def build(self) -> nn.Module:
        """Build a freshly initialized network like it."""
        return build_network(self.name, **self._sizes(), settings=self.settings)

    def constructor(self) -> tuple[type[nn.Module], dict[str, Any]]:
        """Return the class and the keyword arguments that make a network like it."""
        network, parsed = resolve_network(self.name, self.settings)
        return network.load(), network.arguments(parsed, **self._sizes())

    def _sizes(self) -> dict[str, int]:
        return {
            "spatial_dims": self.spatial_dims,
            "in_channels": self.in_channels,
            "num_classes": self.num_classes,
        }


def blueprint_of(network: nn.Module) -> Blueprint | None:
    """Return what a network, or a copy of it, was built from; None if it was not built here."""
    found = getattr(network, "blueprint", None)
    return found if isinstance(found, Blueprint) else None


def build_network(
    name: str,
    *,
    spatial_dims: int,
    in_channels: int,
    num_classes: int,
    settings: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a freshly initialized network that maps an image to logits.

    Args:
        name: see :func:`medssl.networks.registry.list_networks`.
        spatial_dims: 2 or 3.
        in_channels: image channels.
        num_classes: classes including background.
        settings: the network's own settings; those left out have defaults.

    Returns:
        A module from ``(B, in_channels, *spatial)`` to ``(B, num_classes, *spatial)``.

    Raises:
        MedSSLError: unknown network or option, a wrong value, or wrong ``spatial_dims``.
    """
    network, parsed = resolve_network(name, settings or {})
    check_dims(name, network, spatial_dims)
    try:
        arguments = network.arguments(
            parsed, spatial_dims=spatial_dims, in_channels=in_channels, num_classes=num_classes
        )
        _check_size(network, arguments)
        built = network.load()(**arguments)
        network.complete(built, parsed)
    except MedSSLError as error:
        raise MedSSLError(f"network {name!r} {error.what}", fix=error.fix) from None
    except Exception as error:  # constructors raise anything at all for numbers that do not fit
        raise MedSSLError(
            f"network {name!r} cannot be built from its settings: {error}",
            fix=f"correct the settings of {name!r} under `network`",
        ) from error
    filled = parsed.model_dump(mode="json")
    # A plain attribute, so that it is neither weight nor buffer and goes along with copies.
    built.blueprint = Blueprint(  # type: ignore[assignment]
        name, filled, spatial_dims, in_channels, num_classes
    )
    return built


def _check_size(network: Network, arguments: Mapping[str, Any]) -> None:
    """Refuse, before any weight is allocated, a network that no memory could hold.

    Raises:
        MedSSLError: a number beyond any network, or more weights than ``MAX_PARAMETERS``.
    """
    largest, count = _largest(arguments)
    if largest > MAX_WIDTH or count > MAX_NUMBERS:
        what = f"has {count} numbers among its settings" if count > MAX_NUMBERS else "is too wide"
        raise MedSSLError(
            f"{what} (largest {largest})", fix=f"use numbers up to {MAX_WIDTH} in its settings"
        )
    if largest <= USUAL_WIDTH:
        return
    with torch.device("meta"):  # shapes alone
        parameters = sum(p.numel() for p in network.load()(**arguments).parameters())
    if parameters > MAX_PARAMETERS:
        raise MedSSLError(
            f"would have {parameters:.3g} weights (at most {MAX_PARAMETERS:.0e})",
            fix="use fewer channels",
        )


def _largest(value: Any) -> tuple[float, int]:
    """Return the largest number in nested settings, and how many there are."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        found = [_largest(item) for item in value]
        return max((n for n, _ in found), default=0), sum(c for _, c in found)
    return (value, 1) if isinstance(value, int | float) else (0, 0)
