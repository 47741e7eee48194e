"""Left and right: which labels exchange their names when a patch is mirrored, and along which axis.

A mirrored right kidney is a left one. Training data that is mirrored without exchanging the labels
teaches a network to guess.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from nibabel.orientations import io_orientation

from medssl.data.datasets.case import Case, LabelMap
from medssl.data.images.volume import read_header
from medssl.errors import MedSSLError
from medssl.settings.spec import DataSpec
from medssl.settings.specs import axis_along

_SIDE = re.compile(r"(?<![a-z])(left|right)(?![a-z])")


def side_axis(spec: DataSpec, cases: Sequence[Case]) -> int:
    """Return the axis of prepared volumes that runs from the patient's left to the right.

    Args:
        spec: decides it, if it turns volumes to an orientation.
        cases: else, the files whose stored axes decide.

    Raises:
        MedSSLError: the volumes keep their stored axes, and these differ from case to case.
    """
    axis = axis_along(spec, "R")
    if axis is not None:
        return axis
    first: tuple[int, Path] | None = None
    for case in cases:
        world = io_orientation(read_header(case.images[0]).affine)[:, 0]
        axis = int(np.flatnonzero(world == 0)[0])
        if first is not None and axis != first[0]:
            raise MedSSLError(
                f"left to right is axis {axis} here but axis {first[0]} in {first[1].name}, so "
                "mirroring cannot exchange left and right labels",
                where=case.images[0],
                fix="set spec.orientation to RAS, or training.augment.flip to false",
            )
        first = first or (axis, case.images[0])
    return 0 if first is None else first[0]


def class_pairs(
    spec: DataSpec, labels: LabelMap, *, mirrored: bool, where: Path
) -> list[tuple[int, int]]:
    """Return the pairs of class indices to exchange, of those values that a dataset declares.

    Args:
        spec: its `label_pairs` are pairs of label values. A pair that is not declared at all is
            left out: a dataset need not have every tooth. Where there are any, structures whose
            names differ in the word left or right alone are pairs too.
        labels: of the dataset.
        mirrored: whether training mirrors left to right; only then are missing partners refused.
        where: the file that declares the labels.

    Raises:
        MedSSLError: only one side of a pair is declared.
    """
    index = {value: i for i, value in enumerate(labels.values)}
    declared = [pair for pair in spec.label_pairs if set(pair) <= index.keys()]
    half = [pair for pair in spec.label_pairs if len(set(pair) & index.keys()) == 1]
    if mirrored and half:
        have, lack = half[0] if half[0][0] in index else half[0][::-1]
        more = f" (and {len(half) - 1} more such pairs)" if len(half) > 1 else ""
        raise MedSSLError(
            f"label {have} is declared but not {lack}, its other side{more}: in mirrored images it "
            "would carry the wrong name",
            where=where,
            fix=f"declare {lack} too (it may occur nowhere), or set training.augment.flip to false",
        )
    if spec.label_pairs:
        taken = {value for pair in declared for value in pair}
        declared += [pair for pair in _named_pairs(labels) if not taken & set(pair)]
    return [(index[a], index[b]) for a, b in declared]


def _named_pairs(labels: LabelMap) -> list[list[int]]:
    """Return pairs of values whose names differ in the word left or right alone."""
    by_name = {name.lower(): value for name, value in zip(labels.names, labels.values, strict=True)}
    found = []
    for name, value in by_name.items():
        other = _SIDE.sub(lambda m: "right" if m[0] == "left" else "left", name)
        if other != name and "left" in name and other in by_name:
            found.append([value, by_name[other]])
    return found
