"""Cases that differ from the rest of their dataset: geometry, intensities, structures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from medssl.data.checks.case_facts import CaseFacts
from medssl.data.checks.teeth import tooth_values
from medssl.data.datasets.case import LabelMap
from medssl.data.datasets.problem import Problem

MIN_CASES = 6
"""Fewer cases have no usual."""

RARE = 0.05
"""An orientation of a smaller share of the cases is an exception rather than a mixture."""

COMPANY = 0.02
"""Share of the cases that may be wrong in the same way and still be outliers."""

ROUGHER = 1.5
SMOOTHER = 2.5
"""Factors, as logarithms to base 2; finer voxels of the same anatomy are smoother by nature."""


def robust_scores(values: np.ndarray, floor: float) -> np.ndarray:
    """Return ``(value - median) / spread`` per column; spread is 1.4826 MAD, at least ``floor``."""
    center = np.median(values, axis=0)
    spread = np.maximum(1.4826 * np.median(np.abs(values - center), axis=0), floor)
    return (values - center) / spread


def stand_alone(values: np.ndarray) -> np.ndarray:
    """Tell for each entry of ``(N, F)`` whether the column's other values are far from it.

    Far is half of its own distance from the median; 2 % of the cases may share its company. The
    tail of a broad distribution and the smaller of two groups do not stand alone, however narrow
    the middle is.
    """
    company = int(COMPANY * len(values)) + 1
    nearest = np.stack([_distance_to(company, column) for column in values.T], axis=1)
    return nearest > 0.5 * np.abs(values - np.median(values, axis=0))


def _distance_to(nth: int, values: np.ndarray) -> np.ndarray:
    """Return the distance from each of ``(N,)`` values to its ``nth`` nearest other one."""
    n = len(values)
    if n <= nth:
        return np.full(n, np.inf)
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    # The nearest ones are a run of neighbors [k, k + nth] around i; its two ends are equally far
    # away where it is best, and their sum grows with k.
    own = np.arange(n)
    best = np.full(n, np.inf)
    middle = np.searchsorted(ranked[: n - nth] + ranked[nth:], 2 * ranked)
    for step in (-2, -1, 0, 1):
        k = np.clip(middle + step, np.maximum(own - nth, 0), np.minimum(own, n - nth - 1))
        best = np.minimum(best, np.maximum(ranked - ranked[k], ranked[k + nth] - ranked))
    out = np.empty(n)
    out[order] = best
    return out


def outlier_problems(
    facts: Sequence[CaseFacts], labels: LabelMap, *, has_unit: bool, unit: str = "mm"
) -> list[Problem]:
    """Compare each case with all others.

    Args:
        has_unit: intensities mean the same in every scan (CT in Hounsfield units).
        unit: of the spacing.
    """
    read = [f for f in facts if f.shape]
    levels = [f for f in read if f.levels]
    found = [*_orientations(read), *_spacings(read)]
    if len(levels) >= MIN_CASES:
        found += _hounsfield(levels) if has_unit else _histograms(levels)
        found += _textures(levels)
    if len(levels) > 1 and not has_unit:
        found += _scales(levels)
    measured = [f for f in read if f.structures and not _is_broken(f)]
    may_lack = tooth_values(labels)  # people lose teeth
    for value, name in zip(labels.values[1:], labels.names[1:], strict=True):
        found += _structures(measured, value, name, unit)
        if value not in may_lack:
            found += _absent(measured, value, name)
    return found


def _orientations(facts: Sequence[CaseFacts]) -> Iterator[Problem]:
    counts = Counter(f.axes for f in facts)
    usual, most = counts.most_common(1)[0] if counts else ("", 0)
    limit = int(RARE * len(facts))
    for f in facts:
        if counts[f.axes] <= limit and f.axes != usual:
            yield Problem(
                "warning",
                f.case.images[0],
                f"the axes point to {f.axes}; usual here is {usual} ({most} of {len(facts)} cases)",
                "look whether it lies as its header says; if so, set spec.orientation, which turns "
                "all cases alike; else mend the header",
                "orientation",
                f.case.id,
            )
    mixed = [axes for axes, n in counts.most_common() if n > limit]
    if len(mixed) > 1:
        yield Problem(
            "note",
            next(f for f in facts if f.axes == mixed[1]).case.images[0],
            "the axes are stored in different orders: "
            + ", ".join(f"{counts[axes]} cases {axes}" for axes in mixed),
            "nothing to do where spec.orientation is set (as RAS): cases are turned alike",
            "orientation",
        )


def _spacings(facts: Sequence[CaseFacts]) -> Iterator[Problem]:
    if len(facts) < MIN_CASES:
        return
    with np.errstate(divide="ignore", invalid="ignore"):
        table = np.log2([f.spacing for f in facts])
    if not np.isfinite(table).all():
        return  # a broken header is reported as such
    scores = robust_scores(table, 0.1)
    usual = 2 ** np.median(table, axis=0)
    for f, row, score in zip(facts, table, scores, strict=True):
        off = (np.abs(score) > 6) & (np.abs(row - np.median(table, axis=0)) >= 1)
        if off.any():
            yield Problem(
                "warning",
                f.case.images[0],
                f"the spacing is {_numbers(f.spacing)}, usual here is {_numbers(usual)}",
                "check the header (slice thickness, mm or cm); if right, set spec.spacing",
                "spacing",
                f.case.id,
            )


def _numbers(values: Sequence[float] | np.ndarray) -> str:
    return " x ".join(f"{v:.4g}" for v in values)


def _histograms(facts: Sequence[CaseFacts]) -> Iterator[Problem]:
    """Compare histograms scaled to [0, 1]: without a unit, only their shape can be compared."""
    levels = np.array([f.levels[:7] for f in facts])
    width = np.maximum(levels[:, 6:] - levels[:, :1], 1e-12)
    table = (levels[:, 1:6] - levels[:, :1]) / width
    scores = robust_scores(table, 0.03)
    apart = np.abs(table - np.median(table, axis=0)) * stand_alone(table)
    for f, score, far in zip(facts, scores, apart, strict=True):
        k = int(np.argmax(far))
        if far[k] > 0.3 and abs(score[k]) > 8:
            what = ("5th percentile", "25th percentile", "median", "75th", "95th percentile")[k]
            yield Problem(
                "warning",
                f.case.images[0],
                f"the intensities are spread unlike those of the other cases (the {what} lies "
                f"{far[k]:.2f} of the range away from where it usually does)",
                "look at the image: it may be inverted, saturated, masked or of another kind",
                "intensity",
                f.case.id,
            )


def _hounsfield(facts: Sequence[CaseFacts]) -> Iterator[Problem]:
    """Compare intensities that have a unit."""
    table = np.array([f.levels[1:6] for f in facts])
    scores = robust_scores(table, 20.0)
    apart = np.abs(table - np.median(table, axis=0))
    for f, score, far in zip(facts, scores, apart, strict=True):
        k = int(np.argmax(far))
        if far[k] > 300 and abs(score[k]) > 6:
            lowest, highest = f.levels[0], f.levels[6]
            yield Problem(
                "warning",
                f.case.images[0],
                f"the intensities ({lowest:.0f} to {highest:.0f}) lie {far[k]:.0f} away from those "
                "of the other cases: hardly the same Hounsfield units",
                "apply RescaleSlope and RescaleIntercept of the DICOM files, and export again",
                "intensity",
                f.case.id,
            )


def _textures(facts: Sequence[CaseFacts]) -> Iterator[Problem]:
    table = np.log2(np.maximum([f.rough for f in facts], 1e-4))
    scores = robust_scores(table, 0.25)
    apart = (table - np.median(table, axis=0)) * stand_alone(table)
    for f, score, far in zip(facts, scores, apart, strict=True):
        k = int(np.argmax(np.abs(far)))
        if abs(score[k]) > 5 and (far[k] > ROUGHER or far[k] < -SMOOTHER):
            word = "rougher (noise?)" if far[k] > 0 else "smoother (blurred, or padded?)"
            yield Problem(
                "warning",
                f.case.images[0],
                f"the image is {2 ** abs(far[k]):.1f} times {word} than usual here",
                "look at it, and export it again if it is broken",
                "texture",
                f.case.id,
            )


def _scales(facts: Sequence[CaseFacts]) -> Iterator[Problem]:
    widths = [f.levels[6] - f.levels[0] for f in facts]
    if min(widths) > 0 and max(widths) / min(widths) > 100:
        widest = facts[int(np.argmax(widths))]
        yield Problem(
            "note",
            widest.case.images[0],
            f"intensity scales differ up to {max(widths) / min(widths):.0f} times between cases",
            "nothing to do with the rules zscore, minmax and percentile, which work per volume",
            "scale_range",
            widest.case.id,
        )


def _is_broken(facts: CaseFacts) -> bool:
    """Tell whether the label has an error already, so that its measures would mislead."""
    return any(p.severity == "error" and p.file == facts.case.label for p in facts.problems)


def _absent(facts: Sequence[CaseFacts], value: int, name: str) -> Iterator[Problem]:
    """Find the one case that lacks a structure which all others have."""
    lack = [f for f in facts if value not in f.structures]
    others = len(facts) - len(lack)
    if len(lack) == 1 and others >= 10:
        assert lack[0].case.label is not None
        yield Problem(
            "warning",
            lack[0].case.label,
            f"label {value} ({name}) is absent, while all {others} other cases have it",
            "annotate it, unless it is absent in the patient",
            "absent",
            lack[0].case.id,
        )


def _structures(facts: Sequence[CaseFacts], value: int, name: str, unit: str) -> Iterator[Problem]:
    """Compare one structure's size and place between cases."""
    have = [f for f in facts if value in f.structures]
    if len(have) < MIN_CASES:
        return
    volumes = np.array([f.structures[value].voxels * float(np.prod(f.spacing)) for f in have])
    logs = np.log2(np.maximum(volumes, 1e-12))
    size = robust_scores(logs, 0.25)
    centers = np.array([_upright_center(f, value) for f in have])
    place = robust_scores(centers, 0.02)
    moved = np.abs(centers - np.median(centers, axis=0)) * stand_alone(centers)
    size *= stand_alone(logs[:, None])[:, 0]
    for f, score, log, away, far in zip(have, size, logs, place, moved, strict=True):
        assert f.case.label is not None
        if abs(score) > 6 and abs(log - np.median(logs)) > 3:
            yield Problem(
                "warning",
                f.case.label,
                f"label {value} ({name}) has {2**log:.4g} {unit}3, usual here are "
                f"{2 ** np.median(logs):.4g}",
                "look whether part of it is missing or something else carries its value",
                "label_size",
                f.case.id,
            )
        k = int(np.argmax(far))
        if far[k] > 0.25 and abs(away[k]) > 8:
            axis = ("left-right", "front-back", "up-down")[k]
            yield Problem(
                "warning",
                f.case.label,
                f"label {value} ({name}) lies elsewhere than in the other cases ({axis}: "
                f"{100 * far[k]:.0f} % of the image away)",
                "look whether the label is mirrored or shifted against the image",
                "label_place",
                f.case.id,
            )


def _upright_center(facts: CaseFacts, value: int) -> np.ndarray:
    """Return a structure's center, 0 to 1 along RAS axes."""
    from nibabel import orientations

    center = np.asarray(facts.structures[value].center)
    try:
        turn = orientations.io_orientation(facts.affine)
    except np.linalg.LinAlgError:
        return center
    out = center.copy()
    for stored, (axis, sign) in enumerate(turn):
        if not np.isnan(axis):
            out[int(axis)] = center[stored] if sign > 0 else 1 - center[stored]
    return out
