"""Networks by name, with typed options and a check of the patch."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import nn

from medssl.errors import MedSSLError

MAX_PARAMETERS = 2_000_000_000
MAX_WIDTH, USUAL_WIDTH, MAX_NUMBERS = 4096, 512, 200
"""Beyond the first no network has a number, up to the second none needs a look at its size."""


class Options(BaseModel):
    """Base of a network's options: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


@dataclass(frozen=True)
class Network:
    """A registered network.

    Attributes:
        description: one line for the user.
        options: its options model.
        kind: the class of the network.
        arguments: from the options and ``spatial_dims, in_channels, num_classes`` to the keyword
            arguments of ``kind``: numbers, strings and lists, so that they can be written down.
        factors: what each patch axis must be a multiple of, from options and ``spatial_dims``.
        spatial_dims: dimensions it exists in.
    """

    description: str
    options: type[Options]
    kind: type[nn.Module]
    arguments: Callable[..., dict[str, Any]]
    factors: Callable[[Any, int], Sequence[int]]
    spatial_dims: tuple[int, ...] = (2, 3)


@dataclass(frozen=True)
class Blueprint:
    """What a network was built from: enough to build it again elsewhere.

    Attributes:
        name: registered name.
        options: the network's own options, defaults filled in.
        spatial_dims, in_channels, num_classes: as given to :func:`build_network`.
    """

    name: str
    options: dict[str, Any]
    spatial_dims: int
    in_channels: int
    num_classes: int

    def build(self) -> nn.Module:
        """Build a freshly initialized network like it."""
        return build_network(self.name, **self._sizes(), options=self.options)

    def constructor(self) -> tuple[type[nn.Module], dict[str, Any]]:
        """Return the class and the keyword arguments that make a network like it."""
        network, parsed = _resolve(self.name, self.options)
        return network.kind, network.arguments(parsed, **self._sizes())

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


NETWORKS: dict[str, Network] = {}


def register_network(name: str, network: Network) -> None:
    """Make a network available under ``name``."""
    if name in NETWORKS:
        raise ValueError(f"network {name!r} is registered twice")
    NETWORKS[name] = network


def list_networks() -> dict[str, str]:
    """Return the name and description of every network."""
    return {name: NETWORKS[name].description for name in sorted(NETWORKS)}


def build_network(
    name: str,
    *,
    spatial_dims: int,
    in_channels: int,
    num_classes: int,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a freshly initialized network that maps an image to logits.

    Args:
        name: see :func:`list_networks`.
        spatial_dims: 2 or 3.
        in_channels: image channels.
        num_classes: classes including background.
        options: the network's own options; those left out have defaults.

    Returns:
        A module from ``(B, in_channels, *spatial)`` to ``(B, num_classes, *spatial)``.

    Raises:
        MedSSLError: unknown network or option, a wrong value, or wrong ``spatial_dims``.
    """
    network, parsed = _resolve(name, options or {})
    _check_dims(name, network, spatial_dims)
    try:
        arguments = network.arguments(
            parsed, spatial_dims=spatial_dims, in_channels=in_channels, num_classes=num_classes
        )
        _check_size(network, arguments)
        built = network.kind(**arguments)
    except MedSSLError as error:
        raise MedSSLError(f"network {name!r} {error.what}", fix=error.fix) from None
    except Exception as error:  # constructors raise anything at all for numbers that do not fit
        raise MedSSLError(
            f"network {name!r} cannot be built from its options: {error}",
            fix=f"correct the options of {name!r} under `network`",
        ) from error
    settings = parsed.model_dump(mode="json")
    # A plain attribute, so that it is neither weight nor buffer and goes along with copies.
    built.blueprint = Blueprint(  # type: ignore[assignment]
        name, settings, spatial_dims, in_channels, num_classes
    )
    return built


def _check_size(network: Network, arguments: Mapping[str, Any]) -> None:
    """Refuse, before any weight is allocated, a network that no memory could hold.

    Raises:
        MedSSLError: a number beyond any network, or more weights than ``MAX_PARAMETERS``.
    """
    largest, count = _largest(arguments)
    if largest > MAX_WIDTH or count > MAX_NUMBERS:
        what = f"has {count} numbers among its options" if count > MAX_NUMBERS else "is too wide"
        raise MedSSLError(
            f"{what} (largest {largest})", fix=f"use numbers up to {MAX_WIDTH} in its options"
        )
    if largest <= USUAL_WIDTH:
        return
    with torch.device("meta"):  # shapes alone
        parameters = sum(p.numel() for p in network.kind(**arguments).parameters())
    if parameters > MAX_PARAMETERS:
        raise MedSSLError(
            f"would have {parameters:.3g} weights (at most {MAX_PARAMETERS:.0e})",
            fix="use fewer channels",
        )


def _largest(value: Any) -> tuple[float, int]:
    """Return the largest number in nested options, and how many there are."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        found = [_largest(item) for item in value]
        return max((n for n, _ in found), default=0), sum(c for _, c in found)
    return (value, 1) if isinstance(value, int | float) else (0, 0)


def patch_factors(
    name: str, spatial_dims: int, options: Mapping[str, Any] | None = None
) -> list[int]:
    """Return what each side of a network's patch must be a multiple of.

    Raises:
        MedSSLError: unknown network or option, or it does not exist in so many dimensions.
        ValueError: its strides are those of another number of dimensions, or below 1.
    """
    network, parsed = _resolve(name, options or {})
    _check_dims(name, network, spatial_dims)
    factors = list(network.factors(parsed, spatial_dims))
    if not all(factor >= 1 for factor in factors):
        raise ValueError(f"its strides multiply to {factors}, and must be 1 or more")
    return factors


def check_patch(name: str, patch: Sequence[int], options: Mapping[str, Any] | None = None) -> None:
    """Make sure that a network can take a patch.

    Args:
        name: see :func:`list_networks`.
        patch: voxels per axis; two numbers mean 2D.
        options: the network's own options.

    Raises:
        MedSSLError: naming the nearest sizes that work; or unknown network or option.
    """
    try:
        factors = patch_factors(name, len(patch), options)
    except ValueError as error:
        raise MedSSLError(
            f"network {name!r} does not fit a patch of {_times(patch)}: {error}",
            fix="give one number per axis of training.patch",
        ) from error
    wrong = [i for i, (n, f) in enumerate(zip(patch, factors, strict=True)) if n % f]
    if wrong:
        i = wrong[0]
        near = " or ".join(map(str, _nearest(patch[i], factors[i])))
        whole = [_nearest(n, f)[-1] for n, f in zip(patch, factors, strict=True)]
        raise MedSSLError(
            f"network {name!r} cannot take a patch of {_times(patch)}: axis {i} has {patch[i]} "
            f"voxels and must be a multiple of {factors[i]} (for instance {near})",
            fix=f"set training.patch to {whole}",
        )
    if math.prod(n // f for n, f in zip(patch, factors, strict=True)) < 2:
        bigger = list(patch)
        bigger[0] *= 2
        raise MedSSLError(
            f"network {name!r} reduces a patch of {_times(patch)} to a single voxel, which cannot "
            "be normalized",
            fix=f"set training.patch to {bigger} or larger",
        )


def _resolve(name: str, options: Mapping[str, Any]) -> tuple[Network, Any]:
    """Look up the network and validate its options."""
    if name not in NETWORKS:
        raise MedSSLError(
            f"unknown network {name!r}{_suggest(name, NETWORKS)}",
            fix=f"choose one of: {', '.join(sorted(NETWORKS))}",
        )
    network = NETWORKS[name]
    try:
        return network, network.options.model_validate(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        known = list(network.options.model_fields)
        if first["type"] == "extra_forbidden":
            what = f"network {name!r} has no option {key!r}{_suggest(key, known)}"
        else:
            value = f".{key} = {first['input']!r}" if key else f" {name!r}"
            what = f"network{value}: {first['msg'].removeprefix('Value error, ')}"
        fix = f"options of {name!r}: {', '.join(known) or 'none'}"
        raise MedSSLError(what, fix=fix) from error


def _check_dims(name: str, network: Network, dims: int) -> None:
    """Refuse a dimension in which the network does not exist."""
    if dims not in network.spatial_dims:
        other = [n for n, v in sorted(NETWORKS.items()) if dims in v.spatial_dims]
        raise MedSSLError(
            f"network {name!r} is {network.spatial_dims[0]}D and training.patch has {dims} axes",
            fix=f"use one of {', '.join(other)}, or give training.patch "
            f"{network.spatial_dims[0]} numbers",
        )


def _suggest(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """Return ``; did you mean ...?`` or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def _nearest(n: int, factor: int) -> list[int]:
    """Return the multiples of ``factor`` around ``n``."""
    below = n // factor * factor
    return [v for v in (below, below if n % factor == 0 else below + factor) if v > 0]


def _times(patch: Sequence[int]) -> str:
    return "x".join(map(str, patch))
