"""Iterations, batches, optimizer, intensities: choices and their reasons in plain words."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from medssl.data.datasets.fingerprint import PERCENTILES, Fingerprint
from medssl.methods.plan_hints import Advice
from medssl.methods.settings import MethodSettings
from medssl.planning.grid import PlannedGrid, size_text
from medssl.planning.network import DeviceKind, NetworkPlan
from medssl.planning.patients import PatientCounts
from medssl.settings.spec import DataSpec

CPU_ITERATIONS = 1500
GPU_ITERATIONS = {1.5: 6000, 16.0: 15000, math.inf: 30000}
"""Iterations on a graphics card, by how many patches fill the median volume."""

MANY_STRUCTURES = 10
SMALL_SHARE = 0.005
"""Structures that fill less than this share of a scan are shown more often."""

STEADY_FROM, MOST_PIECES = 4, 4
"""Labeled scans that must agree on a number of pieces, and the largest number that is planned."""

VALIDATIONS = 20

MOST_MIRRORED: dict[DeviceKind, int] = {"cpu": 1, "cuda": 3}
"""Most axes that a prediction is mirrored along: each doubles its time."""

PRECISION: dict[DeviceKind, tuple[str, str]] = {
    "cpu": ("fp32", "full precision: most CPUs gain nothing from less"),
    "cuda": ("auto", "half precision where the card has it: half the memory"),
}

Choices = dict[str, tuple[Any, str]]

AUGMENT: dict[DeviceKind, Choices] = {
    "cpu": {"preset": ("light", "turns, zoom and changes of intensities, as few iterations bear")},
    "cuda": {"preset": ("nnunet", "kinds and strengths of nnU-Net, for a long training")},
}
"""The same for every method, so that comparisons are fair."""


@dataclass(frozen=True)
class Basis:
    """What a training is planned for.

    Attributes:
        found: the dataset.
        spec: its data spec.
        grid: what patches are cut from.
        network: network and patch.
        counts: which patients are what.
        method: settings class of the method.
        device: where the training will run.
        batch: labeled patches of an iteration.
        iterations: of all stages, and the reason, where a budget decides.
        precision: and the reason, where it was measured.
    """

    found: Fingerprint
    spec: DataSpec
    grid: PlannedGrid
    network: NetworkPlan
    counts: PatientCounts
    method: type[MethodSettings]
    device: DeviceKind
    batch: int
    iterations: tuple[int, str] | None = None
    precision: tuple[str, str] | None = None


@dataclass(frozen=True)
class TrainingChoices:
    """Sections ``method``, ``training`` and ``inference``: values with reasons."""

    method: Choices = field(default_factory=dict)
    training: Choices = field(default_factory=dict)
    inference: Choices = field(default_factory=dict)


def choose_iterations(
    grid: PlannedGrid, patch: tuple[int, ...], structures: int, device: DeviceKind
) -> tuple[int, str]:
    """Return the iterations of all stages together."""
    if device == "cpu":
        return CPU_ITERATIONS, "all stages; few, as a CPU is slow: a graphics card would get more"
    volume = math.prod(grid.shape[a] for a in grid.axes)
    patches = volume / math.prod(patch)
    count = next(n for most, n in GPU_ITERATIONS.items() if patches <= most)
    if structures >= MANY_STRUCTURES:
        return max(GPU_ITERATIONS.values()), f"all stages; many, for {structures} structures"
    if patches <= 1.5:
        return count, "all stages; a patch shows nearly the whole scan, so this is enough"
    return count, f"all stages; a scan holds about {patches:.0f} patches"


def choose_training(basis: Basis) -> TrainingChoices:
    """Choose how long and on what the network is trained."""
    found, spec, grid, device = basis.found, basis.spec, basis.grid, basis.device
    patch, batch = basis.network.patch, basis.batch
    iterations, why = basis.iterations or choose_iterations(
        grid, patch, len(found.structures), device
    )
    several = [s for s in found.structures if s.pieces >= spec.pieces.get(s.value, 1) + 0.5]
    pieces = "the data spec does not say that structures are one piece"
    if several:
        pieces = f"{several[0].name} has {several[0].pieces:.0f} pieces in your labels"
    in_pieces = pieces if several or not spec.largest_component else None
    advised = list(_advised(basis, iterations, in_pieces))
    out = TrainingChoices({a.key: reasoned for a, reasoned in advised if a.section == "method"})
    if several and spec.largest_component:
        out.inference["largest_component"] = (False, f"{pieces}: all are kept")
    voxel = [grid.voxel[a] for a in grid.axes]
    extent = size_text([round(n * v, 1) for n, v in zip(patch, voxel, strict=True)])
    training = out.training
    training["iterations"] = (iterations, why)
    shown = f"voxels, {extent} {found.spatial_unit} of tissue; {grid.slices_reason}"
    training["patch"] = (list(patch), shown)
    what = "slices" if len(patch) == 2 else "patches"
    training["labeled_batch"] = (batch, f"{what} with labels in one iteration")
    if basis.method.uses_unlabeled:
        training["unlabeled_batch"] = (batch, "as many without: neither side outweighs the other")
    share = sum(s.share for s in found.structures)
    if len(patch) == 3 and 0 < share < SMALL_SHARE:
        training["foreground_fraction"] = (
            0.75,
            f"of the labeled patches show a structure: they fill only {share:.2%} of a scan",
        )
    training["optimizer"], training["schedule"] = _optimizer(basis.network.name, device)
    training |= {a.key: reasoned for a, reasoned in advised if a.section == "training"}
    training["precision"] = basis.precision or PRECISION[device]
    if basis.counts.validation:
        every = max(1, iterations // VALIDATIONS)
        training["validate_every"] = (every, f"{VALIDATIONS} times in all")
    if device == "cpu":
        out.inference["overlap"] = (0.25, "of neighboring windows; more is smoother, and slower")
    else:
        out.inference["overlap"] = (0.5, "of neighboring windows, blended: no seams")
    mirrored = [axis for axis in spec.flip_axes if axis in grid.axes]
    if mirrored and len(mirrored) <= MOST_MIRRORED[device]:
        words = f"the mean of {2 ** len(mirrored)} mirror images, as the data spec allows"
        out.inference["tta"] = (True, words)
    return out


def _advised(
    basis: Basis, iterations: int, pieces: str | None
) -> Iterator[tuple[Advice, tuple[Any, str]]]:
    """Yield the method's advice that holds here, with its value and reason.

    Args:
        basis: what is planned for.
        iterations: the budget.
        pieces: why structures may have several pieces; None if they have one.
    """
    for advice in basis.method.plan_hints.advice:
        if (
            advice.device in (None, basis.device)
            and advice.network in (None, basis.network.name)
            and (advice.below is None or iterations < advice.below)
            and (pieces is not None or not advice.several_pieces)
        ):
            yield advice, (advice.value, advice.reason.format(pieces=pieces))


def _optimizer(network: str, device: DeviceKind) -> tuple[tuple[Any, str], tuple[Any, str]]:
    decay = ({"name": "poly"}, "the step shrinks to nothing at the end")
    if device == "cpu":
        return (
            {"name": "adam", "lr": 0.001, "weight_decay": 0.0},
            "gets far in few iterations",
        ), decay
    rate = 0.007 if network == "ahnet_r18" else 0.01
    return (
        {"name": "sgd", "lr": rate, "momentum": 0.9, "weight_decay": 1e-4},
        "the literature's",
    ), decay


def choose_intensity(found: Fingerprint, spec: DataSpec) -> tuple[dict[str, Any] | None, str]:
    """Return what to change of the spec's intensity rule (None: nothing), and the reason.

    A window that clips more than a twentieth of the structures' voxels is widened to hold them.
    """
    rule = spec.intensity
    if rule.rule == "window":
        assert rule.lower is not None
        assert rule.upper is not None
        window = f"{rule.lower:g} to {rule.upper:g} HU"
        inside = dict(zip(PERCENTILES, found.inside, strict=False))
        if inside and (inside[5.0] < rule.lower or inside[95.0] > rule.upper):
            low = min(rule.lower, math.floor(inside[0.5] / 10) * 10)
            high = max(rule.upper, math.ceil(inside[99.5] / 10) * 10)
            reach = f"{inside[0.5]:.0f} to {inside[99.5]:.0f}"
            return (
                {"rule": "window", "lower": low, "upper": high},
                f"HU; usual is {window}, but your structures reach from {reach}",
            )
        return None, f"window of {window}: Hounsfield units mean the same in every scan"
    return None, {
        "zscore": "each scan by its own mean and spread: brightness has no unit here",
        "minmax": "each scan from its darkest to its brightest voxel: brightness has no unit here",
        "percentile": "each scan between its own darkest and brightest: values have no unit here",
        "percentile_zscore": "each scan by its own mean and spread, extremes cut: "
        "the scanner's values are not calibrated",
        "none": "as stored",
    }[rule.rule]


def side_pairs(found: Fingerprint, spec: DataSpec) -> list[list[int]]:
    """Return pairs of label values whose names differ by left and right alone.

    Only where the spec mirrors left-right and knows of no pairs: a mirrored scan would teach the
    wrong names. The chambers of a heart are not mirror images of each other.
    """
    code = spec.orientation
    if spec.label_pairs or code is None or not any(code[a] in "RL" for a in spec.flip_axes):
        return []
    values = {s.name.lower(): s.value for s in found.structures}
    pairs = []
    for name, value in values.items():
        other = values.get(re.sub(r"(?<![a-z])left(?![a-z])", "right", name), value)
        if other != value and not re.search(r"atri|(?<!lateral )ventric", name):
            pairs.append([value, other])
    return pairs


def known_pieces(found: Fingerprint, spec: DataSpec, spatial_dims: int) -> dict[int, int]:
    """Return the number of pieces, by label value, of structures that always have the same.

    Only where the spec says that structures are whole, and not in slices, which may cut one piece
    in two. Of fewer than :data:`STEADY_FROM` labeled scans, agreement says little.
    """
    if not spec.largest_component or spatial_dims != 3 or found.labeled < STEADY_FROM:
        return {}
    return {
        s.value: round(s.pieces)
        for s in found.structures
        if s.steady and spec.pieces.get(s.value, 1) < s.pieces <= MOST_PIECES
    }


def flips_words(spec: DataSpec) -> str:
    """Say which mirror images the spec allows."""
    if not spec.flip_axes:
        return "none, as a mirrored patient is no patient (data spec)"
    letters = spec.orientation
    names = {"R": "left-right", "A": "front-back", "S": "up-down"}
    pairs = {"L": "R", "P": "A", "I": "S"}
    if letters is None:
        inside = "within a slice" if spec.slice_axis not in spec.flip_axes else "along slices too"
        return f"{inside}, as the data spec allows"
    axes = [names[pairs.get(letters[a], letters[a])] for a in spec.flip_axes]
    swap = "; left and right labels are exchanged with it" if spec.label_pairs else ""
    return f"{' and '.join(axes)}, as the data spec allows{swap}"
