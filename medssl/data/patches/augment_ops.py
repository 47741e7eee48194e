"""Augmentation as pure functions of patches ``(B, C, *spatial)`` with parameters for each of them.

Parameters are NumPy arrays: what is to be done is known to the host, so nothing is read back from
the device that does it. Every patch of a batch goes through the same operations. One that an
operation is not meant for has parameters that leave it exactly as it is; hence a patch does not
depend on what else is in its batch. Strengths are relative to the patch's own contrast, so that
they mean the same for z-scores and for intensities in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medssl.ops.moving import to_device

_EPSILON = 1e-6
_LOW_BITS = 0xFFFFFFFF


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


def warp(
    images: Tensor | None,
    labels: Tensor | None,
    matrices: np.ndarray,
    deform: np.ndarray | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Sample patches and their labels, each through its affine map about the patch center.

    Images are interpolated linearly and labels by nearest neighbor on the same grid; outside the
    patch both repeat its border.

    Args:
        images: ``(B, C, *spatial)`` float32, or None.
        labels: ``(B, *spatial)`` uint8, or None.
        matrices: ``(B, n, n)`` for n axes, in voxels, from output to source; see `affine_matrix`.
        deform: ``(B, 3)``: spread in voxels and two seeds of a `displacement` that comes on top.
    """
    moved = (matrices != np.eye(matrices.shape[-1])).any((1, 2))
    if deform is not None:
        moved |= deform[:, 0] > 0
    some = images if images is not None else labels
    if some is None or not moved.any():
        return images, labels
    size = some.shape[-matrices.shape[-1] :]
    grid = _grid(matrices, size, some.device)
    if deform is not None and deform[:, 0].any():
        grid = grid + displacement(deform[:, 0], deform[:, 1:], size, some.device)
    sample = partial(F.grid_sample, padding_mode="border", align_corners=False)
    if images is not None:
        sampled = sample(images, grid, mode="bilinear")
        images = _where(moved, sampled, images)
    if labels is not None:
        sampled = sample(labels[:, None].float(), grid, mode="nearest")
        labels = _where(moved, sampled[:, 0].to(labels.dtype), labels)
    return images, labels


def _grid(matrices: np.ndarray, size: Sequence[int], device: torch.device) -> Tensor:
    """Return the ``(B, *size, n)`` grid of `grid_sample`, which counts half sizes, last axis first.

    By multiplication and addition alone: a matrix product would be rounded to TF32 on a card.
    """
    sides = np.asarray(size, dtype=np.float64)
    relative = matrices * sides[None, None, :] / sides[None, :, None]
    n = len(sides)
    theta = _to(relative.reshape(len(matrices), -1), device).reshape(-1, n, n, *[1] * n)
    centers = []
    for axis, side in enumerate(size):
        center = (torch.arange(side, device=device, dtype=torch.float32) * 2 + 1) / side - 1
        centers.append(center.reshape([-1 if a == axis else 1 for a in range(n)]))
    coordinates = [
        sum(theta[:, row, column] * centers[column] for column in range(n)) for row in range(n)
    ]
    return torch.stack(cast(list[Tensor], coordinates[::-1]), dim=-1)


NODES = 10
"""Voxels between two nodes of a smooth deformation."""


def displacement(
    spreads: np.ndarray, seeds: np.ndarray, size: Sequence[int], device: torch.device
) -> Tensor:
    """Return smooth random displacements ``(B, *size, n)`` in the coordinates of `grid_sample`.

    A cubic B-spline over nodes every 10 voxels, with normal values that are functions of the seeds.

    Args:
        spreads: ``(B,)`` standard deviation of the nodes' displacements, in voxels.
        seeds: ``(B, 2)``, see `gaussian_noise`.
        size: voxels of a patch.
        device: where to compute.
    """
    bases = [_spline_basis(side) for side in size]
    nodes = [basis.shape[1] for basis in bases]
    field = gaussian_noise(seeds, (len(size), *nodes), device).double()
    for basis in bases:  # the axis that is done goes to the end
        field = torch.tensordot(field, _to(basis, device, torch.float64), dims=([2], [1]))
    per_voxel = np.array([2.0 / side for side in size])  # the sampler counts half sizes
    scale = _to(spreads[:, None] * per_voxel, device).reshape(-1, len(size), *[1] * len(size))
    return (field.float() * scale).flip(1).movedim(1, -1)


def _spline_basis(side: int) -> np.ndarray:
    """Return the ``(side, nodes)`` cubic B-spline weights of voxels."""
    place = (np.arange(side) + 0.5) / NODES + 1
    count = int(np.floor(place[-1])) + 3
    distance = np.abs(place[:, None] - np.arange(count)[None, :])
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = (2 - np.minimum(distance, 2)) ** 3 / 6
    return np.where(distance < 1, near, far)


def lower_resolution(images: Tensor, shares: np.ndarray) -> Tensor:
    """Keep a share of the voxels along each axis, and fill in between linearly.

    Args:
        images: ``(B, C, *spatial)`` float32.
        shares: ``(B,)`` in (0, 1]; 1 changes nothing.
    """
    changed = np.flatnonzero(shares != 1)
    if not len(changed):
        return images
    size = images.shape[2:]
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    images = images.clone()
    for i in changed:
        kept = [max(1, round(float(shares[i]) * n)) for n in size]
        coarse = F.interpolate(images[i : i + 1], size=kept, mode="nearest-exact")
        images[i : i + 1] = F.interpolate(coarse, size=size, mode=mode, align_corners=False)
    return images


def blur(images: Tensor, widths: np.ndarray) -> Tensor:
    """Smooth with Gaussians of ``(B,)`` widths in voxels, the same along all axes longer than one.

    A width of 0 changes nothing.
    """
    if not widths.any():
        return images
    kernels = [_gaussian(width) for width in widths]
    radius = max(len(kernel) for kernel in kernels) // 2
    padded = np.stack([np.pad(kernel, radius - len(kernel) // 2) for kernel in kernels])
    weights = _to(padded, images.device).reshape(*padded.shape, *[1] * (images.ndim - 1))
    for axis in range(2, images.ndim):
        n = images.shape[axis]
        if n > 1:
            index = torch.arange(-radius, n + radius, device=images.device).clamp_(0, n - 1)
            source = images.index_select(axis, index)
            images = source.narrow(axis, 0, n) * weights[:, 0]
            for i in range(1, 2 * radius + 1):
                images.addcmul_(source.narrow(axis, i, n), weights[:, i])
    return images


def _gaussian(width: float) -> np.ndarray:
    if width == 0:
        return np.ones(1)
    radius = max(1, int(np.ceil(3 * width)))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / width) ** 2)
    return kernel / kernel.sum()


def change_gamma(images: Tensor, powers: np.ndarray, *, inverted: bool = False) -> Tensor:
    """Apply ``(B,)`` powers to each channel, taken to [0, 1] and back; its range is kept.

    With ``inverted``, dark and bright change their places for it.
    """
    changed = powers != 1
    if not changed.any():
        return images
    if inverted:
        return _where(changed, -change_gamma(-images, powers), images)
    spatial = tuple(range(2, images.ndim))
    low, high = images.amin(spatial, keepdim=True), images.amax(spatial, keepdim=True)
    span = (high - low).clamp_min_(_EPSILON)
    out = (images - low).div_(span).clamp_(0, 1).pow_(_column(powers, images))
    return _where(changed, out.mul_(span).add_(low), images)


def change_linearly(
    images: Tensor,
    *,
    contrast: np.ndarray,
    brightness: np.ndarray,
    noise: np.ndarray,
    seeds: np.ndarray,
) -> Tensor:
    """Change contrast, then brightness, then add Gaussian noise: one linear map of each channel.

    Args:
        images: ``(B, C, *spatial)`` float32.
        contrast: ``(B,)`` positive factors about the channel's mean; 1 for none.
        brightness: ``(B,)`` shifts in standard deviations of the channel; 0 for none.
        noise: ``(B,)`` standard deviations of the noise in those of the channel; 0 for none.
        seeds: ``(B, 2)`` of the noise, see `gaussian_noise`.
    """
    if (contrast == 1).all() and not brightness.any() and not noise.any():
        return images
    std, mean = torch.std_mean(images, tuple(range(2, images.ndim)), correction=0, keepdim=True)
    factor = _column(contrast, images)
    out = images * factor + (
        mean * _column(1 - contrast, images) + std * _column(contrast * brightness, images)
    )
    if noise.any():
        level = std * _column(contrast * noise, images)
        out.addcmul_(level, gaussian_noise(seeds, images.shape[1:], images.device))
    return out


def gaussian_noise(seeds: np.ndarray, shape: Sequence[int], device: torch.device) -> Tensor:
    """Return ``(B, *shape)`` standard normal values that are a function of the seeds alone.

    Random bits come from hashing each value's number with the seed of its patch, so that they are
    the same on every device and in every batch; no generator is touched.

    Args:
        seeds: ``(B, 2)`` whole numbers below ``2**32``.
        shape: of one patch.
        device: where to compute.
    """
    count = int(np.prod(shape))
    pairs = (count + 1) // 2
    first, second = _to(seeds, device, torch.int64).unsqueeze(-1).unbind(1)
    numbers = torch.arange(2 * pairs, device=device)
    bits = _mix(_mix(numbers ^ first).bitwise_xor_(second))
    uniform = bits.bitwise_right_shift_(8).float().add_(0.5).mul_(2.0**-24)  # in (0, 1]
    radius = uniform[:, :pairs].log().mul_(-2).sqrt_()
    angle = uniform[:, pairs:].mul(2 * np.pi)
    values = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)
    return values[:, :count].reshape(-1, *shape)


def _mix(x: Tensor) -> Tensor:
    """Scramble 32-bit numbers in place, one to one; no product leaves the range of int64.

    Shifts and factors: the two-round hash found by Wellons' "hash prospector" search.
    """
    x.bitwise_xor_(x >> 16).mul_(0x21F0AAAD).bitwise_and_(_LOW_BITS)
    x.bitwise_xor_(x >> 15).mul_(0x735A2D97).bitwise_and_(_LOW_BITS)
    return x.bitwise_xor_(x >> 15)


def _to(values: np.ndarray, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    return to_device(torch.from_numpy(np.ascontiguousarray(values)).to(dtype), device)


def _column(values: np.ndarray, images: Tensor) -> Tensor:
    """Return ``(B,)`` numbers so that they broadcast over patches."""
    return _to(values, images.device).reshape(-1, *[1] * (images.ndim - 1))


def _where(chosen: np.ndarray, new: Tensor, old: Tensor) -> Tensor:
    """Take the new patches that are chosen, and the others as they were."""
    if chosen.all():
        return new
    mask = _to(chosen, new.device, torch.bool).reshape(-1, *[1] * (new.ndim - 1))
    return torch.where(mask, new, old)
