"""The network, the patch and the batch for a grid, a method and a device."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from medssl.errors import MedSSLError
from medssl.methods.settings import MethodSettings
from medssl.networks.registry import patch_factors
from medssl.planning.grid import Levels, PlannedGrid, choose_levels, fixed_patch

DeviceKind = Literal["cpu", "cuda"]

FILTERS: dict[str, list[int]] = {
    "cpu": [16, 32, 64, 128],
    "cuda": [32, 64, 128, 256, 320, 320],
}
PATCH_VOXELS = {
    ("cpu", 2): 128**2,
    ("cpu", 3): 2**17,
    ("cuda", 2): 512**2,
    ("cuda", 3): 112**2 * 80,
}
"""Most voxels of a patch; on a graphics card the usual patch of the literature."""

BATCH_VOXELS = {("cpu", 2): 2**17, ("cpu", 3): 2**18, ("cuda", 2): 2**20, ("cuda", 3): 2**21}
"""About so many voxels of each of labeled and unlabeled scans in one iteration."""

MOST_PATCHES = {("cpu", 2): 8, ("cpu", 3): 4, ("cuda", 2): 12, ("cuda", 3): 4}
SMALLEST_SIDE = 16


@dataclass(frozen=True)
class NetworkPlan:
    """A network by name with its settings, the patch, and why.

    Attributes:
        settings: of the network, each with its reason.
    """

    name: str
    patch: tuple[int, ...]
    reason: str
    settings: dict[str, tuple[Any, str]] = field(default_factory=dict)


def choose_network(
    grid: PlannedGrid,
    method: type[MethodSettings],
    device: DeviceKind,
    *,
    shrink: float = 1.0,
    thin: bool = False,
    small: str = "",
) -> NetworkPlan:
    """Choose network and patch.

    Args:
        grid: what patches are cut from.
        method: settings class of the method, which says what it needs.
        device: where the training will run.
        shrink: factor of the usual voxels of a patch.
        thin: structures are a few voxels wide.
        small: why the network is to work at half resolution, where voxels are alike; empty: it
            works at full resolution.
    """
    hints = method.plan_hints
    dims = len(grid.axes)
    shape, voxel = [grid.shape[a] for a in grid.axes], [grid.voxel[a] for a in grid.axes]
    budget = max(int(shrink * PATCH_VOXELS[device, dims]), SMALLEST_SIDE**dims // 2)
    # A network for each orientation of the patch: all sides alike, and none of them wide.
    cubes = hints.turns_volumes
    kind: DeviceKind = "cpu" if cubes else device
    depth = len(FILTERS[kind]) - 1
    sides, sizes = shape, voxel
    if cubes:
        sides = [min(*shape, int(budget ** (1 / dims) + 1e-6))] * dims
        sizes = [1.0] * dims
    levels = choose_levels(sides, sizes, budget=budget, depth=depth)
    published = hints.network
    if published is not None and device == "cuda" and levels.isotropic:
        factors = _factors(published.name, dims)
        if factors is not None and min(shape) >= max(factors):
            patch = fixed_patch(shape, voxel, budget=budget, factors=factors, cube=cubes)
            return NetworkPlan(published.name, patch, published.reason, dict(published.settings))
    if (cubes or small) and levels.isotropic:
        plan = _small_unet(levels, small or "a small network, as there are several")
    else:
        plan = _dynunet(levels, kind, method, thin=thin)
    if hints.dropout is not None:
        plan.settings["dropout"] = hints.dropout
    return plan


def _factors(network: str, dims: int) -> list[int] | None:
    """Return what a network's patch sides are multiples of; None where it does not exist."""
    try:
        return patch_factors(network, dims)
    except MedSSLError:
        return None


def _small_unet(levels: Levels, why: str) -> NetworkPlan:
    """Return MONAI's UNet, a small one, whose first level works at half resolution."""
    count = len(levels.strides)
    settings: dict[str, tuple[Any, str]] = {
        "channels": (FILTERS["cpu"][: max(count, 1) + 1], why),
        "strides": ([_step(s) for s in levels.strides] or [1], _halved(levels)),
        "num_res_units": (0, "plain convolutions: quick"),
    }
    return NetworkPlan("unet", levels.patch, "MONAI's UNet", settings)


def _dynunet(
    levels: Levels, device: DeviceKind, method: type[MethodSettings], *, thin: bool
) -> NetworkPlan:
    """Return MONAI's DynUNet, whose first level works at full resolution."""
    steps = [_step(s) for s in levels.strides]
    # DynUNet has at least three levels; one that keeps the size is no harm.
    missing = max(0, 2 - len(steps))
    filters = FILTERS[device][: len(steps) + missing + 1]
    size = "small, as a CPU trains it" if device == "cpu" else "the usual width"
    settings: dict[str, tuple[Any, str]] = {
        "filters": (filters, f"channels per level: {size}"),
        "strides": ([1, *steps, *[1] * missing], _halved(levels)),
    }
    kernels = [*levels.kernels, *[levels.kernels[-1]] * missing]
    if any(k == 1 for kernel in levels.kernels for k in kernel):
        settings["kernel_size"] = (
            [_step(k) for k in kernels],
            "1: no look along an axis while its voxels are over twice as long",
        )
    if thin:
        settings["res_block"] = (True, "residual blocks: the structures are thin (data spec)")
    if method.scales:
        settings["deep_supervision"] = (
            True,
            "learns at coarser scales too; predicts at the finest",
        )
    reason = "the architecture of nnU-Net: its first level works at full resolution"
    return NetworkPlan("dynunet", levels.patch, reason, settings)


def _halved(levels: Levels) -> str:
    why = f"{len(levels.strides)} times halved, down to {_remaining(levels)} voxels"
    return why if levels.isotropic else f"{why}; long voxels and short axes are spared"


def _remaining(levels: Levels) -> str:
    return " x ".join(str(n // f) for n, f in zip(levels.patch, levels.factors, strict=True))


def _step(values: tuple[int, ...]) -> int | list[int]:
    return values[0] if len(set(values)) == 1 else list(values)


def choose_batch(patch: tuple[int, ...], device: DeviceKind) -> int:
    """Return the labeled patches of an iteration, and as many unlabeled ones."""
    kind = (device, len(patch))
    return max(2, min(MOST_PATCHES[kind], BATCH_VOXELS[kind] // math.prod(patch)))
