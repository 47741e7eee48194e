"""The networks that come with the package: MONAI's, and those the papers need and MONAI lacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from medssl.networks.network import Network
from medssl.strict import Strict

Norm = Literal["batch", "instance"]

Step = int | list[int]
"""A kernel size or stride: one number, or one per axis."""


class VNetSettings(Strict):
    """Settings of ``vnet``."""

    filters: int = Field(16, ge=1, description="channels of the first level")
    norm: Norm = Field("batch", description="batch or instance (not affine)")
    dropout: float = Field(0.5, ge=0, lt=1, description="channel dropout at bottleneck and head")
    init: Literal["default", "kaiming"] = Field("default", description="initial weights")


class UNet2DSettings(Strict):
    """Settings of ``unet2d``."""

    channels: list[int] = Field([16, 32, 64, 128, 256], min_length=5, max_length=5)
    dropout: list[float] = Field([0.05, 0.1, 0.2, 0.3, 0.5], min_length=5, max_length=5)
    init: Literal["default", "kaiming"] = Field("default", description="initial weights")

    @field_validator("dropout")
    @classmethod
    def _probabilities(cls, value: list[float]) -> list[float]:
        if any(not 0 <= p < 1 for p in value):
            raise ValueError("each must be at least 0 and below 1")
        return value


class UNetSettings(Strict):
    """Settings of ``unet`` (MONAI's UNet)."""

    channels: list[int] = Field([16, 32, 64, 128], min_length=2, description="per level")
    strides: list[Step] = Field([2, 2, 2], description="between levels, one fewer than channels")
    kernel_size: Step = Field(3, description="one odd number, or one per axis")
    num_res_units: int = Field(2, ge=0, description="residual convolutions per level; 0: none")
    norm: Norm = Field("instance", description="instance or batch")
    act: Literal["prelu", "relu", "leakyrelu"] = Field("prelu")
    dropout: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _lengths(self) -> Self:
        if len(self.strides) != len(self.channels) - 1:
            raise ValueError(
                f"{len(self.channels)} channels need {len(self.channels) - 1} strides, "
                f"not {len(self.strides)}"
            )
        return self


class AHNetR18Settings(Strict):
    """Settings of ``ahnet_r18``."""

    dropout: float = Field(0.2, ge=0, lt=1, description="channel dropout after each dense block")
    init: Literal["default", "kaiming"] = Field("kaiming", description="initial weights")


class ResVNetSettings(Strict):
    """Settings of ``resvnet``."""

    filters: int = Field(16, ge=1, description="channels of the first level")
    norm: Norm = Field("batch", description="of the decoder: batch or instance (not affine)")


class DynUNetSettings(Strict):
    """Settings of ``dynunet`` (MONAI's DynUNet, the nnU-Net architecture)."""

    filters: list[int] = Field([16, 32, 64, 128], min_length=3, description="per stage")
    strides: list[Step] | None = Field(None, description="per stage, the first 1; null: 1, 2, 2...")
    kernel_size: list[Step] | None = Field(None, description="per stage; null: 3 everywhere")
    norm: Norm = Field("instance", description="instance or batch")
    res_block: bool = Field(False, description="residual blocks")
    dropout: float = Field(0.0, ge=0, lt=1)
    deep_supervision: bool | int = Field(
        False,
        description="train at coarser scales too: true for all but the lowest, or so many of them",
    )

    @model_validator(mode="after")
    def _lengths(self) -> Self:
        most = len(self.filters) - 2
        if not 0 <= self.deep_supervision <= most:
            raise ValueError(
                f"{len(self.filters)} filters have {most} coarser scales to predict at: "
                f"deep_supervision must be true, false or 1 to {most}"
            )
        for name in ("strides", "kernel_size"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.filters):
                raise ValueError(
                    f"{len(self.filters)} filters need {len(self.filters)} {name}, not {len(value)}"
                )
        return self

    @property
    def steps(self) -> list[Step]:
        """Strides with the default filled in."""
        return self.strides or [1, *[2] * (len(self.filters) - 1)]

    @property
    def heads(self) -> int:
        """Coarser scales that are trained at."""
        if self.deep_supervision is True:
            return max(1, len(self.filters) - 3)
        return int(self.deep_supervision)


class SegResNetSettings(Strict):
    """Settings of ``segresnet`` (MONAI's SegResNet)."""

    init_filters: int = Field(16, ge=8, multiple_of=8, description="channels of the first level")
    blocks_down: list[int] = Field([1, 2, 2, 4], min_length=2, description="blocks per level")
    blocks_up: list[int] = Field([1, 1, 1], description="blocks per level, one fewer")
    dropout: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _lengths(self) -> Self:
        if len(self.blocks_up) != len(self.blocks_down) - 1:
            raise ValueError(
                f"{len(self.blocks_down)} blocks_down need {len(self.blocks_down) - 1} blocks_up"
            )
        return self


def _products(steps: Sequence[Step], dims: int) -> list[int]:
    """Multiply strides per axis."""
    out = [1] * dims
    for step in steps:
        each = [step] * dims if isinstance(step, int) else step
        if len(each) != dims:
            raise ValueError(f"stride {step} needs {dims} numbers, one per axis")
        out = [a * b for a, b in zip(out, each, strict=True)]
    return out


Arguments = dict[str, Any]


def _own(o: Strict, **sizes: Any) -> Arguments:
    """Of the package's own networks: settings and arguments bear the same names."""
    return {**sizes, **o.model_dump()}


def _own_of_one_dimension(o: Strict, *, spatial_dims: int, **sizes: Any) -> Arguments:
    """Of those that exist in one number of dimensions."""
    return _own(o, **sizes)


def _of_monai(spatial_dims: int, in_channels: int, num_classes: int) -> Arguments:
    """Of MONAI's networks: what they call their sizes."""
    return {
        "spatial_dims": spatial_dims,
        "in_channels": in_channels,
        "out_channels": num_classes,
    }


def _unet(o: UNetSettings, **sizes: int) -> Arguments:
    return {
        **_of_monai(**sizes),
        "channels": o.channels,
        "strides": o.strides,
        "kernel_size": o.kernel_size,
        "up_kernel_size": o.kernel_size,
        "num_res_units": o.num_res_units,
        "act": o.act,
        "norm": o.norm,
        "dropout": o.dropout,
    }


def _dynunet(o: DynUNetSettings, **sizes: int) -> Arguments:
    return {
        **_of_monai(**sizes),
        "kernel_size": o.kernel_size or [3] * len(o.filters),
        "strides": o.steps,
        "upsample_kernel_size": o.steps[1:],
        "filters": o.filters,
        "norm_name": [o.norm, {"affine": True}],
        "res_block": o.res_block,
        "dropout": o.dropout or None,
    }


def _segresnet(o: SegResNetSettings, **sizes: int) -> Arguments:
    return {
        **_of_monai(**sizes),
        "init_filters": o.init_filters,
        "dropout_prob": o.dropout or None,
        "blocks_down": o.blocks_down,
        "blocks_up": o.blocks_up,
    }


BUILTIN = {
    "vnet": Network(
        "V-Net of the semi-supervised literature, 9.4 M parameters, 2D and 3D",
        VNetSettings,
        "medssl.networks.vnet:VNet",
        _own,
        lambda o, dims: [16] * dims,
    ),
    "unet2d": Network(
        "2D U-Net of the semi-supervised literature (ACDC), 1.8 M parameters",
        UNet2DSettings,
        "medssl.networks.unet2d:UNet2D",
        _own_of_one_dimension,
        lambda o, dims: [16] * dims,
        spatial_dims=(2,),
    ),
    "unet": Network(
        "MONAI UNet, small by default; strides per axis for anisotropic voxels",
        UNetSettings,
        "monai.networks.nets:UNet",
        _unet,
        lambda o, dims: _products(o.strides, dims),
    ),
    "dynunet": Network(
        "MONAI DynUNet, the nnU-Net architecture; kernels and strides per stage and axis",
        DynUNetSettings,
        "monai.networks.nets:DynUNet",
        _dynunet,
        lambda o, dims: _products(o.steps, dims),
        finish="medssl.networks.deep_dynunet:add_heads",
    ),
    "segresnet": Network(
        "MONAI SegResNet, residual encoder with group normalization",
        SegResNetSettings,
        "monai.networks.nets:SegResNet",
        _segresnet,
        lambda o, dims: [2 ** (len(o.blocks_down) - 1)] * dims,
    ),
    "ahnet_r18": Network(
        "AH-Net on ResNet-18 with n x n x 1 kernels (UMCT), 11.8 M parameters, 3D",
        AHNetR18Settings,
        "medssl.networks.ahnet_resnet18:AHNetResNet18",
        _own_of_one_dimension,
        lambda o, dims: [32] * dims,
        spatial_dims=(3,),
    ),
    "resvnet": Network(
        "ResNet-34 encoder with V-Net decoder, RAIL's second network, 17.9 M parameters",
        ResVNetSettings,
        "medssl.networks.resvnet:ResVNet",
        _own,
        lambda o, dims: [16] * dims,
    ),
}
