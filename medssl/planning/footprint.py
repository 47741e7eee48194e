"""How much memory a training step needs: measured on small patches, extended to the real one.

One step of every stage runs on the CPU with the recipe's own network, method, batch and precision,
on two small patches. Every tensor that comes into being is counted until it is freed: activations
kept for the backward pass, the teacher's and the extra passes' too, losses and gradients in
transit. The highest sum is a straight line in the voxels of the patch; the two patches give it.
What does not depend on the patch is counted exactly: weights, their gradients, optimizer state.
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from medssl.data.datasets.case import LabelMap
from medssl.device import Precision, autocast
from medssl.methods.base import Batch, LabeledBatch, Method, Progress, UnlabeledBatch
from medssl.methods.settings import Stage
from medssl.models.create import create_method
from medssl.networks.registry import patch_factors
from medssl.recipe.load import LoadedRecipe
from medssl.training.optimization import build_optimizer

PROCESS_BYTES = {"cpu": 0.6 * 2**30, "cuda": 0.7 * 2**30}
"""Bytes in use before the first tensor: on a CPU Python and its libraries, on a card CUDA's."""

SLACK = 1.15
"""Workspace of convolutions and gaps between blocks of memory, as a factor of what is counted."""

LEAST_SIDE = 4
"""Voxels that a method may need of a side, to cut a box out of it, say."""

CPU = torch.device("cpu")
SMALL = {2: 2048, 3: 8192}
"""Least voxels of the smaller measured patch."""


@dataclass(frozen=True)
class Footprint:
    """Memory and time of a step as a function of the patch.

    Attributes:
        fixed: bytes of weights, buffers, gradients and optimizer state.
        constant: bytes of a step that do not depend on the patch.
        per_voxel: bytes of a step for each voxel of the patch, the whole batch together.
        seconds_per_voxel: duration of a step here, for each voxel of the patch.
    """

    fixed: float
    constant: float
    per_voxel: float
    seconds_per_voxel: float = 0.0

    def bytes(self, patch: Sequence[int], device: str) -> float:
        """Return the memory that training needs on a ``cpu`` or ``cuda`` device."""
        step = self.constant + self.per_voxel * math.prod(patch)
        return self.fixed + SLACK * step + PROCESS_BYTES[device]


class LiveBytes(TorchDispatchMode):
    """Count the bytes of all tensors made inside, while they live; ``peak`` is the highest sum.

    Args:
        ignore: tensors made before, which operations inside may return again.
    """

    def __init__(self, ignore: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._known = {t.untyped_storage()._cdata for t in ignore}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._count(leaf)
        return out

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def measure_footprint(
    loaded: LoadedRecipe,
    *,
    num_classes: int,
    channels: int,
    precision: str,
    labels: LabelMap | None = None,
) -> Footprint:
    """Measure what a step of a recipe needs; takes seconds.

    Args:
        loaded: the recipe; its patch decides only how small the measured ones may be.
        num_classes: classes including background.
        channels: image channels.
        precision: ``fp32``, ``bf16`` or ``fp16`` (measured as bf16, of the same size).
        labels: of the dataset, which a loss of regions needs.
    """
    recipe = loaded.recipe
    quick = loaded.settings.plan_hints.measure_with
    settings = loaded.settings.model_copy(update=dict(quick))
    method = create_method(
        recipe, settings, num_classes=num_classes, channels=channels, labels=labels
    )
    method.train()
    patch, network = recipe.training.patch, recipe.network
    factors = patch_factors(network.name, len(patch), network.settings)
    small, large = small_patches(patch, factors)
    peaks, seconds = [0.0, 0.0], 0.0
    fixed = 0.0
    how: Precision = "fp32" if precision == "fp32" else "bf16"
    with torch.random.fork_rng(devices=[]):
        for stage in method.stages(max(recipe.training.iterations, 2)):
            if stage.iterations == 0:
                continue
            method.start_stage(stage.name)
            fixed = max(fixed, _fixed_bytes(method, stage, recipe))
            for i, sides in enumerate((small, large)):
                started = time.process_time()
                counter = LiveBytes(_gradients(method, stage))
                with counter:
                    batch = noise_batch(method, stage, recipe, sides, num_classes, channels, CPU)
                    one_step(method, stage, batch, CPU, how)
                peaks[i] = max(peaks[i], counter.peak)
                if sides is large:
                    # Time of the processor, so that other programs running here do not count.
                    spent = time.process_time() - started
                    seconds = max(seconds, spent / torch.get_num_threads())
    sizes = [math.prod(p) for p in (small, large)]
    slope = max(peaks[1] - peaks[0], 0.0) / (sizes[1] - sizes[0]) if sizes[1] > sizes[0] else 0.0
    if slope == 0.0:
        slope = peaks[1] / sizes[1]
    constant = max(peaks[1] - slope * sizes[1], 0.0)
    return Footprint(fixed, constant, slope, seconds / sizes[1])


def step_bytes(loaded: LoadedRecipe, *, device: str, **measured: Any) -> float:
    """Return the memory that training a recipe needs on a ``cpu`` or ``cuda`` device.

    Args:
        loaded: the recipe.
        device: where it trains.
        measured: arguments of :func:`measure_footprint`.
    """
    need = measure_footprint(loaded, **measured)
    return need.bytes(loaded.recipe.training.patch, device)


def small_patches(
    patch: Sequence[int], factors: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return two small patches with the outline of ``patch``, the second twice the first.

    Their sides are multiples of ``factors`` and at least four voxels.
    """
    sides = [f * math.ceil(LEAST_SIDE / f) for f in factors]

    def double() -> None:
        i = min(range(len(sides)), key=lambda a: sides[a] / patch[a])
        sides[i] *= 2

    double()  # a single voxel at the coarsest level could not be normalized
    while math.prod(sides) < SMALL[len(sides)]:
        double()
    small = tuple(sides)
    double()
    return small, tuple(sides)


def noise_batch(
    method: Method,
    stage: Stage,
    recipe: Any,
    patch: Sequence[int],
    num_classes: int,
    channels: int,
    device: torch.device,
) -> Batch:
    """Return a batch of a stage: noise, with labels of every class."""
    n, m = recipe.training.labeled_batch, recipe.training.unlabeled_batch
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, num_classes, (n, *patch), generator=generator).to(device)
    image = torch.randn(n, channels, *patch, generator=generator).to(device)
    labeled = LabeledBatch(image, labels)
    image = torch.randn(m, channels, *patch, generator=generator).to(device)
    views = tuple(image.clone() for _ in method.settings.unlabeled_views)
    unlabeled = UnlabeledBatch(image, views)
    return Batch(
        labeled if "labeled" in stage.streams else None,
        unlabeled if "unlabeled" in stage.streams else None,
        labels if "masks" in stage.streams else None,
    )


def _gradients(method: Method, stage: Stage) -> list[Tensor]:
    """Give every trained weight a gradient; return all tensors that outlive a step."""
    gradients = []
    for parameters in method.trainable(stage.name).values():
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
    return [*gradients, *method.parameters(), *method.buffers()]


def one_step(
    method: Method, stage: Stage, batch: Batch, device: torch.device, precision: Precision
) -> None:
    """Run forward and backward as the engine does."""
    # A late iteration: every loss has its weight by then.
    progress = Progress(stage.name, stage.iterations - 1, stage.iterations)
    with autocast(device, precision):
        losses = iter(method.training_step(batch, progress).losses())
    while True:
        with autocast(device, precision):
            loss = next(losses, None)
        if loss is None:
            return
        loss.backward()
        del loss


def _fixed_bytes(method: Method, stage: Stage, recipe: Any) -> float:
    """Return the bytes of weights, buffers, gradients and optimizer state of a stage."""
    stored = sum(t.nbytes for t in [*method.parameters(), *method.buffers()])
    settings = recipe.training.optimizer_of(stage.name)
    trained = 0
    for parameters in method.trainable(stage.name).values():
        optimizer = build_optimizer(parameters, settings, torch.device("cpu"))
        states = 2 if isinstance(optimizer, torch.optim.Adam) else int(settings.momentum > 0)
        trained += sum(p.nbytes for p in parameters) * (1 + states)
    return float(stored + trained)
