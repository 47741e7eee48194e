"""Augmentation as pure functions of a patch ``(C, X, Y, Z)`` and a NumPy generator.

A 2D slice is a patch with one voxel along the slice axis. Strengths are relative to the patch's own
contrast, so that they mean the same for z-scores and for intensities in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

_SPATIAL = (1, 2, 3)
_EPSILON = 1e-6

Range = tuple[float, float]


def affine_matrix(
    angles: Sequence[tuple[int, int, float]], scale: float, axes: Sequence[int]
) -> np.ndarray:
    """Return the ``(3, 3)`` matrix from output to source voxel offsets from the patch center.

    Args:
        angles: ``(axis, axis, degrees)``: rotations in planes, one after another.
        scale: zoom; above 1 the structures become larger.
        axes: the axes that are zoomed.
    """
    matrix = np.eye(3)
    for a, b, degrees in angles:
        turn = np.eye(3)
        radians = np.deg2rad(degrees)
        turn[a, a] = turn[b, b] = np.cos(radians)
        turn[a, b], turn[b, a] = -np.sin(radians), np.sin(radians)
        matrix = turn @ matrix
    zoom = np.ones(3)
    zoom[list(axes)] = 1.0 / scale
    return matrix * zoom[None, :]


def warp(image: Tensor, label: Tensor | None, matrix: np.ndarray) -> tuple[Tensor, Tensor | None]:
    """Sample a patch and its label through one affine map about the patch center.

    The image is interpolated linearly and the label by nearest neighbor on the same grid; outside
    the patch both repeat its border.

    Args:
        image: ``(C, X, Y, Z)`` float32.
        label: ``(X, Y, Z)`` uint8, or None.
        matrix: ``(3, 3)`` in voxels, from output to source, see `affine_matrix`.
    """
    size = np.asarray(image.shape[1:], dtype=np.float64)
    # grid_sample counts half sizes, last axis first.
    relative = (matrix * size[None, :] / size[:, None])[::-1, ::-1]
    theta = torch.zeros(1, 3, 4)
    theta[0, :, :3] = torch.from_numpy(np.ascontiguousarray(relative)).float()
    grid = F.affine_grid(theta, [1, 1, *image.shape[1:]], align_corners=False)
    options = {"padding_mode": "border", "align_corners": False}
    image = F.grid_sample(image[None], grid, mode="bilinear", **options)[0]
    if label is not None:
        sampled = F.grid_sample(label[None, None].float(), grid, mode="nearest", **options)
        label = sampled[0, 0].to(label.dtype)
    return image, label


def add_noise(image: Tensor, rng: np.random.Generator, *, std: Range) -> Tensor:
    """Add Gaussian noise of a random share of each channel's standard deviation."""
    level = float(rng.uniform(*std)) * image.std(_SPATIAL, keepdim=True, correction=0)
    noise = rng.standard_normal(tuple(image.shape), dtype=np.float32)
    return image + level * torch.from_numpy(noise)


def change_brightness(image: Tensor, rng: np.random.Generator, *, shift: Range) -> Tensor:
    """Add a random share of each channel's standard deviation to all its voxels."""
    step = float(rng.uniform(*shift))
    return image + step * image.std(_SPATIAL, keepdim=True, correction=0)


def change_contrast(image: Tensor, rng: np.random.Generator, *, factor: Range) -> Tensor:
    """Stretch or shrink each channel's intensities about their mean."""
    mean = image.mean(_SPATIAL, keepdim=True)
    return mean + float(rng.uniform(*factor)) * (image - mean)


def change_gamma(image: Tensor, rng: np.random.Generator, *, gamma: Range) -> Tensor:
    """Apply a random power to each channel, taken to [0, 1] and back; its range is kept."""
    power = float(np.exp(rng.uniform(np.log(gamma[0]), np.log(gamma[1]))))
    low, high = image.amin(_SPATIAL, keepdim=True), image.amax(_SPATIAL, keepdim=True)
    span = (high - low).clamp_min(_EPSILON)
    return low + span * ((image - low) / span).clamp(0, 1).pow(power)


def blur(image: Tensor, rng: np.random.Generator, *, sigma: Range) -> Tensor:
    """Smooth with a Gaussian of random width (voxels), the same along all axes longer than one."""
    width = float(rng.uniform(*sigma))
    radius = max(1, int(np.ceil(3 * width)))
    steps = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (steps / width) ** 2)
    kernel = kernel / kernel.sum()
    for axis in _SPATIAL:
        n = image.shape[axis]
        if n > 1:
            index = torch.arange(-radius, n + radius).clamp(0, n - 1)
            padded = image.index_select(axis, index)
            image = sum(
                weight * padded.narrow(axis, i, n) for i, weight in enumerate(kernel.tolist())
            )
    return image
