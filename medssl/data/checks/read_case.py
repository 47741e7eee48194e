"""Read one case to its last voxel and keep what the checks of a whole dataset need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from medssl.data.checks.case_facts import CaseFacts, Role
from medssl.data.checks.label_measures import measure_structures
from medssl.data.checks.measures import (
    axis_codes,
    intensity_levels,
    repeated_slices,
    roughness,
    stamp,
    thumbnail,
)
from medssl.data.checks.repairs import plan_repairs
from medssl.data.checks.sketches import make_sketch
from medssl.data.checks.teeth import is_cbct, tooth_problems
from medssl.data.datasets.case import Case, Dataset
from medssl.data.datasets.contents import both_hashes, copy_hashes, voxel_hash
from medssl.data.datasets.integrity import check_case
from medssl.data.datasets.marks import marks_of
from medssl.data.datasets.problem import Problem
from medssl.data.images.geometry import Unit, turn_to_ras
from medssl.data.images.volume import Volume, read_volume
from medssl.errors import MedSSLError

Painter = Callable[[np.ndarray, np.ndarray | None, np.ndarray], bytes]
"""Draws the volume ``(X, Y, Z)``, its label or None and the affine as a PNG."""


def read_facts(
    case: Case, role: Role, dataset: Dataset, *, painter: Painter | None = None
) -> CaseFacts:
    """Read a case; whatever is wrong with it becomes a problem, never an exception."""
    try:
        return _read(case, role, dataset, painter)
    except Exception as error:  # one case, however broken, must not stop the check of the others
        reason = (str(error).splitlines() or [""])[0][:150]
        found = Problem(
            "error",
            case.images[0],
            f"the case could not be checked ({type(error).__name__}: {reason})",
            "open the file in a viewer; export it again if it looks broken",
            "unreadable",
            case.id,
        )
        return CaseFacts(case, role, (found,))


def _read(case: Case, role: Role, dataset: Dataset, painter: Painter | None) -> CaseFacts:
    opened: dict[Path, Volume] = {}

    def open_file(path: Path, *, unit: Unit) -> Volume:
        if path not in opened:
            opened[path] = read_volume(path, unit=unit)
        return opened[path]

    problems = check_case(
        case,
        dataset.labels,
        len(dataset.modality),
        unit=dataset.spatial_unit,
        open_file=open_file,
    )
    facts = CaseFacts(case, role, tuple(replace(p, case=case.id) for p in problems))
    label = opened.get(case.label) if case.label is not None else None
    images = [opened[p] for p in case.images if p in opened]
    if len(images) < len(case.images):
        return facts
    facts = replace(facts, repairs=plan_repairs(case, images, label, dataset.labels))
    if {p.check for p in problems} & {"voxel_type", "dimensions"} or not images[0].data.size:
        return facts
    facts = _with_image(facts, images)
    if label is not None and label.data.ndim == 3 and label.data.size:
        facts = _with_label(facts, label, dataset)
    if painter is not None:
        fits = label is not None and label.data.shape == facts.shape
        values = label.values(np.float32) if label is not None and fits else None
        image = np.nan_to_num(_first_channel(images[0]), posinf=0, neginf=0)
        facts = replace(facts, picture=painter(image, values, images[0].affine))
    return facts


def _true_values(volume: Volume) -> np.ndarray:
    """Return the voxels with the header's scaling applied; as stored where there is none."""
    return volume.values(None if volume.scale == (1.0, 0.0) else np.float32)


def _first_channel(volume: Volume) -> np.ndarray:
    values = _true_values(volume)
    return values[..., 0] if values.ndim == 4 else values


def read_thumbnail(facts: CaseFacts, *, unit: Unit) -> np.ndarray | None:
    """Read a case's thumbnail once more, see :func:`medssl.data.checks.measures.thumbnail`.

    Args:
        facts: of the case.
        unit: of the dataset.

    Returns:
        ``(32768,)`` float32; None if the file has been taken away or spoiled meanwhile.
    """
    try:
        first = read_volume(facts.case.images[0], unit=unit)
    except MedSSLError:
        return None
    return thumbnail(turn_to_ras(_first_channel(first), first.affine))


def _with_image(facts: CaseFacts, images: list[Volume]) -> CaseFacts:
    first = images[0]
    data = _first_channel(first)
    facts = replace(
        facts,
        shape=tuple(data.shape),
        spacing=first.spacing,
        axes=axis_codes(first.affine),
        affine=first.affine,
        channels=len(images) if len(images) > 1 else int(np.prod(first.data.shape[3:])),
        image_hashes=copy_hashes([both_hashes(v) for v in images]),
    )
    if any(p.check in ("not_finite", "constant") for p in facts.problems):
        return facts  # their levels would only be reported a second time
    upright = turn_to_ras(data, first.affine)
    small = thumbnail(upright)
    levels = intensity_levels(data)
    return replace(
        facts,
        sketch=make_sketch(small) if small.any() else None,
        marks=tuple(marks_of(upright)),
        levels=levels,
        rough=roughness(upright, levels[0], levels[-2]),
        slices=repeated_slices(data),
        stamp=stamp(data),
    )


def _with_label(facts: CaseFacts, label: Volume, dataset: Dataset) -> CaseFacts:
    values = _true_values(label)
    dtype = values.dtype.name
    if not np.issubdtype(values.dtype, np.integer):
        whole = np.rint(np.nan_to_num(values, posinf=0, neginf=0))
        values = whole.astype(np.int64) if np.abs(whole).max() < 2**31 else np.zeros_like(whole)
    problems = facts.problems
    if is_cbct(dataset.modality) and facts.case.label is not None:
        problems += tuple(
            tooth_problems(values, label.affine, dataset.labels, facts.case.label, facts.case.id)
        )
    return replace(
        facts,
        problems=problems,
        label_hash=voxel_hash(values),
        structures=measure_structures(values, dataset.labels.values),
        label_dtype=dtype,
    )
