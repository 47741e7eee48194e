"""Settings of UMCT and what they demand of a recipe; the method: :mod:`medssl.methods.umct`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import nn

from medssl.errors import MedSSLError
from medssl.methods.base import Settings
from medssl.networks.build import build_network
from medssl.networks.registry import check_patch
from medssl.ops.losses import DiceVariant
from medssl.ops.uncertainty import Granularity, dropout_layers
from medssl.ops.views import VIEW_COUNTS, View, permuted, standard_views

Fusion = Literal["mean", "ulf", "vote"]
MAX_ANISOTROPY = 2.0
"""Largest ratio of two voxel sides at which a volume may be seen along another axis."""

ADD_DROPOUT = (
    "set network.dropout, for instance to 0.2 (the networks from MONAI have 0 by default), or "
    "method.views to 2, which needs no uncertainty"
)


class UMCTSettings(Settings):
    """Settings of ``umct``."""

    views: int | list[list[int]] | None = Field(
        None, description="2, 3, 6, or a list of axis orders; null: 3 for volumes, 2 for slices"
    )
    views_fraction: float = Field(
        0.8, ge=0, lt=1, description="of all iterations: stage `views`, each view alone"
    )
    mc_samples: int = Field(10, ge=1, description="K, dropout passes per view and iteration")
    granularity: Granularity = Field("voxel", description="one uncertainty per voxel, class, ...")
    members: Literal["samples", "eval"] = Field(
        "samples", description="what is fused: mean of the K passes, or one pass without dropout"
    )
    target: Literal["hard", "soft"] = Field("hard", description="class or probabilities")
    lambda_cot: float = Field(0.2, ge=0, description="factor of the co-training loss")
    loss: Literal["ce_dice", "dice"] = Field("ce_dice", description="1/2 CE + 1/2 Dice, or Dice")
    dice_per_sample: bool = Field(True, description="Dice per patch instead of per batch")
    dice_squared: bool = Field(False, description="squared denominator (V-Net) or plain")
    dice_background: bool = Field(True, description="average over the background class too")
    eps: float = Field(1e-6, gt=0, description="in 1 / (uncertainty + eps)")
    fusion: Fusion | int = Field(
        "mean", description="at inference: mean, ulf, vote, or the number of a single view"
    )
    fusion_samples: int | None = Field(None, ge=1, description="K of fusion ulf; null: mc_samples")
    pretrained_2d: str | None = Field(
        None, description="file with torchvision's ResNet-18 weights, for network ahnet_r18"
    )
    allow_anisotropic: bool = Field(
        False, description="accept anisotropic voxels and patches that are not cubes"
    )

    @property
    def dice(self) -> DiceVariant:
        """The Dice loss that is meant."""
        return DiceVariant(
            per_sample=self.dice_per_sample,
            squared=self.dice_squared,
            background=self.dice_background,
        )

    @field_validator("views")
    @classmethod
    def _permutations(cls, value: int | list[list[int]] | None) -> int | list[list[int]] | None:
        if isinstance(value, int) and value not in VIEW_COUNTS[3]:
            raise ValueError("must be 2, 3, 6 or a list of axis orders such as [[0, 1, 2], ...]")
        if isinstance(value, list):
            if len(value) < 2 or any(sorted(v) != list(range(len(value[0]))) for v in value):
                raise ValueError("must be two or more orders of all axes, such as [0, 2, 1]")
            if len({tuple(v) for v in value}) < len(value):
                raise ValueError("names the same order twice")
        return value

    @field_validator("fusion")
    @classmethod
    def _view_number(cls, value: Fusion | int) -> Fusion | int:
        if isinstance(value, int) and value < 0:
            raise ValueError("the number of a view counts from 0")
        return value

    def resolve_views(self, spatial_dims: int) -> tuple[View, ...]:
        """Return the views of images with so many axes.

        Raises:
            ValueError: they have no such views.
        """
        if isinstance(self.views, list):
            if len(self.views[0]) != spatial_dims:
                raise ValueError(f"{self.views[0]} does not order {spatial_dims} axes")
            return tuple(tuple(v) for v in self.views)
        # By default as many views as axes.
        return standard_views(self.views or spatial_dims, spatial_dims)


def recipe_problems(settings: UMCTSettings, recipe: Any) -> list[str]:
    """Return what makes the method impossible or senseless with a recipe."""
    try:
        views = settings.resolve_views(recipe.training.spatial_dims)
    except ValueError as error:
        return [
            f"method.views does not suit training.patch {list(recipe.training.patch)}: {error}; "
            "coronal and sagittal views need volumes"
        ]
    out = []
    if recipe.training.unlabeled_batch < 1:
        out.append("method umct needs training.unlabeled_batch of at least 1")
    if isinstance(settings.fusion, int) and settings.fusion >= len(views):
        out.append(
            f"method.fusion is view {settings.fusion} but there are {len(views)}, counted from 0"
        )
    if settings.pretrained_2d and recipe.network.name != "ahnet_r18":
        out.append(
            f"method.pretrained_2d is for network ahnet_r18: {recipe.network.name!r} cannot start "
            "from 2D weights"
        )
    out += _geometry(settings, recipe, views)
    if len(views) > 2 and not dropout_layers(_outline(recipe)):
        out.append(
            f"network {recipe.network.name!r} has no dropout, so the uncertainty of umct would be "
            f"0 everywhere: {ADD_DROPOUT}"
        )
    return out


def recipe_warnings(settings: UMCTSettings, recipe: Any) -> list[str]:
    """Describe settings that do nothing, and a network the method was not made for."""
    views = settings.resolve_views(recipe.training.spatial_dims)
    network = _outline(recipe)
    out = []
    if settings.lambda_cot == 0:
        out.append("method.lambda_cot is 0: the unlabeled images do nothing")
    if len(views) == 2:
        out.append(
            "umct with two views teaches each by the other alone: uncertainty has nothing to "
            "weigh, and method.granularity does nothing"
        )
        if settings.mc_samples > 1 and not dropout_layers(network):
            out.append(
                f"network {recipe.network.name!r} has no dropout: the {settings.mc_samples} "
                "passes of method.mc_samples are all the same; 1 costs less"
            )
    elif settings.mc_samples == 1:
        out.append("method.mc_samples is 1: uncertainty is 0 and the views are plainly averaged")
    if recipe.training.spatial_dims == 3 and has_symmetric_kernels(network):
        out.append(
            f"the kernels of network {recipe.network.name!r} are the same along all axes: its "
            "views may become alike. umct was made for n x n x 1 kernels (network ahnet_r18)"
        )
    return out


def has_symmetric_kernels(network: nn.Module) -> bool:
    """Return whether no convolution of a network treats one axis differently from another."""
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)]
    return all(len(set(m.kernel_size)) == 1 for m in convolutions)


def _outline(recipe: Any) -> nn.Module:
    """Build the recipe's network without memory for its weights."""
    with torch.device("meta"):
        return build_network(
            recipe.network.name,
            spatial_dims=recipe.training.spatial_dims,
            in_channels=1,
            num_classes=2,
            options=recipe.network.options,
        )


def _geometry(settings: UMCTSettings, recipe: Any, views: Sequence[View]) -> list[str]:
    """Refuse voxels and patches that a view along another axis would distort or not fit."""
    patch, spacing = recipe.training.patch, recipe.spec.spacing
    override = "or set method.allow_anisotropic: true"
    if not settings.allow_anisotropic:
        if len(patch) == 3 and isinstance(spacing, list) and None not in spacing:
            # Only axes that some view exchanges have to be alike.
            pairs = [
                (a, b) for v in views for a, b in zip(spacing, permuted(spacing, v), strict=True)
            ]
            ratio = max(max(a / b, b / a) for a, b in pairs)
            if ratio > MAX_ANISOTROPY:
                return [
                    f"umct looks at the volume along other axes, and voxels of spec.spacing "
                    f"{spacing} are {ratio:.1f} times as long as wide: set a spacing with sides at "
                    f"most {MAX_ANISOTROPY:g} times each other, {override}"
                ]
        if any(permuted(patch, view) != list(patch) for view in views):
            side = sorted(patch)[len(patch) // 2]
            return [
                f"umct looks at each patch along other axes, and training.patch {list(patch)} is "
                f"not a cube: use {[side] * len(patch)} and a spec.spacing that is about the same "
                f"along all axes, {override}"
            ]
    for view in views:
        try:
            check_patch(recipe.network.name, permuted(patch, view), recipe.network.options)
        except MedSSLError as error:
            return [f"in view {list(view)}, {error.what}"]
    return []
