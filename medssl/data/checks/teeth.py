"""What goes wrong in dental cone-beam CT: tooth codes, their places, and intensity offsets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from medssl.data.datasets.case import LabelMap
from medssl.data.datasets.problem import Problem

if TYPE_CHECKING:
    from medssl.data.checks.case_facts import CaseFacts

PERMANENT = frozenset(10 * q + n for q in (1, 2, 3, 4) for n in range(1, 9))
DECIDUOUS = frozenset(10 * q + n for q in (5, 6, 7, 8) for n in range(1, 6))
"""FDI codes: the tens are the quadrant (upper right, upper left, lower left, lower right as the
patient sees it), the units count from the midline."""

MOST_TEETH = 32
PIECES_MM = 15.0
"""No tooth has two pieces this far apart."""

PIECE = 0.05
"""Smaller shares of a tooth are speckle, not a piece."""


def is_cbct(modality: Sequence[str]) -> bool:
    """Tell whether a dataset says that it is cone-beam CT."""
    return any("CBCT" in m.upper() or "CONE" in m.upper() for m in modality)


def tooth_values(labels: LabelMap) -> frozenset[int]:
    """Return the declared values that stand for single teeth: FDI codes, or labels called so."""
    fdi = PERMANENT & set(labels.values)
    if len(fdi) >= 8:
        return frozenset(fdi)
    named = zip(labels.values, labels.names, strict=True)
    found = frozenset(v for v, name in named if v and "tooth" in name.lower())
    return found if len(found) > 1 else frozenset()


def tooth_problems(
    label: np.ndarray, affine: np.ndarray, labels: LabelMap, path: Path, case: str
) -> list[Problem]:
    """Check the teeth of one label map of a CBCT.

    Args:
        label: ``(X, Y, Z)`` whole numbers.
        affine: voxel to RAS, in mm.
    """
    teeth = tooth_values(labels)
    if not teeth:
        return []
    counts = np.bincount(np.clip(label, 0, 255).astype(np.int64).ravel(), minlength=256)
    present = [v for v in range(1, 256) if counts[v]]
    found: list[Problem] = []
    milk = [v for v in present if v in DECIDUOUS and v not in labels.values]
    if milk and teeth <= PERMANENT:
        listed = ", ".join(f"{v} ({counts[v]} voxels)" for v in milk[:6])
        found.append(
            Problem(
                "error",
                path,
                f"FDI codes of milk teeth: {listed}",
                "take the case out, or correct the codes; a milk tooth is not its successor",
                "deciduous",
                case,
            )
        )
    number = sum(v in teeth or v in DECIDUOUS for v in present)
    if number > MOST_TEETH:
        found.append(
            Problem(
                "warning",
                path,
                f"{number} teeth in one mouth",
                "look for teeth that carry two codes",
                "tooth_count",
                case,
            )
        )
    boxes = ndimage.find_objects(np.where(np.isin(label, list(teeth)), label, 0).astype(np.int32))
    for value, box in enumerate(boxes, start=1):
        if box is not None:
            found += _pieces(label[box] == value, value, affine, path, case)
    if teeth <= PERMANENT:
        found += _anatomy(label, boxes, affine, path, case)
    return found


def _pieces(
    mask: np.ndarray, value: int, affine: np.ndarray, path: Path, case: str
) -> Iterator[Problem]:
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if np.linalg.norm(spacing * mask.shape) < PIECES_MM:
        return
    pieces, _ = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(pieces.ravel())[1:]
    boxes = ndimage.find_objects(pieces)
    main = boxes[int(np.argmax(sizes))]
    for size, box in zip(sizes, boxes, strict=True):
        if box is main or size < PIECE * sizes.sum():
            continue
        gaps = [max(0, a.start - b.stop, b.start - a.stop) for a, b in zip(main, box, strict=True)]
        distance = float(np.linalg.norm(spacing * gaps))
        if distance > PIECES_MM:
            yield Problem(
                "warning",
                path,
                f"tooth {value} has two pieces {distance:.0f} mm apart",
                "look which of them is another tooth",
                "tooth_pieces",
                case,
            )
            return


def _anatomy(
    label: np.ndarray, boxes: Sequence, affine: np.ndarray, path: Path, case: str
) -> Iterator[Problem]:
    """Compare where the quadrants lie with where the header says right, front and up are."""
    places: dict[int, np.ndarray] = {}
    for value, box in enumerate(boxes, start=1):
        if box is not None:
            index = np.argwhere(label[box] == value).mean(0) + [s.start for s in box]
            places[value] = (affine @ [*index, 1.0])[:3]

    def mean(quadrants: str, numbers: str, axis: int) -> float | None:
        found = [
            p[axis] for v, p in places.items() if f"{v}"[0] in quadrants and f"{v}"[1] in numbers
        ]
        return float(np.mean(found)) if len(found) >= 2 else None

    every = "12345678"
    for first, second, axis, what in (
        (("12", every), ("34", every), 2, "the upper teeth lie below the lower ones"),
        (("14", every), ("23", every), 0, "the right teeth lie on the patient's left"),
        (("1234", "12"), ("1234", "678"), 1, "the incisors lie behind the molars"),
    ):
        a, b = mean(*first, axis), mean(*second, axis)
        if a is not None and b is not None and a < b:
            yield Problem(
                "warning",
                path,
                f"by the header, {what}",
                "mend orientation in the header, or the codes, whichever is wrong",
                "anatomy",
                case,
            )


def offset_problems(facts: Sequence[CaseFacts]) -> list[Problem]:
    """Tell where intensities start elsewhere in some scans: CBCT has no calibrated zero."""
    read = [f for f in facts if f.levels]
    with_air = [f for f in read if f.levels[0] < -500]
    without = [f for f in read if f.levels[0] > -200]
    if not with_air or not without:
        return []
    fewer, more = sorted((with_air, without), key=len)
    starts = [np.median([f.levels[0] for f in group]) for group in (fewer, more)]
    listed = ", ".join(f.case.id for f in fewer[:5]) + (", ..." if len(fewer) > 5 else "")
    return [
        Problem(
            "warning",
            fewer[0].case.images[0],
            f"offsets are mixed: intensities start at about {starts[0]:.0f} in {len(fewer)} cases "
            f"({listed}), at about {starts[1]:.0f} in {len(more)}",
            "normalize per volume (spec.intensity.rule zscore or percentile), never by one window",
            "offset",
            fewer[0].case.id,
        )
    ]
