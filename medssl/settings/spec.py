"""The typed data spec: what is true of a kind of data, with units and ranges.

Shipped specs are loaded and checked in :mod:`medssl.settings.specs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from medssl.settings.intensity_rules import Intensity
from medssl.strict import Strict


class DataSpec(Strict):
    """What is true of a kind of data, whoever trains on it."""

    name: str = Field("custom", description="name of the spec")
    modality: str = Field("MR", description="MR, CT, CBCT or OCT")
    spatial_unit: Literal["mm", "um"] = Field("mm", description="unit of spacing and distances")
    orientation: str | None = Field("RAS", description="axis codes images are turned to, or null")
    spacing: Literal["native", "median"] | list[float | None] = Field(
        "native",
        description="target spacing in the spatial unit (null keeps an axis as it is), median (of "
        "the dataset's labeled scans) or native",
    )
    resize: list[int | None] | None = Field(
        None, description="resize to so many voxels per axis (null keeps an axis)"
    )
    resize_mode: Literal["linear", "nearest"] = Field(
        "linear", description="interpolation of the image when resized"
    )
    intensity: Intensity = Field(default_factory=Intensity)
    slice_axis: int = Field(2, ge=0, le=2, description="axis across the slices, for 2D training")
    flip_axes: list[int] = Field(default_factory=list, description="axes that may be mirrored")
    rot90_planes: list[list[int]] = Field(
        default_factory=list, description="planes in which quarter turns make sense"
    )
    rotate_planes: list[list[int]] = Field(
        default_factory=list, description="planes in which small rotations make sense"
    )
    label_pairs: list[list[int]] = Field(
        default_factory=list,
        description="left and right label values, exchanged when the left-right axis is mirrored",
    )
    depth_direction: str | None = Field(
        None,
        description="axis code the depth of OCT grows to: P where scans are seen from in front",
    )
    align_slices: bool = Field(
        False, description="undo the shifts along depth between slices before training"
    )
    metrics: list[Literal["boundaries"]] = Field(
        default_factory=list,
        description="boundaries: error of each boundary of ordered layers along the depth",
    )
    nsd_tolerance: float = Field(2.0, gt=0, description="surface tolerance in the spatial unit")
    refuse: dict[str, str] = Field(
        default_factory=dict, description="methods that make no sense here, and why"
    )
    warn: dict[str, str] = Field(
        default_factory=dict, description="methods to be used with care here, and why"
    )
    thin: bool = Field(
        False, description="structures are a few voxels wide: canals, vessels, membranes"
    )
    largest_component: bool = Field(False, description="structures are one piece each")
    pieces: dict[int, int] = Field(
        default_factory=dict,
        description="label values of structures in several pieces, and how many: {3: 2}; with "
        "largest_component so many are kept",
    )

    def pieces_of(self, values: Sequence[int]) -> dict[int, int]:
        """Return `pieces` by class index, for the label values of a dataset in class order."""
        return {i: self.pieces[v] for i, v in enumerate(values) if v in self.pieces}
