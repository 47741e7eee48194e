"""A method with small networks and batches: what the checks of the contract look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from medssl.methods.base import Batch, LabeledBatch, Method, Progress, StepOutput, UnlabeledBatch
from medssl.methods.settings import Stage
from medssl.networks.build import build_network
from medssl.testing.contract import ContractError

SHAPES: dict[int, tuple[int, ...]] = {2: (24, 16), 3: (16, 12, 8)}
"""Voxels of a patch, by the number of dimensions."""
BUDGET = 40
"""Iterations of a run, divided into stages."""
SEED = 7

NetworkMaker = Callable[..., nn.Module]
"""``make(dims, classes, **overrides)``; overrides as in a method's ``build``."""
Optimizers = dict[str, torch.optim.Optimizer]


def small_network(
    dims: int,
    classes: int,
    *,
    network: str | None = None,
    in_channels: int | None = None,
    num_classes: int | None = None,
    **overrides: Any,
) -> nn.Module:
    """Build a small U-Net with what couples and perturbs samples: BatchNorm and dropout."""
    settings = {"channels": [4, 8], "strides": [2], "num_res_units": 0, "norm": "batch"}
    return build_network(
        network or "unet",
        spatial_dims=dims,
        in_channels=in_channels or 1,
        num_classes=num_classes or classes,
        settings=overrides if network else {**settings, "dropout": 0.1, **overrides},
    )


class Sure(nn.Module):
    """A network that is confident before it has learned anything."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Return large logits ``(B, C, *spatial)``."""
        out: Tensor = 30 * self.network(image)
        return out


def sure_network(dims: int, classes: int, **overrides: Any) -> nn.Module:
    """Build a confident network: some methods rightly ignore what a network is unsure of."""
    return Sure(small_network(dims, classes, **overrides))


def pointwise_network(dims: int, classes: int, **_: Any) -> nn.Module:
    """Build a network whose output at a voxel depends on that voxel alone."""
    return (nn.Conv2d, nn.Conv3d)[dims - 2](1, classes, 1)


@dataclass(frozen=True)
class Subject:
    """A method as one check sees it.

    Attributes:
        name: what messages call it.
        method: its class; the settings' class is ``method.Settings``.
        settings: of the user's, others as the preset says.
        dims: 2 or 3.
        classes: including background.
        network: makes its networks, where a check does not want others.
    """

    name: str
    method: type[Method]
    settings: Mapping[str, Any] = field(default_factory=dict)
    dims: int = 2
    classes: int = 3
    network: NetworkMaker = small_network

    def __str__(self) -> str:
        """Say which method, in which settings and dimensions."""
        chosen = [f"{key} {value}" for key, value in self.settings.items()]
        return ", ".join([self.name, *chosen, f"{self.dims}D", f"{self.classes} classes"])

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels of a patch."""
        return SHAPES[self.dims]

    def resolved(self) -> Any:
        """Return the settings with every value."""
        return self.method.Settings(**self.settings)

    def make(self, *, seed: int = 0, network: NetworkMaker | None = None) -> Method:
        """Build the method in train mode; the seed decides all its weights."""
        torch.manual_seed(seed)
        network = network or self.network
        return self.method(
            self.resolved(),
            lambda **overrides: network(self.dims, self.classes, **overrides),
            num_classes=self.classes,
            spatial_dims=self.dims,
        ).train()

    def in_stages(self, *, network: NetworkMaker | None = None) -> Iterator[tuple[Method, Stage]]:
        """Yield one method in each of its stages, one after the other."""
        method = self.make(network=network)
        for stage in method.stages(BUDGET):
            method.start_stage(stage.name)
            yield method, stage


class UnlabeledOnly(UnlabeledBatch):
    """Unlabeled patches that notice whoever asks for their labels."""

    def __getattr__(self, name: str) -> Any:
        """Refuse what is not there; labels, masks and truth by a message."""
        if name.rstrip("s") in ("label", "mask", "target", "truth"):
            raise ContractError(
                f"the method asked for `{name}` of an unlabeled batch; expected: hidden labels "
                "are never read"
            )
        raise AttributeError(name)


def make_batch(
    method: Method, stage: Stage, *, labeled: int = 4, unlabeled: int = 4, seed: int = 0
) -> Batch:
    """Make a batch of the streams of a stage.

    Args:
        method: says dimensions, classes and views.
        stage: says the streams.
        labeled: patches with labels, whose intensities say something of them.
        unlabeled: patches without.
        seed: another one gives other patches.
    """
    g = torch.Generator().manual_seed(seed)
    shape = SHAPES[method.spatial_dims]
    label = torch.randint(0, method.num_classes, (labeled, *shape), generator=g)
    image = torch.randn(labeled, 1, *shape, generator=g) + label.unsqueeze(1)
    other = torch.randn(unlabeled, 1, *shape, generator=g)
    strong = other + 0.3 * torch.randn(other.shape, generator=g)
    return Batch(
        LabeledBatch(image, label) if "labeled" in stage.streams else None,
        UnlabeledOnly(other, tuple(strong for _ in method.settings.unlabeled_views))
        if "unlabeled" in stage.streams
        else None,
        masks=label if "masks" in stage.streams else None,
    )


def optimizers(method: Method, stage: Stage) -> Optimizers:
    """Make an optimizer for each group of a stage's parameters."""
    groups = method.trainable(stage.name)
    return {k: torch.optim.SGD(v, lr=0.05, momentum=0.9) for k, v in groups.items()}


def progress_of(stage: Stage, iteration: int) -> Progress:
    """Return where training stands at an iteration of a stage."""
    return Progress(stage.name, iteration, stage.iterations, seed=SEED)


def losses_of(
    method: Method, stage: Stage, iteration: int, batch: Batch, *, seed: int | None = None
) -> tuple[list[Tensor], StepOutput]:
    """Compute the losses of an iteration without going back through them."""
    torch.manual_seed(iteration if seed is None else seed)
    output = method.training_step(batch, progress_of(stage, iteration))
    return list(output.losses()), output


def step(
    method: Method, stage: Stage, iteration: int, optims: Optimizers, batch: Batch
) -> tuple[Tensor, StepOutput]:
    """Take one step as the engine does; return the sum of its losses, and what it gave."""
    total, output = back_propagate(method, stage, iteration, optims, batch)
    for optimizer in optims.values():
        optimizer.step()
    method.after_step(progress_of(stage, iteration))
    return total, output


def back_propagate(
    method: Method, stage: Stage, iteration: int, optims: Optimizers, batch: Batch
) -> tuple[Tensor, StepOutput]:
    """Do the part of a step that leaves gradients and changes no weight."""
    for optimizer in optims.values():
        optimizer.zero_grad(set_to_none=True)
    torch.manual_seed(iteration)
    output = method.training_step(batch, progress_of(stage, iteration))
    total = torch.zeros(())
    for loss in output.losses():
        loss.backward()
        total = total + loss.detach()
    return total, output
