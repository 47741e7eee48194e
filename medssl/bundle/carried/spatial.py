"""To the network's grid, and from its probabilities to labels on the image's own grid."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform, Spacingd

from medssl.data.preprocessing.prepared_grid import make_grid
from medssl.inference.postprocess import class_margins, decided_classes, keep_largest_components


class ToSpacingd(MapTransform):
    """MONAI's ``Spacingd`` with a target for each scan, blind to all entries but its keys.

    That of MONAI 1.6 takes every entry called ``image_...`` for meta data of ``image``, and stops
    at the path that MONAI Label keeps there.

    Args:
        keys: of the image and perhaps its label.
        pixdim: voxel edge along each axis; where it is not positive, see ``ranges``.
        mode: of the interpolation of each key.
        ranges: shortest and longest voxel edge of training along each axis, to whose nearer end
            longer and shorter ones are brought; None leaves an axis as it is.
        tolerance: voxel edges within this factor of the range stay as they are.
    """

    def __init__(
        self,
        keys: Sequence[str],
        *,
        pixdim: Sequence[float],
        mode: Sequence[str],
        ranges: Sequence[Sequence[float] | None] = (None, None, None),
        tolerance: float = 1.0,
    ) -> None:
        super().__init__(keys)
        self.pixdim, self.mode, self.ranges = tuple(pixdim), tuple(mode), tuple(ranges)
        self.tolerance = tolerance

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resample the keys, if anything is to be changed."""
        own = {key: data[key] for key in self.key_iterator(dict(data))}
        pixdim = self._target(np.linalg.norm(_matrix(own[self.keys[0]].affine)[:3, :3], axis=0))
        if max(pixdim) <= 0:
            return dict(data)
        step = Spacingd(self.keys, pixdim=pixdim, mode=self.mode, dtype=np.float32)
        return {**data, **step(own)}

    def _target(self, spacing: np.ndarray) -> list[float]:
        out = list(self.pixdim)
        for axis, (edge, span) in enumerate(zip(spacing.tolist(), self.ranges, strict=True)):
            if span is None or out[axis] > 0:
                continue
            low, high = span
            if not low / self.tolerance <= edge <= high * self.tolerance:
                out[axis] = float(f"{min(max(edge, low), high):.6g}")
        return out


class NativeLabelsd(MapTransform):
    """Turn probabilities of the prepared image into labels on the image's own grid.

    The most probable class, or what regions write, the largest pieces if that is asked for, a vote
    of the voxels around where the image was resampled: step for step what ``medssl predict`` does.

    Args:
        keys: of probabilities ``(K, X, Y, Z)``; they become ``(1, X', Y', Z')``.
        image_key: of the prepared image, which knows its file's grid and its own.
        orientation: of the prepared axes; None where they are the file's.
        pieces: how many pieces of each class to keep; None keeps all.
        values: label value of each class; None leaves class indices.
        regions: that decide: of each the classes that belong to it, and the one that it writes.
    """

    def __init__(
        self,
        keys: Sequence[str] | str,
        *,
        image_key: str = "image",
        orientation: str | None = None,
        pieces: Sequence[int] | None = None,
        values: Sequence[int] | None = None,
        regions: Sequence[tuple[Sequence[int], int]] = (),
    ) -> None:
        super().__init__(keys)
        self.image_key, self.orientation = image_key, orientation
        self.pieces = None if pieces is None else dict(enumerate(pieces, start=1))
        self.values = None if values is None else np.array(values)
        self.regions = [(tuple(members), int(written)) for members, written in regions]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Decide each key, and bring it back."""
        out = dict(data)
        image = out[self.image_key]
        native = _matrix(image.meta["original_affine"])
        prepared = tuple(image.shape[1:]), _matrix(image.affine)
        grid = make_grid(
            (tuple(image.meta["spatial_shape"])[:3], native),
            prepared,
            prepared[0],
            orientation=self.orientation,
            resampled=True,  # where it was not, nearest voxels are the voxels themselves
        )
        for key in self.key_iterator(out):
            probabilities = torch.as_tensor(out[key])
            classes = decided_classes(probabilities, self.regions)
            margins = class_margins(probabilities, self.regions) if grid.voted else None
            if self.pieces is not None:
                classes = keep_largest_components(classes, self.pieces, margins)
            labels = grid.restore(classes, order=0, margins=margins)
            if self.values is not None:
                labels = self.values[labels]
            found = torch.from_numpy(labels.astype(np.float32))[None].to(probabilities.device)
            meta = {k: v for k, v in image.meta.items() if k != "affine"}
            out[key] = MetaTensor(found, affine=torch.from_numpy(native), meta=meta)
        return out


def _matrix(affine: Any) -> np.ndarray:
    found: np.ndarray = torch.as_tensor(affine, dtype=torch.float64).cpu().numpy()
    return found
