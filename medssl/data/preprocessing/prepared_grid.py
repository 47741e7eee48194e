"""How prepared voxels lie in the file they come from, and the way back.

Needs NumPy, nibabel and SciPy alone: bundles carry it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from nibabel import orientations
from scipy import ndimage

from medssl.data.preprocessing.votes import Line, line_of, near, voted

Box = tuple[tuple[int, int], ...]
"""``(start, stop)`` per axis."""

Place = tuple[Sequence[int], np.ndarray]
"""``(X, Y, Z)`` of a volume, and its affine."""


def corner_scale(n: int, m: int) -> float:
    """Step in an axis of ``m`` voxels per voxel of an axis of ``n``, corner voxels aligned."""
    return (m - 1) / (n - 1) if n > 1 else 1.0


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
            return corner_scale(n, m), 0.0
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

    @property
    def voted(self) -> bool:
        """Whether classes come back by a vote of the voxels around; see :meth:`restore`."""
        if self.corners or self._sheared():
            return False
        return any(line.weight.any() for line in self._lines())

    def _sheared(self) -> bool:
        linear = self.matrix()[:3, :3]
        return bool(np.abs(linear - np.diag(np.diag(linear))).max() > 1e-6)

    def _lines(self) -> list[Line]:
        matrix = self.matrix()
        return [
            line_of(np.arange(n) * matrix[axis, axis] + matrix[axis, 3], self.shape[axis])
            for axis, n in enumerate(self.oriented_shape)
        ]

    def restore(
        self, volume: np.ndarray, *, order: int, margins: np.ndarray | None = None
    ) -> np.ndarray:
        """Sample ``(X, Y, Z)`` at the file's voxels.

        Classes (order 0) that were resampled are voted for by the voxels around, see
        :mod:`medssl.data.preprocessing.votes`. The nearest voxel alone counts where corner voxels
        are kept in place, as in protocols of the literature, and where axes are sheared. Order 1 is
        linear.

        Args:
            volume: classes, or numbers.
            order: 0 or 1.
            margins: how sure each voxel is of its class, where :attr:`voted`.
        """
        if order > 0 or self._sheared():
            matrix = self.matrix()
            identity = self.oriented_shape == self.shape and np.allclose(matrix, np.eye(4), atol=0)
            if not identity:
                volume = ndimage.affine_transform(
                    volume,
                    matrix[:3, :3],
                    matrix[:3, 3],
                    self.oriented_shape,
                    order=order,
                    mode="nearest",
                )
        elif self.voted:
            volume = voted(volume, self._lines(), margins)
        else:
            volume = near(volume, self._lines())
        if self.backward is not None:
            volume = orientations.apply_orientation(volume, self.backward)
        return np.ascontiguousarray(volume)


def make_grid(
    native: Place,
    spaced: Place,
    shape: Sequence[int],
    *,
    orientation: str | None,
    resampled: bool,
    corners: bool = False,
) -> Grid:
    """Collect the geometry of one run of the preprocessing.

    Args:
        native: the image as read, its slices aligned.
        spaced: the image oriented and resampled.
        shape: of the prepared image, which may have been resized after that.
        orientation: of the prepared axes, such as ``RAS``; None keeps the file's.
        resampled: whether the voxel size was changed.
        corners: see :class:`Grid`.
    """
    native_shape, oriented_affine = tuple(map(int, native[0])), native[1]
    oriented_shape, backward = native_shape, None
    if orientation is not None:
        start = orientations.io_orientation(oriented_affine)
        end = orientations.axcodes2ornt(orientation)
        forward = orientations.ornt_transform(start, end)
        backward = orientations.ornt_transform(end, start)
        oriented_affine = oriented_affine @ orientations.inv_ornt_aff(forward, native_shape)
        order = [int(np.argmax(forward[:, 0] == axis)) for axis in range(3)]
        oriented_shape = tuple(native_shape[axis] for axis in order)
    return Grid(
        native_shape=native_shape,
        backward=backward,
        oriented_shape=oriented_shape,
        to_spaced=np.linalg.solve(spaced[1], oriented_affine) if resampled else None,
        spaced_shape=tuple(map(int, spaced[0])),
        shape=tuple(map(int, shape)),
        corners=corners,
    )
