"""Networks by name, with typed settings and a check of the patch; none is imported for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from medssl import plugins
from medssl.errors import MedSSLError, did_you_mean
from medssl.networks.builtin import BUILTIN
from medssl.networks.network import Network
from medssl.strict import first_mistake

NETWORKS: dict[str, Network] = dict(BUILTIN)


def register_network(name: str, network: Network) -> None:
    """Make a network available under ``name``."""
    if name in NETWORKS:
        raise ValueError(f"network {name!r} is registered twice")
    NETWORKS[name] = network
    plugins.note("network", name)


def list_networks() -> dict[str, str]:
    """Return the name and description of every network, those of plugins included.

    Example:
        >>> medssl.list_networks()["vnet"]
        'V-Net of the semi-supervised literature, 9.4 M parameters, 2D and 3D'
    """
    for name in plugins.offered("network"):
        plugins.look_up("network", name)
    return {name: NETWORKS[name].description for name in sorted(NETWORKS)}


def patch_factors(
    name: str, spatial_dims: int, settings: Mapping[str, Any] | None = None
) -> list[int]:
    """Return what each side of a network's patch must be a multiple of.

    Raises:
        MedSSLError: unknown network or option, or it does not exist in so many dimensions.
        ValueError: its strides are those of another number of dimensions, or below 1.
    """
    network, parsed = resolve_network(name, settings or {})
    check_dims(name, network, spatial_dims)
    factors = list(network.factors(parsed, spatial_dims))
    if not all(factor >= 1 for factor in factors):
        raise ValueError(f"its strides multiply to {factors}, and must be 1 or more")
    return factors


def check_patch(name: str, patch: Sequence[int], settings: Mapping[str, Any] | None = None) -> None:
    """Make sure that a network can take a patch.

    Args:
        name: see :func:`list_networks`.
        patch: voxels per axis; two numbers mean 2D.
        settings: the network's own settings.

    Raises:
        MedSSLError: naming the nearest sizes that work; or unknown network or option.
    """
    try:
        factors = patch_factors(name, len(patch), settings)
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


def resolve_network(name: str, settings: Mapping[str, Any]) -> tuple[Network, Any]:
    """Look up a network and validate its settings.

    Raises:
        MedSSLError: unknown network or option, or a wrong value.
    """
    if name not in NETWORKS:
        plugins.look_up("network", name)
    if name not in NETWORKS:
        raise MedSSLError(
            f"unknown network {name!r}", fix=did_you_mean(name, NETWORKS) + plugins.HINT
        )
    network = NETWORKS[name]
    try:
        return network, network.settings.model_validate(dict(settings))
    except ValidationError as error:
        found = first_mistake(error, network.settings, settings)
        raise MedSSLError(f"network {name!r}: {found.what}", fix=found.fix) from error


def check_dims(name: str, network: Network, dims: int) -> None:
    """Refuse a dimension in which the network does not exist.

    Raises:
        MedSSLError: naming the networks that do.
    """
    if dims not in network.spatial_dims:
        other = [n for n, v in sorted(NETWORKS.items()) if dims in v.spatial_dims]
        raise MedSSLError(
            f"network {name!r} is {network.spatial_dims[0]}D and training.patch has {dims} axes",
            fix=f"use one of {', '.join(other)}, or give training.patch "
            f"{network.spatial_dims[0]} numbers",
        )


def _nearest(n: int, factor: int) -> list[int]:
    """Return the multiples of ``factor`` around ``n``."""
    below = n // factor * factor
    return [v for v in (below, below if n % factor == 0 else below + factor) if v > 0]


def _times(patch: Sequence[int]) -> str:
    return "x".join(map(str, patch))
