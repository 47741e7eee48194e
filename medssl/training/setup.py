"""What the engine trains on: patches of the run's cases, and where they are made."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from medssl.data.patches.device_cases import DeviceCases
from medssl.data.patches.sampling import PatchSampler, PatchSettings, Stream
from medssl.methods.settings import Stage
from medssl.progress import Display
from medssl.settings.recipe import Recipe
from medssl.settings.spec import DataSpec
from medssl.settings.training import TrainingSettings
from medssl.training.compute import Compute
from medssl.training.placement import place_cases
from medssl.training.prepare import TrainingData

SamplerFactory = Callable[[Stage], dict[str, PatchSampler]]
"""Makes the patch samplers of a stage, by stream."""


@dataclass(frozen=True)
class Feed:
    """How patches come to the engine.

    Attributes:
        samplers: makes the patch samplers of a stage.
        workers: loader processes; 0 loads in the process that trains.
        resident: the cases on the device, for samplers that deliver places.
    """

    samplers: SamplerFactory
    workers: int = 0
    resident: DeviceCases | None = None


def make_feed(
    recipe: Recipe,
    data: TrainingData,
    compute: Compute,
    display: Display,
    *,
    views: tuple[str, ...],
    step_bytes: Callable[[], float],
) -> Feed:
    """Decide where patches are made, copy cases to the device if they are to live there.

    Args:
        recipe: the recipe.
        data: its cases.
        compute: what trains.
        display: shows progress.
        views: further views of unlabeled patches that the method is given.
        step_bytes: returns what training needs of the device's memory besides; takes seconds.

    Raises:
        MedSSLError: the cases were asked to lie on the device and do not fit.
    """
    training, spec, device = recipe.training, recipe.spec, compute.device
    placed = place_cases(training, spec, data, device, display, step_bytes=step_bytes)
    settings = replace(patch_settings(training, spec, data), deliver=placed.deliver)
    workers = loader_workers(training.workers, device, resident=placed.resident is not None)
    return Feed(make_samplers(recipe, data, settings, views=views), workers, placed.resident)


def patch_settings(training: TrainingSettings, spec: DataSpec, data: TrainingData) -> PatchSettings:
    """Return how patches of a run are cut; finished in the loader."""
    return PatchSettings(
        training.patch,
        slice_axis=spec.slice_axis,
        augment=data.plan.augmenter,
        sparse=data.plan.dataset.labels.ignore_value is not None,
    )


def make_samplers(
    recipe: Recipe, data: TrainingData, settings: PatchSettings, *, views: tuple[str, ...]
) -> SamplerFactory:
    """Return a function that makes the patch samplers of a stage; see :func:`make_feed`."""
    training, cases = recipe.training, data.streams
    sizes = {
        "labeled": training.labeled_batch,
        "unlabeled": training.unlabeled_batch,
        "masks": training.labeled_batch,
    }

    def make(stage: Stage) -> dict[str, PatchSampler]:
        return {
            name: PatchSampler(
                cases[name],
                Stream(
                    f"{stage.name}/{name}",
                    recipe.seed,
                    stage.batch_sizes.get(name, sizes[name]),
                    0.0 if name == "unlabeled" else training.foreground_fraction,
                    views=views if name == "unlabeled" else (),
                    labels_only=name == "masks",
                ),
                settings,
            )
            for name in stage.streams
            if cases[name] or name == "unlabeled"  # a site of a federation may have no labels
        }

    return make


def loader_workers(setting: int | str, device: torch.device, *, resident: bool = False) -> int:
    """Return the number of loader processes; ``auto`` keeps a CPU run's cores for the networks.

    Where the cases are ``resident`` on the device, drawing places is too little for a process.
    """
    if isinstance(setting, int):
        return setting
    return 0 if device.type == "cpu" or resident else max(1, min(4, (os.cpu_count() or 2) - 1))
