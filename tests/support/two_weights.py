"""An engine around a method of two weights whose gradients are known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from patch_samplers import make_sampler
from torch import Tensor, nn

from medssl.methods.base import Batch, Method, Progress, StepOutput
from medssl.methods.settings import MethodSettings, Stage
from medssl.ops.ema import ema_update, frozen_copy
from medssl.progress import Display
from medssl.runs.folder import RunFolder
from medssl.settings.recipe import Recipe
from medssl.training.compute import Compute
from medssl.training.engine import Engine
from medssl.training.setup import Feed
from medssl.training.validation import Validation

RATE = 0.5


class Weight(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(value))


class Means(Method):
    """Two losses: the mean of the images times the first weight, twice that times the second."""

    def make_networks(self, build: Any) -> None:
        self.first, self.second = Weight(1.0), Weight(-1.0)
        self.teacher = frozen_copy(self.first)
        self.draws: list[tuple[float, float]] = []
        self.modes: list[bool] = []
        self.rates: list[float] = []
        self.started: list[str] = []
        self.plan: list[Stage] = []
        self.breaks_at = -1

    def stages(self, iterations: int) -> list[Stage]:
        return self.plan or [Stage("train", iterations, streams=("labeled",))]

    def start_stage(self, stage: str) -> None:
        self.started.append(stage)

    def trainable(self, stage: str) -> dict[str, list[nn.Parameter]]:
        return {"first": [self.first.w], "second": [self.second.w]}

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        if progress.iteration == self.breaks_at:
            raise RuntimeError("power cut")
        assert batch.labeled is not None
        self.draws.append((float(torch.rand(())), float(progress.rng("x").random_sample())))
        self.modes.append(all(m.training for m in (self, self.first, self.second)))
        self.rates.append(progress.lr)
        return StepOutput(self.losses(batch.labeled.image.mean()))

    def losses(self, mean: Tensor) -> Iterator[Tensor]:
        yield self.first.w * mean
        yield 2 * self.second.w * mean

    def after_step(self, progress: Progress) -> None:
        ema_update(self.teacher, self.first, 0.75)

    def predictor(self) -> nn.Module:
        return self.teacher


def sampler(seed: int = 3) -> Any:
    options = {"patch": (4, 4, 4), "channels": 1, "batch_size": 2, "stream": "train/labeled"}
    return make_sampler(None, seed=seed, **options)


def engine(
    folder: Path,
    *,
    seed: int = 3,
    dice: Any = None,
    precision: Any = "fp32",
    plan: list[Stage] | None = None,
    **training: Any,
) -> Engine:
    """Build an engine; ``training`` is laid over four iterations of plain SGD at rate 0.5."""
    optimizer = {"name": "sgd", "lr": RATE, "momentum": 0.0, "weight_decay": 0.0}
    given = {"iterations": 4, "optimizer": optimizer, "schedule": {"name": "constant"}}
    recipe = Recipe.model_validate({"seed": seed, "training": {**given, **training}})
    run = RunFolder(folder)
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    method = Means(MethodSettings(), lambda **_: nn.Identity(), num_classes=3, spatial_dims=3)
    method.plan = plan or []
    return Engine(
        method,
        recipe,
        Feed(lambda _: {"labeled": sampler(seed)}),
        validation=Validation(dice) if dice else None,
        run=run,
        compute=Compute(torch.device("cpu"), precision),
        display=Display(quiet=True),
    )


def means(count: int) -> list[float]:
    """The mean of each batch that an engine is given."""
    return [float(sampler().batch(number)["image"].float().mean()) for number in range(count)]
