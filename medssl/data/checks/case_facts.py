"""What is known of a case once its files were read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from medssl.data.checks.label_measures import StructureMeasures
from medssl.data.checks.repairs import Repair
from medssl.data.checks.sketches import Sketch
from medssl.data.datasets.case import Case
from medssl.data.datasets.problem import Problem

Role = Literal["labeled", "unlabeled", "test"]


@dataclass(frozen=True)
class CaseFacts:
    """What is known of one case after its files were read.

    Attributes:
        problems: what is wrong with its files taken by themselves.
        repairs: what of that can be mended, by file.
        shape: ``(X, Y, Z)`` as stored; empty where no image could be read (all that follows, too).
        spacing: voxel edges in the dataset's unit.
        axes: where the stored axes point, such as ``RAS``.
        affine: of the first image.
        channels: image channels.
        image_hashes: that copies share one of, see :mod:`medssl.data.datasets.contents`.
        label_hash: of the decoded voxels.
        sketch: of its thumbnail, see :mod:`medssl.data.checks.sketches`.
        marks: of the first channel, see :mod:`medssl.data.datasets.marks`.
        levels: percentiles and maximum of the first channel.
        rough: see :func:`medssl.data.checks.measures.roughness`; RAS axes.
        slices: axis and indices of repeated slices.
        stamp: see :func:`medssl.data.checks.measures.stamp`.
        structures: label value to what was measured.
        label_dtype: of the label's values, header's scaling applied.
        picture: PNG, if a painter was given.
    """

    case: Case
    role: Role
    problems: tuple[Problem, ...] = ()
    repairs: tuple[Repair, ...] = ()
    shape: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    axes: str = ""
    affine: np.ndarray = field(default_factory=lambda: np.eye(4))
    channels: int = 1
    image_hashes: tuple[str, ...] = ()
    label_hash: str = ""
    sketch: Sketch | None = None
    marks: tuple[int, ...] = ()
    levels: tuple[float, ...] = ()
    rough: tuple[float, ...] = ()
    slices: tuple[int, list[int]] = (0, [])
    stamp: tuple[int, float] = (0, 0.0)
    structures: dict[int, StructureMeasures] = field(default_factory=dict)
    label_dtype: str = ""
    picture: bytes | None = None
