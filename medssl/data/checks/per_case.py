"""Faults of a single case that its files alone do not show as broken."""

from __future__ import annotations

from collections.abc import Iterator

from medssl.data.checks.case_facts import CaseFacts
from medssl.data.datasets.case import LabelMap
from medssl.data.datasets.problem import Problem

SPIKE = 20.0
"""How far the brightest voxel may lie above the 99.5th percentile, in widths of the histogram."""

SPECKLE = 0.05
SPECKLE_VOXELS = 20
"""More isolated voxels than both are no annotation of an organ."""

COARSE = 1.5
"""An axis with voxels so much longer than on the others is the one along which slices lie."""

THIN = 3
"""Fewer slices than this are no volume."""


def case_problems(facts: CaseFacts, labels: LabelMap) -> list[Problem]:
    """Return what is wrong with a case beyond its files being readable and in place."""
    return [*_image_problems(facts), *_label_problems(facts, labels)]


def _image_problems(facts: CaseFacts) -> Iterator[Problem]:
    path, case = facts.case.images[0], facts.case.id
    if facts.shape and min(facts.shape) < THIN:
        yield Problem(
            "warning",
            path,
            f"the image has {' x '.join(str(n) for n in facts.shape)} voxels: hardly a volume",
            "check that all slices were exported",
            "thin",
            case,
        )
    axis, slices = _repeated(facts)
    if slices:
        listed = ", ".join(str(k) for k in slices[:6]) + (", ..." if len(slices) > 6 else "")
        yield Problem(
            "warning",
            path,
            f"{len(slices)} of {facts.shape[axis]} slices along axis {axis} repeat the slice before"
            f" them (index {listed})",
            "export the scan again; if it was stretched by copying slices, resample it instead",
            "repeated_slices",
            case,
        )
    count, value = facts.stamp
    if count:
        yield Problem(
            "warning" if facts.role == "unlabeled" else "note",
            path,
            f"{count} places have the value {value:.4g} throughout, as no scanner writes it: a "
            "text or mark burnt into the image, or a patch filled with one value",
            "look at it: a name must not be there, and a network learns marks like structures",
            "stamp",
            case,
        )
    if facts.levels:
        low, high, top = facts.levels[0], facts.levels[-2], facts.levels[-1]
        width = max(high - low, 1e-12)
        if (top - high) / width > SPIKE:
            yield Problem(
                "warning",
                path,
                f"a few voxels are far brighter than all others: {top:.4g}, while 99.5 % lie below "
                f"{high:.4g}",
                "clip them, or choose spec.intensity.rule percentile rather than minmax or zscore",
                "spike",
                case,
            )


def _repeated(facts: CaseFacts) -> tuple[int, list[int]]:
    """Return repeated slices; a single one at the border of an axis in the plane is padding."""
    axis, slices = facts.slices
    others = [s for a, s in enumerate(facts.spacing) if a != axis]
    along_slices = facts.spacing and facts.spacing[axis] >= COARSE * max(others)
    if slices and not along_slices and set(slices) <= {1, facts.shape[axis] - 1}:
        return axis, []
    return axis, slices


def _planes(number: int) -> str:
    return "1 plane" if number == 1 else f"{number} planes"


def _label_problems(facts: CaseFacts, labels: LabelMap) -> Iterator[Problem]:
    path, case = facts.case.label, facts.case.id
    if path is None:
        return
    names = dict(zip(labels.values, labels.names, strict=True))
    if facts.label_dtype.startswith("float"):
        yield Problem(
            "note",
            path,
            f"the label is stored as {facts.label_dtype}",
            "nothing to do: it is read as whole numbers; --repair stores it as such",
            "label_type",
            case,
        )
    for value, found in facts.structures.items():
        if found.full_planes:
            axis, first = found.full_planes[0]
            planes = [k for a, k in found.full_planes if a == axis]
            listed = ", ".join(str(k) for k in planes[:6]) + (", ..." if len(planes) > 6 else "")
            yield Problem(
                "warning",
                path,
                f"label {value} ({names[value]}) fills {_planes(len(planes))} across axis {axis} "
                f"almost whole (index {listed})",
                f"look at plane {first}: erase it if it is no anatomy",
                "full_plane",
                case,
            )
        if found.isolated > max(SPECKLE_VOXELS, SPECKLE * found.voxels):
            yield Problem(
                "warning",
                path,
                f"{found.isolated} of {found.voxels} voxels of label {value} ({names[value]}) "
                "touch no other voxel of it",
                "look at it: thresholding and interpolation of labels leave such speckle",
                "speckle",
                case,
            )
