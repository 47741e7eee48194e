"""A recipe's method with freshly initialized networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from medssl.data.datasets.case import LabelMap
from medssl.errors import MedSSLError
from medssl.methods.base import Method
from medssl.methods.registry import get_method
from medssl.methods.settings import MethodSettings
from medssl.networks.build import build_network
from medssl.settings.recipe import Recipe


def create_method(
    recipe: Recipe,
    settings: MethodSettings,
    *,
    num_classes: int,
    channels: int,
    labels: LabelMap | None = None,
) -> Method:
    """Build the method with freshly initialized networks that depend on the seed alone.

    Args:
        recipe: names the method and its network.
        settings: of the method.
        num_classes: classes including background.
        channels: of the images.
        labels: of the dataset. Training needs them, to know which structure has several pieces or
            labels.

    Raises:
        MedSSLError: the networks cannot be built, or are not such as the method needs.
    """
    dims, classes = recipe.training.spatial_dims, num_classes

    def build(
        *,
        network: str | None = None,
        in_channels: int | None = None,
        num_classes: int | None = None,
        **own: Any,
    ) -> nn.Module:
        same = network in (None, recipe.network.name)
        return build_network(
            network or recipe.network.name,
            spatial_dims=dims,
            in_channels=channels if in_channels is None else in_channels,
            num_classes=classes if num_classes is None else num_classes,
            settings={**recipe.network.settings, **own} if same else own,
        )

    torch.manual_seed(recipe.seed)
    method = get_method(recipe.method.name)(
        settings, build, num_classes=num_classes, spatial_dims=dims
    )
    problems = method.check_networks()
    if problems:
        raise MedSSLError(
            problems[0],
            where=f"network {recipe.network.name}",
            fix="change the network, or its settings",
        )
    if labels is not None:
        method.pieces = recipe.spec.pieces_of(labels.values)
        if recipe.training.region_loss:
            method.unions = tuple(classes for classes, _ in labels.region_classes)
    return method
