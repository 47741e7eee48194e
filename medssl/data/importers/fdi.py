"""Teeth by FDI number: names, sides, and whether a header puts them where a head has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import Field

from medssl.data.images.labels import count_values
from medssl.data.importers.importer import ImportedCase, ImportSettings
from medssl.data.importers.pairing import Pair
from medssl.errors import MedSSLError

TEETH = tuple(10 * quadrant + tooth for quadrant in (1, 2, 3, 4) for tooth in range(1, 9))
"""Permanent teeth: quadrant (1 upper right, 2 upper left, 3 lower left, 4 lower right, on the
patient's own sides), then the number from the midline."""

DECIDUOUS = frozenset(10 * quadrant + tooth for quadrant in (5, 6, 7, 8) for tooth in range(1, 6))
PULP_OFFSET = 100

TOOTH_NAMES: Mapping[int, str] = {code: f"tooth {code}" for code in TEETH}
PULP_NAMES: Mapping[int, str] = {code + PULP_OFFSET: f"pulp {code}" for code in TEETH}


class TeethSettings(ImportSettings):
    """Options of formats with numbered teeth."""

    check_anatomy: bool = Field(
        True, description="stop where a header contradicts the teeth (up, right, front)"
    )
    mirror: str = Field(
        "", pattern="^[RAS]{0,3}$", description="world axes that the headers have the wrong way"
    )


def check_teeth(case: ImportedCase, pair: Pair, *, anatomy: bool) -> None:
    """Refuse a labeled case with codes of deciduous teeth, or (``anatomy``) a turned header.

    Raises:
        MedSSLError: see :func:`refuse_deciduous` and :func:`check_anatomy`.
    """
    if case.label is None or pair.label is None:
        return
    refuse_deciduous(case.label, case.id, pair.label)
    if anatomy:
        check_anatomy(case.label, case.affine, case.id, pair.label)


def mirror_case(case: ImportedCase, axes: str) -> ImportedCase:
    """Turn world axes of a case round; see :func:`mirrored`."""
    return replace(case, affine=mirrored(case.affine, axes, case.image.shape)) if axes else case


def refuse_deciduous(label: np.ndarray, case_id: str, where: Path) -> None:
    """Refuse milk teeth: no permanent tooth's number stands for them.

    Raises:
        MedSSLError: names the case, the codes and their voxels.
    """
    found = count_values(label)
    milk = {v: n for v, n in found.items() if v in DECIDUOUS or v - PULP_OFFSET in DECIDUOUS}
    if milk:
        listed = ", ".join(f"{v:g} ({n} voxels)" for v, n in list(milk.items())[:6])
        raise MedSSLError(
            f"case '{case_id}': codes of deciduous teeth: {listed}",
            where=where,
            fix="take them out of the label (they have no class here), or leave the case out with "
            "--option skip_broken=true",
        )


def check_anatomy(label: np.ndarray, affine: np.ndarray, case_id: str, where: Path) -> None:
    """Refuse a header that contradicts the numbers of the teeth.

    Upper teeth must lie above lower ones, the patient's right teeth to the right of the left ones,
    incisors in front of molars. Each is checked where both kinds of teeth are present.

    Args:
        label: ``(X, Y, Z)`` with FDI codes.
        affine: voxel to RAS world coordinates.

    Raises:
        MedSSLError: names the case and what is the wrong way round.
    """
    centers = tooth_centers(label, affine)
    rules: list[tuple[str, int, Callable[[int], bool], Callable[[int], bool]]] = [
        ("the upper teeth lie below the lower ones", 2, _in(1, 2), _in(3, 4)),
        ("the right teeth lie on the patient's left", 0, _in(1, 4), _in(2, 3)),
        ("the incisors lie behind the molars", 1, lambda c: c % 10 <= 2, lambda c: c % 10 >= 6),
    ]
    wrong = []
    for what, axis, first, second in rules:
        high = [p[axis] for c, p in centers.items() if first(c)]
        low = [p[axis] for c, p in centers.items() if second(c)]
        if high and low and np.mean(high) <= np.mean(low):
            wrong.append(what)
    if wrong:
        raise MedSSLError(
            f"case '{case_id}': by the file's header {' and '.join(wrong)}",
            where=where,
            fix="turn the world axes that are wrong with --option mirror=S (R, A, S or several), "
            "or trust the header with --option check_anatomy=false",
        )


def _in(*quadrants: int) -> Callable[[int], bool]:
    return lambda code: code // 10 in quadrants


def tooth_centers(label: np.ndarray, affine: np.ndarray) -> dict[int, np.ndarray]:
    """Return the world coordinates (R, A, S) of the center of each permanent tooth."""
    voxels = np.flatnonzero((label >= TEETH[0]) & (label <= TEETH[-1]))
    codes = label.reshape(-1)[voxels].astype(np.int64)
    counts = np.bincount(codes, minlength=1)
    sums = [
        np.bincount(codes, weights=index, minlength=1)
        for index in np.unravel_index(voxels, label.shape)
    ]
    return {
        int(c): affine[:3, :3] @ [s[c] / counts[c] for s in sums] + affine[:3, 3]
        for c in _present(counts)
    }


def _present(counts: np.ndarray) -> Iterable[int]:
    return [code for code in TEETH if code < len(counts) and counts[code]]


def mirrored(affine: np.ndarray, axes: str, shape: tuple[int, ...]) -> np.ndarray:
    """Turn world axes (of ``RAS``) round about the center of the volume; the voxels stay."""
    center = affine @ [*[(n - 1) / 2 for n in shape[:3]], 1.0]
    out = affine.copy()
    for axis in ("RAS".index(a) for a in axes):
        out[axis] = -affine[axis]
        out[axis, 3] += 2 * center[axis]
    return out
