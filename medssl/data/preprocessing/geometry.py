"""Put images on the grid of a data spec, and label maps back on the grid of their file."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform, Orientationd, Resized, Spacingd
from monai.transforms.utils import scale_affine
from nibabel import orientations
from scipy import ndimage

from medssl.data.preprocessing.tensors import with_affine
from medssl.ops.boxes import Box
from medssl.settings.spec import DataSpec

FINE_SPACING = 0.1
"""Below this MONAI's absolute affine tolerance of 1e-3 would be more than one percent."""


class PerImaged(MapTransform):
    """Apply a function of one image to each key."""

    def __init__(self, keys: Sequence[str], function: Callable[[MetaTensor], MetaTensor]) -> None:
        super().__init__(keys)
        self.function = function

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = self.function(out[key])
        return out


class FineSpacingd(Spacingd):
    """MONAI's ``Spacingd`` on affines a thousand times larger.

    MONAI treats affines that differ by less than 1e-3 as equal, which silently skips the resampling
    of, say, 0.0039 to 0.0030 mm.
    """

    def __init__(self, keys: Sequence[str], *, pixdim: Sequence[float], **options: Any) -> None:
        super().__init__(keys, pixdim=[1000 * v for v in pixdim], **options)

    def __call__(self, data: Mapping[Hashable, Any], lazy: bool | None = None) -> Any:
        """Resample each key."""
        return self._scaled(super().__call__(self._scaled(data, 1000.0), lazy), 1e-3)

    def _scaled(self, data: Mapping[Hashable, Any], factor: float) -> dict[Hashable, Any]:
        out = dict(data)
        scale = torch.diag(torch.tensor([factor] * 3 + [1.0], dtype=torch.float64))
        for key in self.key_iterator(out):
            image = out[key]
            out[key] = with_affine(image.as_tensor(), scale @ image.affine, image.meta)
        return out


class CornerNearestd(PerImaged):
    """Resize by nearest neighbor with the corner voxels kept in place, as ``scipy.ndimage.zoom``.

    The literature's 2D protocols resize slices this way (order 0). PyTorch's nearest modes put the
    samples elsewhere. Equal to scipy's ``mode="nearest"``; its default ``mode="constant"`` writes
    zeros into the last voxel of an axis for some sizes (8 to 26, for instance), by rounding.
    """

    def __init__(self, keys: Sequence[str], *, spatial_size: Sequence[int]) -> None:
        super().__init__(keys, self._resize)
        self.spatial_size = tuple(spatial_size)

    def _resize(self, image: MetaTensor) -> MetaTensor:
        old = tuple(image.shape[1:])
        new = tuple(n if m <= 0 else m for n, m in zip(old, self.spatial_size, strict=True))
        out = image.as_tensor()
        for axis, (n, m) in enumerate(zip(old, new, strict=True)):
            index = nearest_index(np.arange(m) * _corner_scale(m, n), n)
            out = out.index_select(axis + 1, torch.from_numpy(index))
        affine = image.affine.numpy() @ scale_affine(old, new, align_corners=True)
        return with_affine(out, torch.from_numpy(affine), image.meta)


def _corner_scale(n: int, m: int) -> float:
    """Step in an axis of ``m`` voxels per voxel of an axis of ``n``, corner voxels aligned."""
    return (m - 1) / (n - 1) if n > 1 else 1.0


def nearest_index(coordinates: np.ndarray, size: int) -> np.ndarray:
    """Round voxel coordinates half up and keep them inside an axis of ``size`` voxels."""
    return np.clip(np.floor(coordinates + 0.5).astype(np.int64), 0, size - 1)


def spacing_transforms(spec: DataSpec, keys: list[str]) -> list[Callable[..., Any]]:
    """Return the transforms that orient and resample the keys (image first, label second)."""
    steps: list[Callable[..., Any]] = []
    if spec.orientation is not None:
        steps.append(Orientationd(keys, axcodes=spec.orientation, labels=None))
    if spec.spacing == "median":
        raise ValueError("the median spacing of a dataset is found before a scan is prepared")
    if spec.spacing != "native":
        mode = ["bilinear", "nearest"][: len(keys)]
        fine = any(v is not None and v < FINE_SPACING for v in spec.spacing)
        kind = FineSpacingd if fine else Spacingd
        # A spacing that is not positive keeps the image's own.
        pixdim = [-1.0 if v is None else v for v in spec.spacing]
        steps.append(kind(keys, pixdim=pixdim, mode=mode, dtype=np.float32))
    return steps


def resize_transforms(spec: DataSpec, keys: list[str]) -> list[Callable[..., Any]]:
    """Return the transform that resizes the keys, if the spec asks for it."""
    if spec.resize is None:
        return []
    size = [-1 if v is None else v for v in spec.resize]
    if spec.resize_mode == "nearest":
        return [CornerNearestd(keys, spatial_size=size)]
    mode = ["trilinear", "nearest-exact"][: len(keys)]
    return [Resized(keys, spatial_size=size, mode=mode)]


@dataclass(frozen=True)
class Grid:
    """How the voxels of a prepared image lie in the image as it was read.

    Attributes:
        native_shape: ``(X, Y, Z)`` of the file.
        backward: nibabel orientation that turns the prepared axes back to the file's.
        oriented_shape: the file's shape with the prepared axes.
        to_spaced: ``(4, 4)`` from oriented voxels to resampled voxels, None if not resampled.
        spaced_shape: shape after resampling.
        shape: shape of the prepared image.
        corners: the resize keeps corner voxels (else: the outer faces of the volume) in place.
    """

    native_shape: tuple[int, ...]
    backward: np.ndarray | None
    oriented_shape: tuple[int, ...]
    to_spaced: np.ndarray | None
    spaced_shape: tuple[int, ...]
    shape: tuple[int, ...]
    corners: bool

    def _resize_step(self, axis: int) -> tuple[float, float]:
        """Return ``(scale, shift)`` from resampled to prepared voxel coordinates."""
        n, m = self.spaced_shape[axis], self.shape[axis]
        if n == m:
            return 1.0, 0.0
        if self.corners:
            return _corner_scale(n, m), 0.0
        return m / n, 0.5 * m / n - 0.5

    def matrix(self) -> np.ndarray:
        """Return the ``(4, 4)`` matrix from oriented voxels to prepared voxels."""
        out = np.eye(4)
        for axis in range(3):
            out[axis, axis], out[axis, 3] = self._resize_step(axis)
        return out if self.to_spaced is None else np.round(out @ self.to_spaced, 9)

    def prepared_box(self, box: Box) -> Box:
        """Return the smallest box of prepared voxels that covers a box of the file's voxels."""
        matrix = self.matrix()
        if self.backward is not None:
            matrix = matrix @ orientations.inv_ornt_aff(self.backward, self.oriented_shape)
        corners = np.array(list(itertools.product(*box))) - 0.5  # outer faces of the voxels
        moved = corners @ matrix[:3, :3].T + matrix[:3, 3]
        out = []
        for low, high, n in zip(moved.min(0), moved.max(0), self.shape, strict=True):
            start = min(max(math.floor(low + 0.5 + 1e-6), 0), n - 1)
            stop = min(max(math.ceil(high + 0.5 - 1e-6), start + 1), n)
            out.append((start, stop))
        return tuple(out)

    def restore(self, volume: np.ndarray, *, order: int) -> np.ndarray:
        """Sample ``(X, Y, Z)`` at the file's voxels, nearest (order 0) or linear (order 1)."""
        matrix = self.matrix()
        linear = matrix[:3, :3]
        sheared = np.abs(linear - np.diag(np.diag(linear))).max() > 1e-6
        if order > 0 or sheared:
            identity = self.oriented_shape == self.shape and np.allclose(matrix, np.eye(4), atol=0)
            if not identity:
                volume = ndimage.affine_transform(
                    volume, linear, matrix[:3, 3], self.oriented_shape, order=order, mode="nearest"
                )
        else:
            for axis, n in enumerate(self.oriented_shape):
                steps = np.arange(n) * matrix[axis, axis] + matrix[axis, 3]
                index = nearest_index(steps, self.shape[axis])
                if n != volume.shape[axis] or not np.array_equal(index, np.arange(n)):
                    volume = np.take(volume, index, axis=axis)
        if self.backward is not None:
            volume = orientations.apply_orientation(volume, self.backward)
        return np.ascontiguousarray(volume)


def make_grid(native: MetaTensor, spaced: MetaTensor, final: MetaTensor, spec: DataSpec) -> Grid:
    """Collect the geometry of one run of the preprocessing.

    Args:
        native: the image as read, its slices aligned.
        spaced: the image after `spacing_transforms`.
        final: the image after `resize_transforms`.
        spec: the data spec behind them.
    """
    shape = tuple(native.shape[1:])
    oriented_shape, backward = shape, None
    oriented_affine = native.affine.numpy()
    if spec.orientation is not None:
        start = orientations.io_orientation(oriented_affine)
        end = orientations.axcodes2ornt(spec.orientation)
        forward = orientations.ornt_transform(start, end)
        backward = orientations.ornt_transform(end, start)
        oriented_affine = oriented_affine @ orientations.inv_ornt_aff(forward, shape)
        oriented_shape = tuple(shape[int(np.argmax(forward[:, 0] == i))] for i in range(3))
    resampled = spec.spacing != "native"
    return Grid(
        native_shape=shape,
        backward=backward,
        oriented_shape=oriented_shape,
        to_spaced=np.linalg.solve(spaced.affine.numpy(), oriented_affine) if resampled else None,
        spaced_shape=tuple(spaced.shape[1:]),
        shape=tuple(final.shape[1:]),
        corners=spec.resize_mode == "nearest",
    )
