"""What the scans look like that a model was trained on.

The fingerprint stands in a run's manifest.json and in a bundle's metadata.json under
``training_fingerprint``. It is made of numbers over all scans and names no case.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from medssl.data.preprocessing.scan_facts import PERCENTS, ChannelFacts, ScanFacts
from medssl.inference.unusual import Normal
from medssl.settings.spec import DataSpec

FINGERPRINT = "training_fingerprint"
"""Its key in manifest.json and metadata.json."""
SAME_SPACING = 1.05
"""Voxel edges within this factor of the training scans' are not resampled in a native run."""
HOUNSFIELD_FROM, NEVER_BELOW = 0.005, 0.001
"""Shares of voxels below :data:`FAT` from which values are Hounsfield units, or cannot be."""
HOUNSFIELD_SPAN = 200.0
"""Values that reach less far, and not so far below 0, are no Hounsfield units: standardized values
are negative, too."""

_INSIDE = PERCENTS[1:-1]


@dataclass(frozen=True)
class ChannelRange:
    """The values of one channel over all training scans.

    Attributes:
        span: least and largest distance between the ends of a scan's values.
        below: least and largest share of a scan's voxels below -50.
    """

    span: tuple[float, float]
    below: tuple[float, float]

    @property
    def always_hounsfield(self) -> bool:
        """Whether all scans hold Hounsfield units."""
        return self.below[0] >= HOUNSFIELD_FROM and self.span[0] >= HOUNSFIELD_SPAN


@dataclass(frozen=True)
class TrainingFingerprint:
    """The training scans of a model in numbers.

    Attributes:
        modality: what the dataset, or else the data spec, says they are; None: unknown.
        scans, patients: how many there were.
        measures: logarithms of voxel edges and extents, and places of percentiles between a
            scan's own ends, by name: ``spacing 0``, ``extent 2``, ``values 0 95``.
        edge: least and largest geometric mean of a scan's voxel edges.
        channels: ranges of stored values.
        axes: where the axes of the scans lead as they are stored; empty in older records.
    """

    modality: str | None
    scans: int
    patients: int
    edge: tuple[float, float]
    measures: Mapping[str, Normal]
    channels: tuple[ChannelRange, ...]
    axes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the content as plain values, for JSON."""
        return asdict(self) | {"measures": {k: asdict(v) for k, v in self.measures.items()}}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> TrainingFingerprint:
        """Read back what :meth:`as_dict` gave.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        modality = content["modality"]
        measures = {
            str(name): Normal(*(float(m[key]) for key in ("mean", "std", "low", "high")))
            for name, m in content["measures"].items()
        }
        channels = tuple(
            ChannelRange(*((float(c[key][0]), float(c[key][1])) for key in ("span", "below")))
            for c in content["channels"]
        )
        return cls(
            None if modality is None else str(modality),
            int(content["scans"]),
            int(content["patients"]),
            (float(content["edge"][0]), float(content["edge"][1])),
            measures,
            channels,
            tuple(str(code) for code in content.get("axes", ())),
        )

    def spacing_range(self, axis: int) -> tuple[float, float]:
        """Return the shortest and the longest voxel edge along an axis, in the spec's unit."""
        normal = self.measures[f"spacing {axis}"]
        return math.exp(normal.low), math.exp(normal.high)

    def spec_for(self, facts: ScanFacts, spec: DataSpec, *, slices: bool) -> DataSpec:
        """Return the data spec for one scan: where voxels are native, in the range of training.

        Args:
            facts: of the scan.
            spec: of the model.
            slices: the network sees one slice at a time, so that their distance does not matter.
        """
        target: list[float | None] = [None] * 3
        if not isinstance(spec.spacing, str):
            target = list(spec.spacing)
        changed = False
        for axis in self.free_axes(spec, slices=slices):
            own = facts.spacing[axis]
            low, high = self.spacing_range(axis)
            if not low / SAME_SPACING <= own <= high * SAME_SPACING:
                target[axis] = float(f"{min(max(own, low), high):.6g}")
                changed = True
        return spec.model_copy(update={"spacing": target}) if changed else spec

    def free_axes(self, spec: DataSpec, *, slices: bool) -> list[int]:
        """Return the axes whose voxel edge a data spec leaves to the scan; see `spec_for`."""
        fixed = [None] * 3 if isinstance(spec.spacing, str) else spec.spacing
        kept = slices or spec.modality.upper() == "OCT"
        return [
            axis
            for axis in range(3)
            if fixed[axis] is None
            and (spec.resize is None or spec.resize[axis] is None)
            and not (kept and axis == spec.slice_axis)
        ]


def learn_fingerprint(
    scans: Sequence[ScanFacts], *, patients: int, modality: str | None
) -> TrainingFingerprint:
    """Put training scans together.

    Args:
        scans: one or more, of the same channels.
        patients: of how many patients they are.
        modality: what they are, where that is known.

    Raises:
        ValueError: there are no scans.
    """
    if not scans:
        raise ValueError("a fingerprint needs a scan")
    rows = [measures_of(scan) for scan in scans]
    measures = {}
    for name in rows[0]:
        values = np.array([row[name] for row in rows if name in row])
        spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
        measures[name] = Normal(
            float(values.mean()), spread, float(values.min()), float(values.max())
        )
    channels = tuple(
        ChannelRange(
            (min(c.span for c in column), max(c.span for c in column)),
            (min(c.below for c in column), max(c.below for c in column)),
        )
        for column in zip(*(scan.channels for scan in scans), strict=False)
    )
    edges = [math.prod(scan.spacing) ** (1 / 3) for scan in scans]
    edge = (min(edges), max(edges))
    axes = tuple(sorted({scan.axes for scan in scans} - {""}))
    return TrainingFingerprint(modality, len(scans), patients, edge, measures, channels, axes)


def read_fingerprint(content: Any) -> TrainingFingerprint | None:
    """Read a fingerprint of a manifest; None where it has none, as in runs of older versions."""
    try:
        return TrainingFingerprint.from_dict(content)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        return None


def is_hounsfield(channel: ChannelFacts) -> bool:
    """Tell whether stored values look like Hounsfield units: many are far below 0."""
    far = channel.span >= HOUNSFIELD_SPAN or channel.percentiles[0] <= -HOUNSFIELD_SPAN
    return channel.below >= HOUNSFIELD_FROM and far


def measures_of(facts: ScanFacts) -> dict[str, float]:
    """Return the measures of one scan by name."""
    out = {f"spacing {a}": math.log(v) for a, v in enumerate(facts.spacing)}
    out |= {f"extent {a}": math.log(v) for a, v in enumerate(facts.extent)}
    for number, channel in enumerate(facts.channels):
        low, span = channel.percentiles[0], channel.span
        if span > 0:
            for percent, value in zip(_INSIDE, channel.percentiles[1:-1], strict=True):
                out[f"values {number} {percent:g}"] = (value - low) / span
    return out
