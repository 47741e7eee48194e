"""From class probabilities to a decision per voxel, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from medssl.inference.assessment import Findings, Tally
from medssl.inference.blocks import Block, rows_of
from medssl.inference.members import MemberTally
from medssl.inference.postprocess import (
    Regions,
    class_margins,
    decided_classes,
    keep_largest_components,
)
from medssl.ops.uncertainty import tempered


@dataclass(frozen=True)
class Decision:
    """What was decided of a preprocessed image.

    Attributes:
        classes: class indices ``(X, Y, Z)``, uint8.
        probabilities: ``(K, X, Y, Z)`` float32, or None.
        entropy: ``(X, Y, Z)`` float32 in [0, 1], see :func:`normalized_entropy`, or None.
        findings: sums for an assessment, or None.
        margins: ``(X, Y, Z)`` uint8, see :func:`~medssl.inference.postprocess.class_margins`;
            certain where a piece was dropped. Or None.

    Probabilities and entropy are calibrated if the predictor is.
    """

    classes: np.ndarray
    probabilities: Tensor | None = None
    entropy: np.ndarray | None = None
    findings: Findings | None = None
    margins: np.ndarray | None = None


@dataclass(frozen=True)
class Deciding:
    """How voxels are decided, and what is kept of their probabilities.

    Attributes:
        num_classes: K.
        temperature: with which probabilities and entropy are calibrated; 1 leaves them.
        pieces: how many pieces of a class are kept, if not one; None: all pieces of all classes.
        probabilities: keep all class probabilities; costs four bytes per class and voxel.
        entropy: also return the entropy of each voxel.
        assess: also return the sums that volumes and expected Dice are made from.
        margins: also return how sure each voxel is of its class.
        regions: that decide, see :func:`~medssl.inference.postprocess.decided_classes`; none: the
            most probable class does.
        looks: with these, describe every member: 1 by what it says of the image, 2 by its mirror
            image, too (see :mod:`medssl.inference.members`); 0: not at all.
    """

    num_classes: int
    temperature: float = 1.0
    pieces: Mapping[int, int] | None = None
    probabilities: bool = False
    entropy: bool = False
    assess: bool = False
    margins: bool = False
    regions: Regions = ()
    looks: int = 0


def decide(
    blocks: Iterable[Block], shape: Sequence[int], deciding: Deciding, *, members: int = 1
) -> Decision:
    """Decide each voxel's class, and what else is asked for.

    Args:
        blocks: probabilities ``(K, *block)``, or ``(members * looks, K, *block)`` where there are
            several, the looks of a member beside each other; they cover the volume.
        shape: ``(X, Y, Z)`` of the volume.
        deciding: how, and what is kept.
        members: of how many members each block holds the probabilities.
    """
    shape, count = tuple(shape), deciding.num_classes
    classes = np.empty(shape, dtype=np.uint8)
    unsure = np.empty(shape, dtype=np.float32) if deciding.entropy else None
    kept = torch.empty(count, *shape) if deciding.probabilities else None
    tally = Tally(shape, count, members, deciding.regions) if deciding.assess else None
    margins = np.empty(shape, dtype=np.uint8) if deciding.margins else None
    apart = MemberTally(members, count) if deciding.looks else None
    for where, found in rows_of(blocks):
        # (members, looks, K, *block): what decides is the mean of the first looks
        looks = found.reshape(members, -1, count, *found.shape[-3:])
        first = looks[:, 0]
        block = first.mean(dim=0) if members > 1 else first[0]
        classes[where] = decided_classes(block, deciding.regions)
        if margins is not None:
            margins[where] = class_margins(block, deciding.regions)
        calibrated = tempered(block, deciding.temperature)
        if unsure is not None:
            unsure[where] = normalized_entropy(calibrated).numpy()
        if kept is not None:
            kept[(slice(None), *where)] = calibrated
        if tally is not None:
            each = first if members > 1 else None
            tally.add(where, block, calibrated, classes[where], each)
        if apart is not None:
            # A single network is calibrated as a whole, several each by itself before.
            own = looks if members > 1 else tempered(looks, deciding.temperature, dim=2)
            apart.add(own, classes[where])
    pieces = deciding.pieces
    if pieces is not None:
        classes = keep_largest_components(classes, pieces, margins)
    findings = None
    if tally is not None:
        largest = pieces is not None
        findings = tally.finish(classes, largest_component=largest, pieces=pieces)
        if apart is not None:
            findings = replace(findings, members=apart.finish())
    return Decision(classes, kept, unsure, findings, margins)


def normalized_entropy(probabilities: Tensor) -> Tensor:
    """Return the entropy ``(*S)`` of ``(K, *S)`` probabilities, over its largest value ln K."""
    return torch.special.entr(probabilities).sum(dim=0) / math.log(probabilities.shape[0])
