"""Single steps of methods on random patches, without engine, data or disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from measuring import clock_of

from medssl.device import autocast
from medssl.methods.base import Batch, LabeledBatch, Progress, UnlabeledBatch
from medssl.models.create import create_method
from medssl.recipe.method import resolve_method
from medssl.settings.recipe import Recipe

TOTAL = 8000


def random_batch(
    patch: Sequence[int], rows: int, *, classes: int = 2, device: torch.device | str = "cpu"
) -> Batch:
    """Return noise with random labels: ``rows`` labeled patches and as many unlabeled ones."""
    image = torch.randn(2 * rows, 1, *patch, device=device)
    label = torch.randint(0, classes, (rows, *patch), device=device)
    return Batch(LabeledBatch(image[:rows], label), UnlabeledBatch(image[rows:]))


class SteppedMethod:
    """A method in its last stage, with all schedules over, that takes steps.

    Args:
        method: a registered name.
        overrides: settings of the method that are not its preset's.
        patch: two or three numbers of voxels.
        network: name and options.
        classes: with background.
        device: that trains.
        precision: ``fp32``, ``bf16`` or ``fp16``.
    """

    def __init__(
        self,
        method: str,
        overrides: Mapping[str, Any] | None = None,
        *,
        patch: Sequence[int],
        network: Mapping[str, Any] | None = None,
        classes: int = 2,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
    ) -> None:
        self.device, self.precision = torch.device(device), precision
        self.clock = clock_of(self.device)
        recipe = Recipe.model_validate(
            {
                "network": network or {"name": "vnet"},
                "method": {"name": method, **(overrides or {})},
                "training": {"patch": list(patch)},
            }
        )
        settings = resolve_method(recipe, where="a benchmark").settings
        self.method = create_method(recipe, settings, num_classes=classes, channels=1)
        self.method.to(self.device).train()
        stage = self.method.stages(TOTAL)[-1]
        self.method.start_stage(stage.name)
        self.optimizers = [
            torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=1e-4)
            for parameters in self.method.trainable(stage.name).values()
        ]
        self.progress = Progress(stage.name, stage.iterations - 1, stage.iterations)

    def step(self, batch: Batch, progress: Progress | None = None) -> float:
        """Take a step and return its seconds, see `clock_of`."""
        progress = progress or self.progress
        started = self.clock()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        with autocast(self.device, self.precision):
            losses = iter(self.method.training_step(batch, progress).losses())
        while True:
            with autocast(self.device, self.precision):
                loss = next(losses, None)
            if loss is None:
                break
            loss.backward()
        for optimizer in self.optimizers:
            if any(p.grad is not None for g in optimizer.param_groups for p in g["params"]):
                optimizer.step()
        self.method.after_step(progress)
        return self.clock() - started
