"""How long an iteration takes here: steps as they are, timed."""

from __future__ import annotations

import time

import torch

from medssl.device import Precision
from medssl.models.create import create_method
from medssl.planning.footprint import noise_batch, one_step
from medssl.recipe.load import LoadedRecipe

TIMED_STEPS = 2
"""Steps of each stage that are timed, after one that is not."""


def seconds_per_iteration(
    loaded: LoadedRecipe,
    *,
    num_classes: int,
    channels: int,
    device: torch.device,
    precision: Precision,
) -> float:
    """Time a few steps of a recipe as it is; the mean over its stages' iterations.

    On a CPU the processor's time counts, so that other programs running here do not.

    Args:
        loaded: the recipe.
        num_classes, channels: of the dataset.
        device, precision: of the steps.
    """
    recipe = loaded.recipe
    spent, total = 0.0, 0
    with torch.random.fork_rng(devices=[]):
        method = create_method(recipe, loaded.settings, num_classes=num_classes, channels=channels)
        method.to(device).train()
        for stage in method.stages(max(recipe.training.iterations, 2)):
            if stage.iterations == 0:
                continue
            method.start_stage(stage.name)
            patch = recipe.training.patch
            batch = noise_batch(method, stage, recipe, patch, num_classes, channels, device)
            one_step(method, stage, batch, device, precision)
            started = _clock(device)
            for _ in range(TIMED_STEPS):
                one_step(method, stage, batch, device, precision)
            spent += (_clock(device) - started) / TIMED_STEPS * stage.iterations
            total += stage.iterations
    return spent / max(total, 1)


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time() / torch.get_num_threads()
