"""Random geometry and intensities of training patches, the same for every method and stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medssl.data.patches import augment_ops as ops
from medssl.settings.augment import CHANGES, AugmentSettings
from medssl.settings.spec import DataSpec


@dataclass(frozen=True)
class Strength:
    """Ranges of the intensity changes, see :mod:`medssl.data.patches.augment_ops`."""

    noise: tuple[float, float]
    brightness: tuple[float, float]
    contrast: tuple[float, float]
    gamma: tuple[float, float]
    blur: tuple[float, float]


WEAK = Strength(
    noise=(0.0, 0.1),
    brightness=(-0.1, 0.1),
    contrast=(0.85, 1.15),
    gamma=(0.8, 1.25),
    blur=(0.3, 0.8),
)
STRONG = Strength(
    noise=(0.05, 0.3),
    brightness=(-0.4, 0.4),
    contrast=(0.5, 1.5),
    gamma=(0.5, 2.0),
    blur=(0.5, 1.5),
)


@dataclass(frozen=True)
class Geometry:
    """A drawn spatial transform: quarter turns first, then mirroring, then one affine map.

    Attributes:
        turns: ``(axis, axis, quarter turns)``.
        flips: mirrored axes.
        matrix: ``(3, 3)`` for `augment_ops.warp`, or None.
        deform: spread of a smooth deformation in voxels and its two seeds, or None.
    """

    turns: tuple[tuple[int, int, int], ...] = ()
    flips: tuple[int, ...] = ()
    matrix: np.ndarray | None = None
    deform: tuple[float, int, int] | None = None

    def source_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Return the size to crop so that the turned patch has ``size``."""
        out = list(size)
        for a, b, quarters in reversed(self.turns):
            if quarters % 2:
                out[a], out[b] = out[b], out[a]
        return tuple(out)

    def move(self, array: np.ndarray, *, first_axis: int) -> np.ndarray:
        """Turn and mirror an array, as a view; ``first_axis`` is the position of axis 0."""
        for a, b, quarters in self.turns:
            array = np.rot90(array, quarters, (a + first_axis, b + first_axis))
        return (
            np.flip(array, tuple(axis + first_axis for axis in self.flips)) if self.flips else array
        )


class Augmenter:
    """Draw augmentation, and turn and mirror. Axes are those of the volume, for slices too.

    Args:
        settings: strengths and probabilities.
        spec: which axes and planes may be touched.
        spatial_dims: 2 for slices across ``spec.slice_axis``: what would move that axis is left
            out. 3 for volumes.
        label_pairs: pairs of class indices to swap when ``side_axis`` is mirrored.
        side_axis: the axis from the patient's left to the right.
    """

    def __init__(
        self,
        settings: AugmentSettings,
        spec: DataSpec,
        *,
        spatial_dims: int,
        label_pairs: Sequence[Sequence[int]] = (),
        side_axis: int = 0,
    ) -> None:
        self.settings = settings
        axes = [a for a in range(3) if spatial_dims == 3 or a != spec.slice_axis]

        def allowed(planes: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
            return tuple((p[0], p[1]) for p in planes if set(p) <= set(axes))

        self.axes = tuple(axes)
        self.flip_axes = tuple(a for a in spec.flip_axes if a in axes) if settings.flip else ()
        self.turn_planes = allowed(spec.rot90_planes) if settings.rot90 else ()
        self.rotate_planes = allowed(spec.rotate_planes) if settings.rotate_degrees else ()
        self.swapped = np.arange(256, dtype=np.uint8)
        for a, b in label_pairs:
            self.swapped[[a, b]] = b, a
        self.swaps = bool(label_pairs)
        self.side_axis = side_axis

    def draw_geometry(self, rng: np.random.Generator) -> Geometry:
        """Draw a spatial transform."""
        settings = self.settings
        turns = tuple((a, b, int(rng.integers(4))) for a, b in self.turn_planes)
        flips = tuple(axis for axis in self.flip_axes if rng.random() < 0.5)
        angles, scale = [], 1.0
        if self.rotate_planes and rng.random() < settings.rotate_probability:
            limit = settings.rotate_degrees
            angles = [(a, b, float(rng.uniform(-limit, limit))) for a, b in self.rotate_planes]
        if settings.scale != (1.0, 1.0) and rng.random() < settings.scale_probability:
            scale = float(rng.uniform(*settings.scale))
        changes = bool(angles) or scale != 1.0
        matrix = ops.affine_matrix(angles, scale, self.axes) if changes else None
        deform = None
        if settings.deform_voxels and rng.random() < settings.deform_probability:
            first, second = (int(seed) for seed in rng.integers(2**32, size=2))
            deform = (settings.deform_voxels, first, second)
        return Geometry(tuple(t for t in turns if t[2]), flips, matrix, deform)

    def move(
        self, image: np.ndarray | None, label: np.ndarray | None, geometry: Geometry
    ) -> tuple[Tensor | None, Tensor | None]:
        """Turn and mirror a crop, see :func:`move`; exchanges left and right labels."""
        return move(image, label, geometry, swapped=self.swapped_by(geometry))

    def swapped_by(self, geometry: Geometry) -> np.ndarray | None:
        """Return the new class of each class if a geometry exchanges left and right, else None."""
        return self.swapped if self.swaps and self._mirrors_sides(geometry) else None

    def _mirrors_sides(self, geometry: Geometry) -> bool:
        """Return whether a geometry exchanges left and right: it mirrors, after its turns."""
        axis = self.side_axis
        for a, b, quarters in geometry.turns:
            if quarters % 2 and axis in (a, b):
                axis = b if axis == a else a
        return axis in geometry.flips

    def draw_weak(self, rng: np.random.Generator) -> np.ndarray:
        """Draw what happens to intensities, as the settings say."""
        if self.settings.intensity:
            return _draw_one_by_one(rng, self.settings)
        return _draw_changes(rng, self.settings.intensity_probability, WEAK)

    def draw_strong(self, rng: np.random.Generator) -> np.ndarray:
        """Draw the strong changes that make the strong view out of the weak one.

        The geometry stays, so that predictions of both views can be compared voxel by voxel.
        """
        return _draw_changes(rng, self.settings.strong_probability, STRONG)


def move(
    image: np.ndarray | None,
    label: np.ndarray | None,
    geometry: Geometry,
    *,
    swapped: np.ndarray | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Turn and mirror a crop of ``geometry.source_size``; its matrix is left to `augment_batch`.

    Args:
        image: ``(C, X, Y, Z)``, of any float type, or None; may be a view of a cached volume.
        label: ``(X, Y, Z)`` uint8, or None.
        geometry: what was drawn.
        swapped: the new class of each class.

    Returns:
        Image and label of the same types, copied.
    """
    moved = target = None
    if image is not None:
        moved = torch.from_numpy(np.array(geometry.move(image, first_axis=1), order="C"))
    if label is not None:
        label = geometry.move(label, first_axis=0)
        label = label if swapped is None else swapped[label]
        target = torch.from_numpy(np.array(label, order="C"))
    return moved, target


UNCHANGED = np.array([0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0])
"""Intensity changes of a patch: blur width, gamma, contrast, brightness, noise, and its two seeds;
the share of voxels that low resolution keeps along an axis, and the gamma of the inverted image.

What is drawn for a patch is one such row; this one leaves it as it is.
"""


def _draw_changes(rng: np.random.Generator, probability: float, strength: Strength) -> np.ndarray:
    """Draw each of the five intensity changes with a probability."""
    row = UNCHANGED.copy()
    if probability == 0:
        return row
    chosen = rng.random(5) < probability
    if chosen[0]:
        row[0] = rng.uniform(*strength.blur)
    if chosen[1]:
        row[1] = np.exp(rng.uniform(*np.log(strength.gamma)))
    if chosen[2]:
        row[2] = rng.uniform(*strength.contrast)
    if chosen[3]:
        row[3] = rng.uniform(*strength.brightness)
    if chosen[4]:
        row[4] = rng.uniform(*strength.noise)
        row[5:7] = rng.integers(2**32, size=2)
    return row


COLUMNS = {
    **{"blur": 0, "gamma": 1, "contrast": 2, "brightness": 3, "noise": 4},
    **{"low_resolution": 7, "inverted_gamma": 8},
}
"""Where a change stands in a row."""


def _draw_one_by_one(rng: np.random.Generator, settings: AugmentSettings) -> np.ndarray:
    """Draw each intensity change with a chance and a range of its own.

    As many numbers are drawn whatever is chosen. A gamma below 1 is as likely as one above.
    """
    row = UNCHANGED.copy()
    for name in CHANGES:
        change = settings.intensity.get(name)
        if change is None:
            continue
        chosen, value = rng.random(), rng.random()
        low, high = change.range
        if chosen >= change.probability:
            continue
        if name in ("gamma", "inverted_gamma"):
            value = _about_one(value, low, high)
        else:
            value = low + (high - low) * value
        row[COLUMNS[name]] = value
    row[5:7] = rng.integers(2**32, size=2)
    return row


def _about_one(value: float, low: float, high: float) -> float:
    """Turn a number of [0, 1) into one of a range that holds 1: below and above equally likely."""
    if not low < 1 < high:
        return low + (high - low) * value
    return low + (1 - low) * 2 * value if value < 0.5 else 1 + (high - 1) * (2 * value - 1)
