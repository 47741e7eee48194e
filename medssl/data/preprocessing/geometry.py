"""Put images on the grid of a data spec (the way back: `prepared_grid`)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform, Orientationd, Resized, Spacingd
from monai.transforms.utils import scale_affine

from medssl.data.preprocessing.prepared_grid import corner_scale
from medssl.data.preprocessing.tensors import with_affine
from medssl.data.preprocessing.votes import nearest_index
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
            index = nearest_index(np.arange(m) * corner_scale(m, n), n)
            out = out.index_select(axis + 1, torch.from_numpy(index))
        affine = image.affine.numpy() @ scale_affine(old, new, align_corners=True)
        return with_affine(out, torch.from_numpy(affine), image.meta)


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
