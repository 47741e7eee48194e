"""Undo the shifts along depth between the B-scans of an OCT volume.

The eye moves while the scanner takes one B-scan after another, so that neighbors show the same
retina some voxels higher or lower. A network with 3D kernels sees steps instead of layers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from nibabel import orientations
from scipy import fft, ndimage

from medssl.data.preprocessing.tensors import with_affine
from medssl.settings.spec import DataSpec

MAX_SHIFT_SHARE = 0.125
"""No B-scan is shifted by more of the depth than this."""
MAX_LAG = 3
"""B-scans this far apart are compared."""
MIN_CORRELATION = 0.1
"""B-scans whose edges correlate less, for instance beside a blink, are not compared."""
_SMOOTHING = 1.0  # voxels; speckle differs from B-scan to B-scan


@dataclass(frozen=True)
class SliceShifts:
    """How far each B-scan of a file was moved along depth.

    Attributes:
        depth_axis: axis of the file along which they were moved.
        slice_axis: axis of the file across them.
        shifts: one whole number of voxels per B-scan, 0 or more.
    """

    depth_axis: int
    slice_axis: int
    shifts: tuple[int, ...]

    def apply(self, volume: np.ndarray, fill: float | None) -> np.ndarray:
        """Move the B-scans of ``(X, Y, Z)``; the volume becomes deeper, so that nothing is lost.

        Args:
            volume: on the file's grid.
            fill: value of the voxels that nothing was moved to; None repeats each column's ends.
        """
        slices = np.moveaxis(volume, (self.slice_axis, self.depth_axis), (0, 1))
        depth, extra = slices.shape[1], max(self.shifts)
        out = np.empty((slices.shape[0], depth + extra, *slices.shape[2:]), volume.dtype)
        for target, source, shift in zip(out, slices, self.shifts, strict=True):
            target[shift : shift + depth] = source
            target[:shift] = source[:1] if fill is None else fill
            target[shift + depth :] = source[-1:] if fill is None else fill
        moved = np.moveaxis(out, (0, 1), (self.slice_axis, self.depth_axis))
        return np.ascontiguousarray(moved)

    def undo(self, volume: np.ndarray) -> np.ndarray:
        """Bring ``(X, Y, Z)`` of the size that `apply` returns back: exactly its inverse."""
        slices = np.moveaxis(volume, (self.slice_axis, self.depth_axis), (0, 1))
        depth = slices.shape[1] - max(self.shifts)
        kept = [s[n : n + depth] for s, n in zip(slices, self.shifts, strict=True)]
        moved = np.moveaxis(np.stack(kept), (0, 1), (self.slice_axis, self.depth_axis))
        return np.ascontiguousarray(moved)


class AlignSlicesd(MapTransform):
    """Estimate the shifts on the first key, an image, and move all keys by them.

    The shifts are then in the first image's ``meta["slice_shifts"]``.
    """

    def __init__(self, keys: Sequence[str], *, spec: DataSpec) -> None:
        super().__init__(keys)
        self.spec = spec

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Move the keys."""
        out = dict(data)
        image: MetaTensor = out[self.keys[0]]
        depth, across = depth_and_slices(self.spec, image.affine.numpy())
        shifts = estimate_shifts(image.as_tensor()[0].numpy(), depth_axis=depth, slice_axis=across)
        moves = SliceShifts(depth, across, tuple(int(s) for s in shifts))
        for key in self.key_iterator(out):
            volume: MetaTensor = out[key]
            lowest = volume.as_tensor().amin(dim=(1, 2, 3)).tolist()
            # Labels repeat: above the retina is vitreous, below the last layer is what lies there.
            fills = lowest if key == self.keys[0] else [None] * len(lowest)
            channels = volume.as_tensor().numpy()
            moved = [moves.apply(c, f) for c, f in zip(channels, fills, strict=True)]
            tensor = torch.from_numpy(np.stack(moved))
            out[key] = with_affine(tensor, volume.affine, {**volume.meta, "slice_shifts": moves})
        return out


def depth_and_slices(spec: DataSpec, affine: np.ndarray) -> tuple[int, int]:
    """Return the axes of a file along its depth and across its slices.

    Raises:
        ValueError: both are the same axis.
    """
    assert spec.depth_direction is not None
    stored = orientations.io_orientation(affine)
    depth = int(np.flatnonzero(stored[:, 0] == _world_axis(spec.depth_direction))[0])
    across = spec.slice_axis
    if spec.orientation is not None:
        across = int(
            np.flatnonzero(stored[:, 0] == _world_axis(spec.orientation[spec.slice_axis]))[0]
        )
    if depth == across:
        raise ValueError(
            f"the depth ({spec.depth_direction}) lies along the axis across the slices; correct "
            "depth_direction or slice_axis of the data spec, or the header"
        )
    return depth, across


def deeper(spec: DataSpec, affine: np.ndarray) -> int:
    """Return 1 if the depth grows along its axis of the file, -1 if it falls."""
    assert spec.depth_direction is not None
    stored = orientations.io_orientation(affine)
    sign = stored[stored[:, 0] == _world_axis(spec.depth_direction), 1][0]
    return int(sign) if spec.depth_direction in "RAS" else -int(sign)


def _world_axis(letter: str) -> int:
    return next(i for i, pair in enumerate(("RL", "AP", "SI")) if letter in pair)


def estimate_shifts(volume: np.ndarray, *, depth_axis: int, slice_axis: int) -> np.ndarray:
    """Estimate how far to move each B-scan along depth so that neighbors fit.

    B-scans up to three apart are compared by cross-correlation along depth, summed over their
    columns, and one shift per B-scan is fitted to all these differences, each weighed by its
    correlation. What of the shifts is a straight line stays: a retina may be tilted.

    Args:
        volume: ``(X, Y, Z)``, one channel.
        depth_axis: axis along depth.
        slice_axis: axis across the B-scans.

    Returns:
        One whole number per B-scan, the smallest of them 0.
    """
    slices = np.moveaxis(volume, (slice_axis, depth_axis), (0, 1))
    count, depth = slices.shape[:2]
    limit = int(MAX_SHIFT_SHARE * depth)
    if count < 3 or limit < 1:
        return np.zeros(count, dtype=int)
    rows, differences = [], []
    earlier: deque[_Edges] = deque(maxlen=MAX_LAG)  # latest first
    for index in range(count):
        edges = _Edges(slices[index].reshape(depth, -1), limit=2 * limit)
        for lag, other in enumerate(earlier, start=1):
            distance, weight = other.distance_to(edges)
            row = np.zeros(count)
            row[index], row[index - lag] = weight, -weight
            rows.append(row)
            differences.append(-distance * weight)
        earlier.appendleft(edges)
    # The fit of smallest norm: the mean is free, and so is a B-scan that fits nowhere.
    chain = np.linalg.lstsq(np.stack(rows), np.array(differences), rcond=1e-6)[0]
    where = np.arange(count)
    residual = chain - np.polyval(np.polyfit(where, chain, 1), where)
    residual = np.clip(residual - np.median(residual), -limit, limit)
    shifts = np.rint(residual).astype(int)
    return shifts - shifts.min()


class _Edges:
    """The edges along depth of one B-scan ``(depth, columns)``, as a spectrum.

    Edges, because boundaries tell the depth and brightness differs from B-scan to B-scan.
    """

    def __init__(self, slice_: np.ndarray, *, limit: int) -> None:
        self.depth, self.limit = slice_.shape[0], limit
        edges = ndimage.gaussian_filter1d(
            slice_.astype(np.float32), _SMOOTHING, axis=0, order=1, mode="nearest"
        )
        edges = ndimage.gaussian_filter1d(edges, _SMOOTHING, axis=1, mode="nearest")
        self.norm = float(np.sqrt((edges**2).sum()))
        self.size = fft.next_fast_len(self.depth + limit, real=True)
        self.spectrum = fft.rfft(edges, self.size, axis=0)

    def distance_to(self, other: _Edges) -> tuple[float, float]:
        """Return by how many voxels the other lies deeper, and the weight of that: 0 to 1."""
        product = (self.spectrum.conj() * other.spectrum).sum(axis=1)
        candidates = np.arange(-self.limit, self.limit + 1)
        overlap = self.depth / (self.depth - np.abs(candidates))
        scores = fft.irfft(product, self.size)[candidates] * overlap
        best = int(scores.argmax())
        correlation = float(scores[best]) / max(self.norm * other.norm, 1e-12)
        if correlation < MIN_CORRELATION:
            return 0.0, 0.0
        if not 0 < best < len(scores) - 1:
            return float(candidates[best]), min(correlation, 1.0)
        left, middle, right = (float(v) for v in scores[best - 1 : best + 2])
        bend = left - 2 * middle + right
        top = 0.5 * (left - right) / bend if bend < 0 else 0.0
        return float(candidates[best]) + top, min(correlation, 1.0)
