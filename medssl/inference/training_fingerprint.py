"""What the scans look like that a model was trained on, and what of another scan is unlike them.

The fingerprint stands in a run's manifest.json and in a bundle's metadata.json under
``training_fingerprint``. It is made of numbers over all scans and names no case.

A measure of a scan (voxel edges, extents, how its values are spread between their own ends) is
unusual if it lies outside of what was seen in training by more than a margin, and outside of the
interval in which 99.9 % of further scans are expected (Student's t over patients, since two scans
of one patient say little more than one). The margins are the least that a reader would call
another size: with them, at most 5 % of further scans of the hippocampus, left atrium and ACDC
datasets get a warning after 8 to 20 training scans.

Refused, unless asked for, is only what cannot be: another modality that is stated (unless a DICOM
header says CT and the values deny it), Hounsfield
units where training had none and the reverse, a blank scan, values of ten times another scale
where the scale counts, and voxels ten times as large or small.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from medssl.data.datasets.modality import is_another
from medssl.data.preprocessing.scan_facts import FAT, PERCENTS, ChannelFacts, ScanFacts
from medssl.inference.unusual import Normal
from medssl.settings.spec import DataSpec

FINGERPRINT = "training_fingerprint"
"""Its key in manifest.json and metadata.json."""
CONFIDENCE = 0.999
"""Share of further scans whose measure is expected inside of the interval."""
MARGINS = {"spacing": math.log(1.1), "extent": math.log(2.0), "values": 0.2}
"""Least distance from the training scans: a factor of 1.1 and of 2, and a fifth of the range."""
WIDER = 0.5
"""Distance from the training scans that counts in any case, as a share of their own range."""
SAME_SPACING = 1.05
"""Voxel edges within this factor of the training scans' are not resampled in a native run."""
IMPOSSIBLE = 10.0
"""Factor of the mean voxel edge, and of the scale of values, that no scan of a kind is off by."""
HOUNSFIELD_FROM, NEVER_BELOW = 0.005, 0.001
"""Shares of voxels below :data:`FAT` from which values are Hounsfield units, or cannot be."""
CLEARLY = 5.0
"""How many times more voxels below :data:`FAT` than any training scan has are of another kind."""
HOUNSFIELD_SPAN = 200.0
"""Values that reach less far, and not so far below 0, are no Hounsfield units: standardized values
are negative, too."""

_SIDES = {"R": "left-right", "A": "front-back", "S": "up-down"}
_OPPOSITE = {"L": "R", "P": "A", "I": "S"}
_INSIDE = PERCENTS[1:-1]


@dataclass(frozen=True)
class Comparison:
    """What of a scan is unlike the training scans, in plain words.

    Attributes:
        unusual: worth a look, one entry each.
        impossible: why the model cannot be meant for it; None: it can.
    """

    unusual: tuple[str, ...] = ()
    impossible: str | None = None


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
    """

    modality: str | None
    scans: int
    patients: int
    edge: tuple[float, float]
    measures: Mapping[str, Normal]
    channels: tuple[ChannelRange, ...]

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

    def compare(
        self, facts: ScanFacts, spec: DataSpec, modality: str | None, *, by_header: bool = False
    ) -> Comparison:
        """Say what of a scan is unlike the training scans.

        Args:
            facts: of the scan.
            spec: with which it is preprocessed, see :meth:`spec_for`.
            modality: what DICOM or its dataset states; None: nothing.
            by_header: DICOM states it. CT in DICOM has Hounsfield units; where none of its values
                can be that and all are spread as in training, the header is doubted, not the scan.
        """
        unusual = tuple(self._unusual(facts, spec))
        impossible = next(self._impossible_scan(facts, spec), None)
        if not is_another(modality, self.modality):
            return Comparison(unusual, impossible)
        said = f"it is stated to be {modality}, the model was trained on {self.modality}"
        if by_header and impossible is None and self._denies_ct(facts, modality):
            doubt = f"{said}; but its values are no Hounsfield units and spread as in training"
            return Comparison((doubt, *unusual))
        return Comparison(unusual, said)

    def _denies_ct(self, facts: ScanFacts, modality: str | None) -> bool:
        """Whether values speak against a header that says CT, and for the training scans."""
        values = {n: v for n, v in _measures(facts).items() if n.startswith("values")}
        return (
            modality == "CT"
            and all(channel.below < NEVER_BELOW for channel in facts.channels)
            and not any(self._is_outside(name, value) for name, value in values.items())
        )

    def _impossible_scan(self, facts: ScanFacts, spec: DataSpec) -> Iterator[str]:
        for channel, (own, trained) in enumerate(zip(facts.channels, self.channels, strict=False)):
            of = "" if len(self.channels) == 1 else f" of channel {channel + 1}"
            yield from self._impossible_values(own, trained, of, scaled=_scale_counts(spec))
        edge, (low, high) = math.prod(facts.spacing) ** (1 / 3), self.edge
        if not low / IMPOSSIBLE <= edge <= high * IMPOSSIBLE:
            yield f"{self._spacing_text(facts, spec)}: the unit in its header is likely wrong"

    def _impossible_values(
        self, own: ChannelFacts, trained: ChannelRange, of: str, *, scaled: bool
    ) -> Iterator[str]:
        low, high = own.percentiles[0], own.percentiles[-1]
        reach = f"its values{of} reach from {low:.4g} to {high:.4g}"
        if own.span == 0 and trained.span[0] > 0:
            yield f"it is blank: nearly all its values{of} are {low:.4g}"
        elif is_hounsfield(own) and trained.below[1] < min(HOUNSFIELD_FROM, own.below / CLEARLY):
            yield (
                f"{reach}, as Hounsfield units of CT do, and hardly a voxel of the training scans "
                f"is below {FAT:g}"
            )
        elif own.below < NEVER_BELOW and trained.always_hounsfield:
            yield (
                f"{reach}, and the training scans all hold Hounsfield units of CT, with air or "
                f"fat below {FAT:g}"
            )
        elif scaled and not (
            trained.span[0] / IMPOSSIBLE <= own.span <= trained.span[1] * IMPOSSIBLE
        ):
            yield f"{reach}, in training over {_range_text(*trained.span)}"

    def _unusual(self, facts: ScanFacts, spec: DataSpec) -> Iterator[str]:
        own = _measures(facts)
        out = {name for name, value in own.items() if self._is_outside(name, value)}
        if any(name.startswith("spacing") for name in out):
            yield self._spacing_text(facts, spec)
        for axis, extent in enumerate(facts.extent):
            if f"extent {axis}" in out:
                normal = self.measures[f"extent {axis}"]
                seen = _range_text(math.exp(normal.low), math.exp(normal.high))
                yield (
                    f"it measures {extent:.3g} {spec.spatial_unit} {_side(spec, axis)}, in "
                    f"training {seen}"
                )
        for channel in range(len(facts.channels)):
            names = [n for n in own if n.startswith(f"values {channel} ") and n in out]
            if names:
                name = max(names, key=lambda n: abs(own[n] - self.measures[n].mean))
                yield self._values_text(name, own[name], channel)

    def _is_outside(self, name: str, value: float) -> bool:
        normal = self.measures.get(name)
        if normal is None:
            return False
        margin = max(MARGINS[name.split()[0]], WIDER * (normal.high - normal.low))
        low, high = normal.low - margin, normal.high + margin
        if self.patients > 1:
            quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, self.patients - 1))
            reach = quantile * normal.std * math.sqrt(1 + 1 / self.patients)
            low, high = min(low, normal.mean - reach), max(high, normal.mean + reach)
        return not low <= value <= high

    def _spacing_text(self, facts: ScanFacts, spec: DataSpec) -> str:
        ranges = [_range_text(*self.spacing_range(axis)) for axis in range(3)]
        own = " x ".join(f"{v:.3g}" for v in facts.spacing)
        text = f"voxels of {own} {spec.spatial_unit}, in training {' x '.join(ranges)}"
        if isinstance(spec.spacing, str):
            return f"{text}; not resampled"
        target = " x ".join(
            f"{own if wanted is None else wanted:.3g}"
            for own, wanted in zip(facts.spacing, spec.spacing, strict=True)
        )
        return f"{text}; resampled to {target}"

    def _values_text(self, name: str, value: float, channel: int) -> str:
        normal, percent = self.measures[name], name.split()[-1]
        of = "" if len(self.channels) == 1 else f" of channel {channel + 1}"
        return (
            f"its values{of} are spread otherwise: {percent} % of them lie in the lowest "
            f"{value:.0%} of their range, in training in the lowest {normal.low:.0%} to "
            f"{normal.high:.0%}"
        )


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
    rows = [_measures(scan) for scan in scans]
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
    return TrainingFingerprint(modality, len(scans), patients, edge, measures, channels)


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


def _measures(facts: ScanFacts) -> dict[str, float]:
    """Return the measures of one scan by name."""
    out = {f"spacing {a}": math.log(v) for a, v in enumerate(facts.spacing)}
    out |= {f"extent {a}": math.log(v) for a, v in enumerate(facts.extent)}
    for number, channel in enumerate(facts.channels):
        low, span = channel.percentiles[0], channel.span
        if span > 0:
            for percent, value in zip(_INSIDE, channel.percentiles[1:-1], strict=True):
                out[f"values {number} {percent:g}"] = (value - low) / span
    return out


def _scale_counts(spec: DataSpec) -> bool:
    """Tell whether the network sees the values' own scale: no rule takes it away."""
    return spec.intensity.rule in ("window", "none")


def _side(spec: DataSpec, axis: int) -> str:
    """Name an axis of prepared volumes."""
    if spec.orientation is None:
        return f"along axis {axis + 1}"
    letter = spec.orientation[axis]
    return _SIDES[_OPPOSITE.get(letter, letter)]


def _range_text(low: float, high: float) -> str:
    short = f"{low:.3g}"
    return short if short == f"{high:.3g}" else f"{short} to {high:.3g}"
