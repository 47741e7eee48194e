"""A planned recipe as text: every choice is a line, every line says why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from medssl.data.datasets.fingerprint import Fingerprint, LabeledStructure
from medssl.methods.registry import get_settings
from medssl.planning import training as choices
from medssl.planning.grid import PlannedGrid, choose_grid, size_text
from medssl.planning.network import DeviceKind, NetworkPlan, choose_batch, choose_network
from medssl.planning.patients import PatientCounts
from medssl.planning.spec_guess import SpecGuess
from medssl.recipe.load import LoadedRecipe, resolve
from medssl.settings.spec import DataSpec
from medssl.settings.specs import load_spec

COMMENT_COLUMN = 27
LINE_WIDTH = 118
"""A comment that would end beyond stands on a line of its own, above."""


@dataclass(frozen=True)
class PlanOrder:
    """What the user asked for.

    Attributes:
        root: the dataset as typed.
        method: by name.
        device: where the training will run.
        memory: bytes of that device.
        device_name: for the comment, such as ``this computer's CPU``.
        phantom: options of the phantom, if that is the dataset.
        allow_outside: whether dataset.json may name files outside of its folder.
        patients: what says whose scan each case is; None: the dataset and the ids.
        patients_reason: for the comment.
        name: of the recipe; empty: made of the dataset's and the method's.
        native: each scan is to keep its own voxels.
        minutes: that all trainings together may take here; None: no budget.
        small: why the network is to be a small one that works at half resolution; empty: it is not.
        precision: of a CPU's training, with the reason; None: the usual one.
        method_reason: why this method; empty: as the user asked.
    """

    root: str
    method: str
    device: DeviceKind
    memory: float
    device_name: str
    phantom: dict[str, Any] = field(default_factory=dict)
    allow_outside: bool = False
    patients: str | None = None
    patients_reason: str = ""
    name: str = ""
    native: bool = False
    minutes: float | None = None
    small: str = ""
    precision: tuple[str, str] | None = None
    method_reason: str = ""


class Lines:
    """YAML lines with aligned comments."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, key: str, value: Any, reason: str = "", *, indent: int = 0) -> None:
        """Add ``key: value  # reason``; a value of None opens a section."""
        text = f"{' ' * indent}{key}:" + ("" if value is None else f" {_flow(value)}")
        if reason and max(COMMENT_COLUMN, len(text) + 1) + 2 + len(reason) > LINE_WIDTH:
            self.lines += [f"{' ' * indent}# {key}: {reason}", text]
        elif reason:
            self.lines.append(f"{text.ljust(COMMENT_COLUMN - 1)} # {reason}")
        else:
            self.lines.append(text)

    def note(self, text: str, *, indent: int = 0) -> None:
        """Add a comment on a line of its own."""
        self.lines.append(f"{' ' * indent}# {text}")


def _flow(value: Any) -> str:
    """Write a value on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


@dataclass(frozen=True)
class Draft:
    """A recipe on its way: the text without what is said about memory, and its parts."""

    loaded: LoadedRecipe
    grid: PlannedGrid
    network: NetworkPlan
    body: Lines
    batch: int


def make_draft(
    found: Fingerprint,
    counts: PatientCounts,
    order: PlanOrder,
    guess: SpecGuess,
    *,
    shrink: float = 1.0,
    batch: int | None = None,
    iterations: tuple[int, str] | None = None,
) -> Draft:
    """Write the recipe for one size of patch and batch, and check it.

    Args:
        found: the dataset.
        counts: which patients are what.
        order: method and device.
        guess: the data spec.
        shrink: factor of the usual voxels of a patch.
        batch: labeled patches of an iteration; None: the usual number.
        iterations: of all stages, with the reason; None: the usual number.

    Raises:
        MedSSLError: the method does not suit the data.
    """
    spec = load_spec(guess.name)
    method = get_settings(order.method)
    hints = method.plan_hints
    grid = choose_grid(found, spec, cubes=hints.turns_volumes, native=order.native)
    network = choose_network(
        grid, method, order.device, shrink=shrink, thin=spec.thin, small=order.small
    )
    batch = batch or choose_batch(network.patch, order.device)
    lines = Lines()
    lines.add("name", recipe_name(found, order))
    lines.add("seed", 0)
    _data(lines, counts, order)
    pieces = choices.known_pieces(found, spec, len(network.patch))
    _spec(lines, found, spec, guess, grid, pieces)
    spec = spec.model_copy(update={"pieces": {**spec.pieces, **pieces}})
    lines.add("network", None)
    lines.add("name", network.name, network.reason, indent=2)
    for key, (value, reason) in network.settings.items():
        lines.add(key, value, reason, indent=2)
    basis = choices.Basis(
        found,
        spec,
        grid,
        network,
        counts,
        method,
        order.device,
        batch,
        iterations=iterations,
        precision=order.precision,
    )
    plan = choices.choose_training(basis)
    lines.add("method", None)
    if order.method_reason:
        lines.note(order.method_reason, indent=2)
    lines.add("name", order.method, hints.summary or method.paper, indent=2)
    for key, (value, reason) in plan.method.items():
        lines.add(key, value, reason, indent=2)
    lines.add("training", None)
    for key, (value, reason) in plan.training.items():
        lines.add(key, value, reason, indent=2)
    lines.add(
        "augment", None, "altered copies, as other scanners and patients would differ", indent=2
    )
    for key, (value, reason) in choices.AUGMENT[order.device].items():
        lines.add(key, value, reason, indent=4)
    lines.add("inference", None)
    for key, (value, reason) in plan.inference.items():
        lines.add(key, value, reason, indent=2)
    loaded = resolve(yaml.safe_load("\n".join(lines.lines)), path=Path("the planned recipe"))
    return Draft(loaded, grid, network, lines, batch)


def recipe_name(found: Fingerprint, order: PlanOrder) -> str:
    """Return a name for recipe and run folder: the file's, or the dataset's and the method's."""
    if order.name:
        return order.name
    words = "".join(c if c.isalnum() else "_" for c in found.name.lower()).strip("_")
    return f"{words or 'dataset'}_{order.method}"


def _data(lines: Lines, counts: PatientCounts, order: PlanOrder) -> None:
    lines.add("data", None)
    lines.add("root", order.root, indent=2)
    if order.phantom:
        lines.add("phantom", order.phantom, indent=2)
    if order.allow_outside:
        reason = "dataset.json may name files outside of its folder"
        lines.add("allow_outside", True, reason, indent=2)
    if order.patients is not None:
        lines.add("patients", order.patients, order.patients_reason, indent=2)
    if counts.labeled is not None:
        lines.add("labeled", counts.labeled, counts.labeled_reason, indent=2)
    else:
        lines.note(f"labeled: {counts.labeled_reason}", indent=2)
    lines.add("validation", counts.validation, counts.validation_reason, indent=2)
    lines.add("test", counts.test, counts.test_reason, indent=2)


def _spec(
    lines: Lines,
    found: Fingerprint,
    spec: DataSpec,
    guess: SpecGuess,
    grid: PlannedGrid,
    pieces: dict[int, int],
) -> None:
    """Name the data spec and what differs from it."""
    lines.add("spec", None)
    lines.add("name", guess.name, guess.sentence, indent=2)
    if spec.spatial_unit != found.spatial_unit:
        tolerance = float(f"{2 * min(grid.voxel):.2g}")
        lines.add("spatial_unit", found.spatial_unit, "as dataset.json says", indent=2)
        lines.add("nsd_tolerance", tolerance, f"{found.spatial_unit}, two voxels", indent=2)
    if grid.spacing is None:
        lines.note(f"spacing: {size_text(grid.voxel)} {grid.spacing_reason}", indent=2)
    else:
        lines.add("spacing", grid.spacing, grid.spacing_reason, indent=2)
    if grid.slice_axis is not None and grid.slice_axis != spec.slice_axis:
        lines.add("slice_axis", grid.slice_axis, "the axis across the slices", indent=2)
    intensity, reason = choices.choose_intensity(found, spec)
    if intensity is None:
        lines.note(f"intensity: {reason}", indent=2)
    else:
        lines.add("intensity", intensity, reason, indent=2)
    pairs = choices.side_pairs(found, spec)
    if pairs:
        words = "left and right structures, exchanged where a scan is mirrored"
        lines.add("label_pairs", pairs, words, indent=2)
    if pieces:
        words = "by label: as many as in all your labels; predictions keep so many"
        lines.add("pieces", {**spec.pieces, **pieces}, words, indent=2)
    lines.note(f"mirroring: {choices.flips_words(spec)}", indent=2)


def header(
    found: Fingerprint, order: PlanOrder, draft: Draft, *, labeled: int, memory: float
) -> list[str]:
    """Return the comment lines at the top."""
    kind = get_settings(order.method)
    use = "labels alone" if not kind.uses_unlabeled else f"{found.unlabeled} unlabeled scans"
    unit = found.spatial_unit
    shape = size_text(draft.grid.shape)
    sizes = f"median {shape} voxels of {size_text(draft.grid.voxel)} {unit} in training"
    first = f"{order.method} on {found.name}: {labeled} labeled scans"
    lines = [
        f"# {first}, {use}; planned for {order.device_name}",
        f"# Seen: {len(found.scans)} scans, {', '.join(found.modality)}; {sizes}",
    ]
    shown = [_structure_text(s, unit) for s in found.structures[:4]]
    more = f", and {len(found.structures) - 4} more" if len(found.structures) > 4 else ""
    lines.append(f"# Labeled: {', '.join(shown)}{more}")
    lines.append(
        f"# Memory: about {gib_text(memory)} of {gib_text(order.memory)} GiB, measured with this "
        "network and method on small patches"
    )
    return lines


def _structure_text(structure: LabeledStructure, unit: str) -> str:
    if not structure.present:
        return f"{structure.name} (not in the labeled scans)"
    cubic_mm = structure.volume * (1e-9 if unit == "um" else 1.0)
    size = f"{cubic_mm / 1000:.3g} ml" if cubic_mm >= 100 else f"{cubic_mm:.2g} mm3"
    pieces = "" if structure.pieces < 1.5 else f" in {structure.pieces:.0f} pieces"
    some = "" if structure.present > 0.95 else f" in {structure.present:.0%} of scans"
    return f"{structure.name} ({size}{pieces}{some})"


def gib_text(value: float) -> str:
    """Write bytes as GiB with two digits."""
    gib = max(value / 2**30, 0.1)
    return f"{gib:.0f}" if gib >= 10 else f"{gib:.1f}"


def text_of(top: Sequence[str], body: Lines) -> str:
    """Return the file's content."""
    return "\n".join([*top, *body.lines]) + "\n"
