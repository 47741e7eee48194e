"""What to change in a recipe whose training does not fit into memory, and by how much."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import psutil
import torch

from medssl.device import bytes_asked, is_out_of_memory
from medssl.errors import MedSSLError
from medssl.networks.registry import patch_factors
from medssl.planning.footprint import Footprint, measure_footprint
from medssl.recipe.load import LoadedRecipe

ROUND = 8
"""Sides of a patch are cut by at least so many voxels."""

FULL = 0.95
"""Share of the memory that a training may take; the rest is lost between blocks."""


@dataclass(frozen=True)
class Shortage:
    """Memory in bytes when it ran out: there for this process, in use by it, asked for on top."""

    total: int
    used: int
    asked: int


@dataclass(frozen=True)
class Change:
    """A change of settings, and the bytes that training needs with it."""

    settings: str
    needed: float


@contextmanager
def memory_explained(
    loaded: LoadedRecipe, device: torch.device, precision: str, **sizes: Any
) -> Iterator[None]:
    """Say, where memory runs out inside, which settings to lower and by how much.

    Args:
        loaded: the recipe.
        device, precision: of the training.
        sizes: of the dataset, as :func:`~medssl.planning.footprint.measure_footprint` takes them.

    Raises:
        MedSSLError: memory ran out.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        short = shortage(error, device)
        kind = "cuda" if device.type == "cuda" else "cpu"
        half = None
        try:
            now = measure_footprint(loaded, precision=precision, **sizes)
            if kind == "cuda" and precision == "fp32":
                half = measure_footprint(loaded, precision="bf16", **sizes)
        except Exception:
            now = None  # whatever is wrong with measuring, memory is what ran out
        raise explain(loaded, short, now, half, kind=kind, device=device) from error


def shortage(error: BaseException, device: torch.device) -> Shortage:
    """Return how much memory there is and was in use."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        total = free + torch.cuda.memory_reserved(device)  # what others use is not there
        return Shortage(total, torch.cuda.max_memory_allocated(device), bytes_asked(error))
    process = psutil.Process().memory_info().rss
    total = min(psutil.virtual_memory().available + process, psutil.virtual_memory().total)
    return Shortage(total, process, bytes_asked(error))


def explain(
    loaded: LoadedRecipe,
    short: Shortage,
    now: Footprint | None,
    half: Footprint | None,
    *,
    kind: str,
    device: torch.device,
) -> MedSSLError:
    """Return the error: what was needed, and the changes with which training fits.

    Args:
        loaded: the recipe.
        short: what was there when memory ran out.
        now: what training needs, by the planner's model; None where it is not known.
        half: the same in half precision, where that is a choice.
        kind: ``cpu`` or ``cuda``.
        device: that trains.
    """
    training = loaded.recipe.training
    unlabeled = loaded.settings.uses_unlabeled
    batches = f"training.labeled_batch={training.labeled_batch}"
    if unlabeled:
        batches += f" and training.unlabeled_batch={training.unlabeled_batch}"
    there = f"{_gib(short.used)} were in use"
    if short.asked:
        there += f" and {_gib(short.asked)} more asked for"
    what = f"memory ran out on {device} ({there}, of {_gib(short.total)}): "
    if now is None:
        return MedSSLError(
            f"{what}training.patch={training.patch} with {batches} needs too much",
            where=loaded.source,
            fix="lower training.labeled_batch, training.unlabeled_batch or training.patch",
        )
    # The model counts tensors; where more was seen than it says, all it says is that much too low.
    needed = now.bytes(training.patch, kind)
    factor = max(1.0, (short.used + short.asked) / needed)
    room = FULL * short.total / factor
    what += f"training.patch={training.patch} with {batches} needs about {_gib(needed * factor)}"
    found = list(changes(loaded, now, half, kind=kind, room=room))
    listed = [f"{c.settings} (about {_gib(c.needed * factor)})" for c in found]
    fix = "set " + ", or ".join(listed) if listed else "use a smaller network and training.patch"
    return MedSSLError(what, where=loaded.source, fix=fix)


def changes(
    loaded: LoadedRecipe, now: Footprint, half: Footprint | None, *, kind: str, room: float
) -> Iterator[Change]:
    """Yield the changes with which training fits into ``room`` bytes, the mildest first."""
    patch = loaded.recipe.training.patch
    if half is not None and half.bytes(patch, kind) <= room:
        yield Change("--precision bf16", half.bytes(patch, kind))
    if (split := split_batch(loaded, now, kind=kind, room=room)) is not None:
        yield split
    if (smaller := smaller_patch(loaded, now, kind=kind, room=room)) is not None:
        yield smaller


def split_batch(loaded: LoadedRecipe, now: Footprint, *, kind: str, room: float) -> Change | None:
    """Return the division of a step's batch into the fewest parts that fit, if there is one.

    Their gradients add up: the optimizer sees as many patches as before.
    """
    recipe = loaded.recipe
    training, method = recipe.training, loaded.settings
    batches = {"labeled_batch": training.labeled_batch}
    if method.uses_unlabeled:
        batches["unlabeled_batch"] = training.unlabeled_batch
    whole = math.gcd(*batches.values())
    for parts in (n for n in range(2, whole + 1) if whole % n == 0):
        part = replace(now, constant=now.constant / parts, per_voxel=now.per_voxel / parts)
        new: dict[str, Any] = {name: size // parts for name, size in batches.items()}
        new["accumulate"] = training.accumulate * parts
        changed = recipe.model_copy(update={"training": training.model_copy(update=new)})
        needed = part.bytes(training.patch, kind)
        if needed <= room and not any(method.check_recipe(changed)):
            settings = " ".join(f"training.{name}={value}" for name, value in new.items())
            return Change(settings, needed)
    return None


def smaller_patch(loaded: LoadedRecipe, now: Footprint, *, kind: str, room: float) -> Change | None:
    """Return the largest patch that fits, its longest sides cut first, if there is one."""
    recipe = loaded.recipe
    sides = list(recipe.training.patch)
    factors = patch_factors(recipe.network.name, len(sides), recipe.network.settings)
    steps = [f * math.ceil(ROUND / f) for f in factors]
    while now.bytes(sides, kind) > room:
        able = [i for i, (n, step) in enumerate(zip(sides, steps, strict=True)) if n >= 2 * step]
        if not able:
            return None
        longest = max(able, key=lambda i: sides[i])
        sides[longest] -= steps[longest]
    if sides == list(recipe.training.patch):
        return None
    text = str(sides).replace(" ", "")
    return Change(f"training.patch={text}", now.bytes(sides, kind))


def _gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"
