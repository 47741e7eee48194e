"""What of a scan is unlike the scans that a model was trained on.

A measure of a scan (voxel edges, extents, how its values are spread between their own ends) is
unusual if it lies outside of what was seen in training by more than a margin, and outside of the
interval in which 99.9 % of further scans are expected (Student's t over patients, since two scans
of one patient say little more than one). The margins are the least that a reader would call
another size: with them, at most 5 % of further scans of the hippocampus, left atrium and ACDC
datasets get a warning after 8 to 20 training scans.

Refused, unless asked for, is only what cannot be: another modality that is stated (unless a DICOM
header says CT and the values deny it), Hounsfield units where training had none and the reverse, a
blank scan, values of ten times another scale where the scale counts, and voxels ten times as large
or small.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from scipy import stats

from medssl.data.datasets.modality import is_another
from medssl.data.preprocessing.scan_facts import FAT, ChannelFacts, ScanFacts
from medssl.inference.training_fingerprint import (
    HOUNSFIELD_FROM,
    NEVER_BELOW,
    ChannelRange,
    TrainingFingerprint,
    is_hounsfield,
    measures_of,
)
from medssl.settings.spec import DataSpec

CONFIDENCE = 0.999
"""Share of further scans whose measure is expected inside of the interval."""
MARGINS = {"spacing": math.log(1.1), "extent": math.log(2.0), "values": 0.2}
"""Least distance from the training scans: a factor of 1.1 and of 2, and a fifth of the range."""
WIDER = 0.5
"""Distance from the training scans that counts in any case, as a share of their own range."""
IMPOSSIBLE = 10.0
"""Factor of the mean voxel edge, and of the scale of values, that no scan of a kind is off by."""
CLEARLY = 5.0
"""How many times more voxels below :data:`FAT` than any training scan has are of another kind."""

_SIDES = {"R": "left-right", "A": "front-back", "S": "up-down"}
_OPPOSITE = {"L": "R", "P": "A", "I": "S"}


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
class Unlike:
    """Compares scans with those of a training.

    Attributes:
        trained: the fingerprint of the training scans.
    """

    trained: TrainingFingerprint

    def compare(
        self, facts: ScanFacts, spec: DataSpec, modality: str | None, *, by_header: bool = False
    ) -> Comparison:
        """Say what of a scan is unlike the training scans.

        Args:
            facts: of the scan.
            spec: with which it is preprocessed, see :meth:`TrainingFingerprint.spec_for`.
            modality: what DICOM or its dataset states; None: nothing.
            by_header: DICOM states it. CT in DICOM has Hounsfield units; where none of its values
                can be that and all are spread as in training, the header is doubted, not the scan.
        """
        unusual = tuple(self._unusual(facts, spec))
        impossible = next(self._impossible_scan(facts, spec), None)
        if not is_another(modality, self.trained.modality):
            return Comparison(unusual, impossible)
        said = f"it is stated to be {modality}, the model was trained on {self.trained.modality}"
        if by_header and impossible is None and self._denies_ct(facts, modality):
            doubt = f"{said}; but its values are no Hounsfield units and spread as in training"
            return Comparison((doubt, *unusual))
        return Comparison(unusual, said)

    def _denies_ct(self, facts: ScanFacts, modality: str | None) -> bool:
        """Whether values speak against a header that says CT, and for the training scans."""
        values = {n: v for n, v in measures_of(facts).items() if n.startswith("values")}
        return (
            modality == "CT"
            and all(channel.below < NEVER_BELOW for channel in facts.channels)
            and not any(self._is_outside(name, value) for name, value in values.items())
        )

    def _impossible_scan(self, facts: ScanFacts, spec: DataSpec) -> Iterator[str]:
        for channel, (own, trained) in enumerate(
            zip(facts.channels, self.trained.channels, strict=False)
        ):
            of = "" if len(self.trained.channels) == 1 else f" of channel {channel + 1}"
            yield from self._impossible_values(own, trained, of, scaled=_scale_counts(spec))
        edge, (low, high) = math.prod(facts.spacing) ** (1 / 3), self.trained.edge
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
        yield from self._turned(facts, spec)
        own = measures_of(facts)
        out = {name for name, value in own.items() if self._is_outside(name, value)}
        if any(name.startswith("spacing") for name in out):
            yield self._spacing_text(facts, spec)
        for axis, extent in enumerate(facts.extent):
            if f"extent {axis}" in out:
                normal = self.trained.measures[f"extent {axis}"]
                seen = _range_text(math.exp(normal.low), math.exp(normal.high))
                yield (
                    f"it measures {extent:.3g} {spec.spatial_unit} {_side(spec, axis)}, in "
                    f"training {seen}"
                )
        for channel in range(len(facts.channels)):
            names = [n for n in own if n.startswith(f"values {channel} ") and n in out]
            if names:
                name = max(names, key=lambda n: abs(own[n] - self.trained.measures[n].mean))
                yield self._values_text(name, own[name], channel)

    def _turned(self, facts: ScanFacts, spec: DataSpec) -> Iterator[str]:
        """Say where a model that sees axes as they are stored would see a scan turned or mirrored.

        Where the data spec has an orientation, every scan is turned to it.
        """
        known = self.trained.axes
        if spec.orientation is None and facts.axes and known and facts.axes not in known:
            yield (
                f"its axes are stored as {facts.axes}, in training as {' or '.join(known)}, and "
                "this model sees scans as they are stored: turn them alike"
            )

    def _is_outside(self, name: str, value: float) -> bool:
        normal = self.trained.measures.get(name)
        if normal is None:
            return False
        margin = max(MARGINS[name.split()[0]], WIDER * (normal.high - normal.low))
        low, high = normal.low - margin, normal.high + margin
        if self.trained.patients > 1:
            quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, self.trained.patients - 1))
            reach = quantile * normal.std * math.sqrt(1 + 1 / self.trained.patients)
            low, high = min(low, normal.mean - reach), max(high, normal.mean + reach)
        return not low <= value <= high

    def _spacing_text(self, facts: ScanFacts, spec: DataSpec) -> str:
        ranges = [_range_text(*self.trained.spacing_range(axis)) for axis in range(3)]
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
        normal, percent = self.trained.measures[name], name.split()[-1]
        of = "" if len(self.trained.channels) == 1 else f" of channel {channel + 1}"
        return (
            f"its values{of} are spread otherwise: {percent} % of them lie in the lowest "
            f"{value:.0%} of their range, in training in the lowest {normal.low:.0%} to "
            f"{normal.high:.0%}"
        )


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
