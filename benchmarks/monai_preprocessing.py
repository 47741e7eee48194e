"""The package's preprocessing as MONAI's dictionary transforms, for its CacheDataset to run."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from monai.transforms import Compose, MapTransform

from medssl.data.preprocessing.geometry import resize_transforms, spacing_transforms
from medssl.data.preprocessing.intensity import intensity_transforms
from medssl.data.preprocessing.tensors import read_images
from medssl.settings.spec import DataSpec


class ReadImaged(MapTransform):
    """Read the files of each key with `read_images`."""

    def __init__(self, keys: Sequence[str], *, spatial_unit: Literal["mm", "um"] = "mm") -> None:
        super().__init__(keys)
        self.spatial_unit = spatial_unit

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace a path or a list of paths by the image."""
        out = dict(data)
        for key in self.key_iterator(out):
            files = out[key]
            paths = [files] if isinstance(files, str | Path) else list(files)
            out[key] = read_images(paths, spatial_unit=self.spatial_unit)
        return out


def image_transforms(spec: DataSpec) -> Compose:
    """Return the whole preprocessing of a spec that aligns no slices.

    The input is ``{"image": path or paths of the channels, "label": path}``; the output holds
    MetaTensors ``(C, X, Y, Z)`` and ``(1, X, Y, Z)``.
    """
    keys = ["image", "label"]
    return Compose(
        [
            ReadImaged(keys, spatial_unit=spec.spatial_unit),
            *intensity_transforms(spec.intensity),
            *spacing_transforms(spec, keys),
            *resize_transforms(spec, keys),
        ]
    )
