"""Augmentation of training patches: its settings, and presets of them as tables of values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from medssl.strict import Strict

Change = Literal[
    "blur", "low_resolution", "inverted_gamma", "gamma", "contrast", "brightness", "noise"
]
CHANGES: tuple[Change, ...] = (
    *("blur", "low_resolution", "inverted_gamma", "gamma", "contrast", "brightness", "noise"),
)
"""In the order in which they are made."""


class ChangeSettings(Strict):
    """One kind of change of intensities: how often, and how strongly."""

    probability: float = Field(ge=0, le=1, description="chance that a patch is changed so")
    range: tuple[float, float] = Field(
        description="blur: width in voxels; low_resolution: share of the voxels along each axis "
        "that are kept; gamma: power; contrast: factor; brightness and noise: in standard "
        "deviations"
    )

    @field_validator("range")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError("must be two numbers, the smaller first")
        return value


POSITIVE = ("low_resolution", "inverted_gamma", "gamma", "contrast")

PRESETS: dict[str, dict[str, Any]] = {
    "light": {
        "rotate_degrees": 15,
        "rotate_probability": 0.3,
        "scale": [0.85, 1.15],
        "scale_probability": 0.3,
        "intensity_probability": 0.15,
    },
    "nnunet": {
        "rotate_degrees": 30,
        "rotate_probability": 0.2,
        "scale": [0.7, 1.4],
        "scale_probability": 0.2,
        "intensity": {
            "blur": {"probability": 0.2, "range": [0.5, 1.0]},
            "low_resolution": {"probability": 0.25, "range": [0.5, 1.0]},
            "inverted_gamma": {"probability": 0.1, "range": [0.7, 1.5]},
            "gamma": {"probability": 0.3, "range": [0.7, 1.5]},
            "contrast": {"probability": 0.15, "range": [0.75, 1.25]},
            "brightness": {"probability": 0.15, "range": [-0.25, 0.25]},
            "noise": {"probability": 0.1, "range": [0.0, 0.3]},
        },
    },
}
"""``nnunet``: kinds, chances and ranges of nnU-Net 2 (Isensee et al. 2021); its brightness is a
factor of z-scores, here a shift, which means the same for every intensity rule."""


class AugmentSettings(Strict):
    """Augmentation of training patches, the same for every method and stream.

    Flips and quarter turns also need the data spec's leave (`flip_axes`, `rot90_planes`). The name
    of a preset alone stands for its values; a key beside ``preset`` overrides it.
    """

    preset: Literal["light", "nnunet"] | None = Field(
        None, description="values of all keys that are not given; null: those below"
    )
    flip: bool = Field(True, description="mirror each allowed axis with probability one half")
    rot90: bool = Field(True, description="random quarter turns in the allowed planes")
    rotate_degrees: float = Field(0.0, ge=0, le=180, description="small rotations up to so far")
    rotate_probability: float = Field(0.25, ge=0, le=1)
    scale: tuple[float, float] = Field((1.0, 1.0), description="range of random zoom")
    scale_probability: float = Field(0.25, ge=0, le=1)
    deform_voxels: float = Field(
        0.0, ge=0, description="smooth deformation: spread of the displacements, in voxels"
    )
    deform_probability: float = Field(0.2, ge=0, le=1)
    intensity_probability: float = Field(
        0.0, ge=0, le=1, description="chance of each of noise, gamma, brightness, contrast, blur"
    )
    intensity: dict[Change, ChangeSettings] = Field(
        default_factory=dict,
        description="changes of intensities one by one, in place of intensity_probability",
    )
    strong_probability: float = Field(
        0.8, ge=0, le=1, description="the same for the strong view, where a method uses one"
    )

    place: Literal["auto", "loader", "device"] = Field(
        "auto",
        description="where patches are warped and intensities changed: by the loader or on the "
        "device that trains; the patches are the same. auto: on the device where it is a CUDA card",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: Any) -> Any:
        """Fill in the preset."""
        if isinstance(given, str):
            given = {"preset": given}
        if not isinstance(given, Mapping):
            return given
        return {**PRESETS.get(str(given.get("preset")), {}), **given}

    @field_validator("scale")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError("must be two positive numbers, the smaller first")
        return value

    @field_validator("intensity")
    @classmethod
    def _in_range(cls, value: dict[Change, ChangeSettings]) -> dict[Change, ChangeSettings]:
        for name, change in value.items():
            low, high = change.range
            if (name in POSITIVE and low <= 0) or (name in ("blur", "noise") and low < 0):
                raise ValueError(f"{name}: range must be above 0, not {low:g} to {high:g}")
            if name == "low_resolution" and high > 1:
                raise ValueError(f"{name}: range must end at 1 or below, not {high:g}")
        return value
