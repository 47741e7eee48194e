"""What a dataset looks like, in the few numbers that a plan needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from scipy import ndimage

from medssl.data.datasets.case import Case, Dataset, LabelMap
from medssl.data.datasets.split import Splits
from medssl.data.images.geometry import Unit
from medssl.data.images.labels import read_label
from medssl.data.images.volume import Volume, check_grid, read_image
from medssl.progress import Done

MOST_CASES = 60
"""Cases that are read at most: medians do not change with more."""

VOXELS_PER_CASE = 20_000
"""Voxels of a case whose intensities are looked at."""

PERCENTILES = (0.5, 5.0, 50.0, 95.0, 99.5)
PIECE_SHARE = 0.01
"""A connected piece below this share of its structure is taken for a slip of the brush."""


@dataclass(frozen=True)
class ScanGrid:
    """The grid of one scan: voxels and their size along the stored axes, and where these point.

    ``spacing`` is in the dataset's unit; ``orientation`` holds one letter an axis, such as RAS.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    orientation: str = "RAS"


@dataclass(frozen=True)
class LabeledStructure:
    """One labeled structure, as the median over the labeled cases that show it.

    ``volume`` is in the dataset's unit cubed, ``share`` of the scan's voxels, ``present`` the share
    of labeled cases that show it; ``steady`` where all of those show it in the same number of
    pieces.
    """

    value: int
    name: str
    volume: float = 0.0
    share: float = 0.0
    pieces: float = 1.0
    present: float = 1.0
    steady: bool = True


@dataclass(frozen=True)
class Fingerprint:
    """A dataset in numbers.

    Attributes:
        name: of the dataset.
        modality: one name per image channel.
        structures: what is labeled, background left out.
        scans: grids of the cases that were read.
        labeled, unlabeled: cases for training.
        patients: patients with labels in the whole dataset, those held back included.
        spatial_unit: ``mm`` or ``um``.
        inside, outside: ``PERCENTILES`` of the first channel within the labeled structures and
            around them, each the median over cases; empty if no labeled case was read.
    """

    name: str
    modality: tuple[str, ...]
    structures: tuple[LabeledStructure, ...]
    scans: tuple[ScanGrid, ...]
    labeled: int
    unlabeled: int
    patients: int
    spatial_unit: str = "mm"
    inside: tuple[float, ...] = ()
    outside: tuple[float, ...] = ()


@dataclass(frozen=True)
class _Reading:
    scan: ScanGrid
    voxels: dict[int, int]
    pieces: dict[int, int]
    inside: tuple[float, ...]
    outside: tuple[float, ...]


def sampled_cases(splits: Splits, most: int = MOST_CASES) -> tuple[Case, ...]:
    """Return the cases to read, evenly spread: labeled ones first, at least a third unlabeled.

    Test and validation cases are never among them: a plan must not know them.
    """
    few = most - min(len(splits.unlabeled), most // 3)
    labeled = _spread(splits.labeled, few)
    return labeled + _spread(splits.unlabeled, most - len(labeled))


def _spread(cases: Sequence[Case], most: int) -> tuple[Case, ...]:
    if len(cases) <= most:
        return tuple(cases)
    return tuple(cases[int(i)] for i in np.linspace(0, len(cases) - 1, most).round())


def fingerprint(
    dataset: Dataset, splits: Splits, *, on_progress: Done | None = None
) -> Fingerprint:
    """Read up to ``MOST_CASES`` training cases and describe them.

    Hidden labels are not opened, nor any file of a test or validation case.

    Args:
        dataset: as read.
        splits: which case is used as what.
        on_progress: called with each case's id when it has been read.

    Raises:
        MedSSLError: a file cannot be read, or image and label differ in their grid.
    """
    readings = []
    for case in sampled_cases(splits):
        readings.append(_read(case, dataset.labels, dataset.spatial_unit))
        if on_progress is not None:
            on_progress(case.id)
    labeled = [r for r in readings if r.voxels]
    names = dict(zip(dataset.labels.values, dataset.labels.names, strict=True))
    return Fingerprint(
        name=dataset.name,
        modality=dataset.modality,
        structures=tuple(_structure(v, names[v], labeled) for v in dataset.labels.values[1:]),
        scans=tuple(r.scan for r in readings),
        labeled=len(splits.labeled),
        unlabeled=len(splits.unlabeled),
        patients=len({c.patient for c in dataset.training}),
        spatial_unit=dataset.spatial_unit,
        inside=_median([r.inside for r in labeled if r.inside]),
        outside=_median([r.outside for r in labeled if r.outside]),
    )


def _median(rows: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(float(v) for v in np.median(np.array(rows), axis=0)) if rows else ()


def _structure(value: int, name: str, labeled: Sequence[_Reading]) -> LabeledStructure:
    shown = [r for r in labeled if r.voxels.get(value)]
    if not shown:
        return LabeledStructure(value, name, pieces=0.0, present=0.0)
    volumes = [r.voxels[value] * float(np.prod(r.scan.spacing)) for r in shown]
    shares = [r.voxels[value] / float(np.prod(r.scan.shape)) for r in shown]
    return LabeledStructure(
        value,
        name,
        volume=float(np.median(volumes)),
        share=float(np.median(shares)),
        pieces=float(np.median([r.pieces[value] for r in shown])),
        present=len(shown) / len(labeled),
        steady=len({r.pieces[value] for r in shown}) == 1,
    )


def _read(case: Case, labels: LabelMap, unit: Unit) -> _Reading:
    image = read_image(case.images[0], unit=unit)
    for path in case.images[1:]:
        check_grid(read_image(path, unit=unit).grid, image.grid, path=path, of=case.images[0])
    scan = scan_of(image)
    if case.label is None:
        return _Reading(scan, {}, {}, (), ())
    label, affine = read_label(case.label, unit=unit)
    check_grid((label.shape, affine), image.grid, path=case.label, of=case.images[0])
    classes = label.astype(np.int32).clip(min=0)
    counts = np.bincount(classes.ravel(), minlength=max(labels.values) + 1)
    boxes = ndimage.find_objects(classes, max_label=max(labels.values))
    voxels = {v: int(counts[v]) for v in labels.values[1:]}
    pieces = {
        v: count_pieces(classes[box] == v) if (box := boxes[v - 1]) else 0
        for v in labels.values[1:]
    }
    is_structure = np.zeros(len(counts), dtype=bool)
    is_structure[list(labels.values[1:])] = True
    marked = is_structure[classes].ravel()
    values = image.channels_first()[0].ravel()
    inside, outside = values[_some(marked)], values[_some(~marked)]
    return _Reading(scan, voxels, pieces, _percentiles(inside), _percentiles(outside))


def _some(mask: np.ndarray) -> np.ndarray:
    """Return indices of at most about ``VOXELS_PER_CASE`` voxels of a mask, evenly spread."""
    indices = np.flatnonzero(mask)
    return indices[:: max(1, len(indices) // VOXELS_PER_CASE)]


def scan_of(image: Volume) -> ScanGrid:
    """Return the grid of an image."""
    x, y, z = image.data.shape[:3]
    return ScanGrid((x, y, z), image.spacing, "".join(nib.aff2axcodes(image.affine)))


def count_pieces(mask: np.ndarray) -> int:
    """Count the connected pieces of ``(X, Y, Z)`` that make up at least 1 % of it."""
    numbered, found = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(numbered.ravel(), minlength=found + 1)[1:]
    return int((sizes >= PIECE_SHARE * sizes.sum()).sum())


def _percentiles(values: np.ndarray) -> tuple[float, ...]:
    finite = values[np.isfinite(values)]
    return tuple(float(v) for v in np.percentile(finite, PERCENTILES)) if len(finite) else ()
