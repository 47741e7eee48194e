"""Corrupt label masks as a segmentation network would, to train an autoencoder that repairs them.

Two styles. ``coherent`` makes errors that are coherent in 3D (or 2D): a component missing, one too
many, a leak, a hole, a smoothly displaced boundary. It treats every structure alike, whatever its
class index, and nothing leaves on one side to come back on the other. ``official2d`` follows the
published description: pixels near boundaries exchanged and grey-level morphology, slice by slice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from medssl.ops.variants import CorruptionStyle

Morphology = Literal["erosion", "dilation", "opening", "closing"]

SLICE_PROBABILITY = 0.2
"""Of each of the two operations of ``official2d``, for every slice."""

ERROR_PROBABILITY = 0.35
"""Of each of the four topological errors of ``coherent``, for every mask, at strength 1."""

LARGEST_DISPLACEMENT = 0.08
"""Of boundaries, relative to the patch's mean side, at strength 1."""


def corrupt_masks(
    masks: Tensor,
    rng: np.random.RandomState,
    *,
    style: CorruptionStyle = "coherent",
    strength: float = 1.0,
) -> Tensor:
    """Corrupt each mask of a batch; the input is left as it is.

    Args:
        masks: ``(B, *spatial)`` class indices, 2D or 3D; 0 is background.
        rng: generator of all randomness.
        style: ``coherent`` or ``official2d``.
        strength: 0 changes nothing; factor of probabilities and sizes. At 1, ``coherent`` leaves
            a Dice of about 0.85 on hippocampus, and ``official2d`` is as published, which is mild.
    """
    functions = {"coherent": corrupt_coherent, "official2d": corrupt_slices}
    if style not in functions:
        raise ValueError(f"style must be coherent or official2d, not {style!r}")
    out = [functions[style](m, rng, strength=strength) for m in masks.cpu().numpy()]
    return torch.from_numpy(np.stack(out)).to(device=masks.device, dtype=masks.dtype)


# ------------------------------------------------------------------------------------ coherent


def corrupt_coherent(
    label: np.ndarray, rng: np.random.RandomState, *, strength: float = 1.0
) -> np.ndarray:
    """Return a mask with errors of the kinds segmentation networks make.

    First up to four topological errors, then a smooth displacement of everything, of random size.
    """
    out = label.copy()
    for error in (drop_component, add_component, leak, punch_hole):
        if rng.random_sample() < min(ERROR_PROBABILITY * strength, 1.0):
            out = error(out, rng, strength=strength)
    largest = LARGEST_DISPLACEMENT * strength * rng.random_sample() * float(np.mean(label.shape))
    return displace(out, rng, largest) if largest > 0 else out


def drop_component(
    label: np.ndarray, rng: np.random.RandomState, *, strength: float = 1.0
) -> np.ndarray:
    """Remove one component of a random structure; of a structure in one piece, a part of it.

    That part lies beyond a random plane and holds at most half of the voxels: from an empty mask
    there would be nothing to repair.
    """
    value = _structure(label, rng)
    if value is None:
        return label
    labeled, count = ndimage.label(label == value)
    out = label.copy()
    if count > 1:
        out[labeled == rng.randint(1, count + 1)] = 0
        return out
    voxels = np.nonzero(labeled)
    along = rng.standard_normal(label.ndim) @ np.stack(voxels)
    beyond = along > np.quantile(along, 1 - min(strength * rng.uniform(0.1, 0.5), 1.0))
    out[tuple(v[beyond] for v in voxels)] = 0
    return out


def add_component(
    label: np.ndarray, rng: np.random.RandomState, *, strength: float = 1.0
) -> np.ndarray:
    """Add a ball-like piece of a random structure somewhere in the background."""
    value = _structure(label, rng)
    center = _voxel(label == 0, rng)
    if value is None or center is None:
        return label
    ball = _ball(label.shape, center, _radii(label, value, rng, strength))
    return np.where(ball & (label == 0), value, label)


def leak(label: np.ndarray, rng: np.random.RandomState, *, strength: float = 1.0) -> np.ndarray:
    """Let a random structure flow over its boundary, into whatever is there."""
    value = _structure(label, rng)
    if value is None:
        return label
    mask = label == value
    center = _voxel(mask & ~ndimage.binary_erosion(mask, border_value=1), rng)
    if center is None:  # it fills the patch
        return label
    return np.where(_ball(label.shape, center, _radii(label, value, rng, strength)), value, label)


def punch_hole(
    label: np.ndarray, rng: np.random.RandomState, *, strength: float = 1.0
) -> np.ndarray:
    """Turn a ball-like part of a random structure into background."""
    value = _structure(label, rng)
    if value is None:
        return label
    center = _voxel(label == value, rng)
    assert center is not None
    ball = _ball(label.shape, center, _radii(label, value, rng, strength))
    return np.where(ball & (label == value), 0, label)


def displace(label: np.ndarray, rng: np.random.RandomState, largest: float) -> np.ndarray:
    """Move every voxel by a smooth random field, at most ``largest`` voxels along each axis.

    The field is linear between random vectors on a coarse grid of about five points per axis.
    Labels are taken from the nearest voxel; beyond the patch its border is repeated.
    """
    dims, shape = label.ndim, label.shape
    coarse = torch.from_numpy(rng.uniform(-1, 1, (1, dims, *(5,) * dims)).astype(np.float32))
    mode = "bilinear" if dims == 2 else "trilinear"
    field = F.interpolate(coarse, size=shape, mode=mode, align_corners=True)[0] * largest
    axes = [torch.arange(n, dtype=torch.float32) for n in shape]
    where = torch.stack(torch.meshgrid(*axes, indexing="ij")) + field
    index = [w.round_().clamp_(0, n - 1).long() for w, n in zip(where, shape, strict=True)]
    return torch.from_numpy(label)[tuple(index)].numpy()


def _structure(label: np.ndarray, rng: np.random.RandomState) -> int | None:
    """Draw one of the structures present, all equally likely; their indices play no part."""
    values, first = np.unique(label, return_index=True)
    order = values[np.argsort(first)]
    order = order[order != 0]
    return int(order[rng.randint(len(order))]) if len(order) else None


def _voxel(mask: np.ndarray, rng: np.random.RandomState) -> tuple[int, ...] | None:
    """Draw a voxel of a boolean mask."""
    inside = np.flatnonzero(mask)
    if not len(inside):
        return None
    flat = inside[rng.randint(len(inside))]
    return tuple(int(i) for i in np.unravel_index(flat, mask.shape))


def _radii(
    label: np.ndarray, value: int, rng: np.random.RandomState, strength: float
) -> np.ndarray:
    """Draw radii per axis, 1 or more: 0.15 to 0.6 of the side of a cube of the structure's size."""
    side = np.count_nonzero(label == value) ** (1 / label.ndim)
    return np.maximum(strength * side * rng.uniform(0.15, 0.6, label.ndim), 1.0)


def _ball(shape: Sequence[int], center: Sequence[int], radii: np.ndarray) -> np.ndarray:
    """Return a boolean ellipsoid, cut off at the patch's border."""
    total = np.zeros((1,) * len(shape))
    for axis, (n, c, r) in enumerate(zip(shape, center, radii, strict=True)):
        steps = ((np.arange(n) - c) / r) ** 2
        total = total + steps.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return total <= 1


# ------------------------------------------------------------------------------------ official2d


def corrupt_slices(
    label: np.ndarray, rng: np.random.RandomState, *, strength: float = 1.0
) -> np.ndarray:
    """Corrupt every 2D slice along the last axis by itself; a 2D mask is one slice.

    Each of two operations happens with probability 0.2: exchanging pixels near boundaries over a
    distance from 3 to 8, then one of four morphological operations with a disk of radius 1 to 4.

    Source: Adiga V et al., MICCAI 2022, published code, with its faults: the slices know nothing
    of each other, dilation lets higher class indices overwrite lower ones, and an exchange beyond
    the first row or column wraps around.
    """
    out = label.copy()
    slices = [out] if label.ndim == 2 else [out[..., i] for i in range(label.shape[-1])]
    chance = SLICE_PROBABILITY * strength
    names: tuple[Morphology, ...] = ("erosion", "dilation", "opening", "closing")
    for plane in slices:
        if rng.random_sample() < chance:
            exchange_near_boundaries(plane, rng.randint(3, 9), rng)
        if rng.random_sample() < chance:
            plane[:] = grey_morphology(plane, names[rng.randint(4)], rng.randint(1, 5))
    return out


def exchange_near_boundaries(plane: np.ndarray, distance: int, rng: np.random.RandomState) -> None:
    """Exchange pixels near boundaries with those ``distance`` away, in place.

    In each of the directions -y, +y, +x, -x a tenth of the band is drawn, with replacement, and all
    of it is exchanged at once: both sides are read before anything is written. First the partners
    are written, then the drawn pixels, each in the order drawn; the last write stays.

    Args:
        plane: ``(X, Y)`` class indices.
        distance: in pixels.
        rng: generator.
    """
    x, y = boundary_band(plane, distance)
    count = len(x) // 10
    for dx, dy in ((0, -1), (0, 1), (1, 0), (-1, 0)):
        if not count:
            return
        drawn = rng.randint(0, len(x), count)
        here = x[drawn], y[drawn]
        # A negative index counts from the end, as it did in the published experiments.
        there = x[drawn] + dx * distance, y[drawn] + dy * distance
        plane[there], plane[here] = plane[here], plane[there]


def boundary_band(plane: np.ndarray, distance: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels ``(x, y)`` within ``distance`` of a lower class index.

    Pixels fewer than ``distance`` from the last row or column are left out.
    """
    x, y = np.nonzero(plane != grey_morphology(plane, "erosion", distance))
    keep = (x + distance < plane.shape[0]) & (y + distance < plane.shape[1])
    return x[keep], y[keep]


def grey_morphology(plane: np.ndarray, operation: Morphology, radius: int) -> np.ndarray:
    """Apply grey-level morphology with a disk to class indices; the border does not erode."""
    offsets = np.arange(-radius, radius + 1)
    disk = offsets[:, None] ** 2 + offsets[None, :] ** 2 <= radius**2

    def erode(values: np.ndarray) -> np.ndarray:
        return ndimage.grey_erosion(values, footprint=disk, mode="reflect")

    def dilate(values: np.ndarray) -> np.ndarray:
        return ndimage.grey_dilation(values, footprint=disk, mode="reflect")

    steps: dict[str, tuple[Callable[[np.ndarray], np.ndarray], ...]] = {
        "erosion": (erode,),
        "dilation": (dilate,),
        "opening": (erode, dilate),
        "closing": (dilate, erode),
    }
    for step in steps[operation]:
        plane = step(plane)
    return plane
