"""Small networks, batches and steps for tests over every registered method."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from medssl.methods.base import Batch, LabeledBatch, Method, Progress, UnlabeledBatch
from medssl.methods.registry import get_method, get_settings, list_methods
from medssl.networks.build import build_network
from medssl.settings.recipe import Recipe

SHAPES = {2: (24, 16), 3: (16, 12, 8)}
BUDGET = 40


def choices(name: str, key: str) -> list[Any]:
    """Return the words of a setting, or [None] where a method has no such setting."""
    return sorted(get_settings(name).words(key) - {"off"}) or [None]


def all_settings() -> list[tuple[str, dict[str, str]]]:
    """Return every method in every preset, and in every variant of a preset that has variants."""
    out = []
    for name in list_methods():
        for preset in choices(name, "preset"):
            variants = choices(name, "variant") if preset == "official" else [None]
            for variant in variants:
                given = {"preset": preset, "variant": variant}
                out.append((name, {k: v for k, v in given.items() if v is not None}))
    return out


def ident(value: Any) -> str | None:
    return "-".join(value.values()) or "default" if isinstance(value, dict) else None


ALL = pytest.mark.parametrize(("name", "settings"), all_settings(), ids=ident)
DIMS = pytest.mark.parametrize("dims", [2, 3])


def small_network(dims: int, classes: int, **overrides: Any) -> nn.Module:
    options = {"channels": [4, 8], "strides": [2], "num_res_units": 0, "norm": "batch"}
    return build_network(
        "unet",
        spatial_dims=dims,
        in_channels=1,
        num_classes=classes,
        options={**options, "dropout": 0.1, **overrides},
    )


STREAMS = {"labeled", "unlabeled", "masks"}


class Sure(nn.Module):
    """A network that is confident before it has learned anything."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return 30 * self.network(image)


def sure_network(dims: int, classes: int, **overrides: Any) -> nn.Module:
    """Some methods rightly ignore what a network is unsure of."""
    return Sure(small_network(dims, classes, **overrides))


def pointwise_network(dims: int, classes: int, **_: Any) -> nn.Module:
    """The output at a voxel depends on that voxel alone."""
    return (nn.Conv2d, nn.Conv3d)[dims - 2](1, classes, 1)


def make(name, settings, *, dims=2, classes=3, seed=0, network=small_network) -> Method:
    torch.manual_seed(seed)
    cls = get_method(name)
    return cls(
        cls.Settings(**settings),
        lambda **overrides: network(dims, classes, **overrides),
        num_classes=classes,
        spatial_dims=dims,
    ).train()


def make_batch(method, stage, *, labeled=4, unlabeled=4, seed=0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    dims, shape = method.spatial_dims, SHAPES[method.spatial_dims]
    label = torch.randint(0, method.num_classes, (labeled, *shape), generator=g)
    image = torch.randn(labeled, 1, *shape, generator=g) + label.unsqueeze(1)
    other = torch.randn(unlabeled, 1, *shape, generator=g)
    strong = other + 0.3 * torch.randn(other.shape, generator=g)
    assert image.ndim == dims + 2
    return Batch(
        LabeledBatch(image, label) if "labeled" in stage.streams else None,
        UnlabeledBatch(other, tuple(strong for _ in method.settings.unlabeled_views))
        if "unlabeled" in stage.streams
        else None,
        masks=label if "masks" in stage.streams else None,
    )


def optimizers(method, stage):
    groups = method.trainable(stage.name)
    return {k: torch.optim.SGD(v, lr=0.05, momentum=0.9) for k, v in groups.items()}


def step(method, stage, iteration, optims, batch) -> Any:
    """Take one step as the engine does."""
    progress = Progress(stage.name, iteration, stage.iterations, seed=7)
    for optimizer in optims.values():
        optimizer.zero_grad(set_to_none=True)
    torch.manual_seed(iteration)
    output = method.training_step(batch, progress)
    total = 0.0
    for loss in output.losses():
        loss.backward()
        total = total + loss.detach()
    for optimizer in optims.values():
        optimizer.step()
    method.after_step(progress)
    return total, output


def recipe_of(dims, labeled, unlabeled) -> Recipe:
    training = {
        # Equal sides: methods that turn patches refuse others. The network is small_network's kind.
        "patch": [16] * dims,
        "labeled_batch": labeled,
        "unlabeled_batch": unlabeled,
    }
    network = {"name": "unet", "dropout": 0.1}
    return Recipe.model_validate({"training": training, "network": network})
