"""Image files as MONAI's tensors: what preprocessing starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from medssl.data.dicom.pixels import read_series
from medssl.data.dicom.series import Series
from medssl.data.images.geometry import Unit, unit_factor
from medssl.data.images.volume import check_grid, read_image


def read_images(paths: Sequence[str | Path], *, spatial_unit: Unit = "mm") -> MetaTensor:
    """Read one image, or several files of one grid as the channels of one image.

    Args:
        paths: NIfTI, NRRD or MetaImage files.
        spatial_unit: unit of the affine, which leads to RAS world coordinates.

    Returns:
        ``(C, X, Y, Z)`` float32; ``meta["files"]`` are the paths, ``meta["note"]`` says what of a
        header ITK reads in another way than other programs.

    Raises:
        MedSSLError: a file cannot be read, or the files are not on one grid.
    """
    volumes = [read_image(path, unit=spatial_unit) for path in paths]
    first = volumes[0]
    for path, volume in zip(paths[1:], volumes[1:], strict=True):
        check_grid(volume.grid, first.grid, path=path, of=paths[0])
    arrays = [volume.channels_first() for volume in volumes]
    array = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    return _image(array, first.affine, paths, next((v.note for v in volumes if v.note), ""))


def make_image(
    array: np.ndarray,
    affine: np.ndarray,
    *,
    files: Sequence[str | Path],
    spatial_unit: Unit = "mm",
) -> MetaTensor:
    """Return voxels in memory as what :func:`read_images` returns of a file.

    Args:
        array: ``(C, X, Y, Z)`` float32.
        affine: ``(4, 4)``, voxel to RAS world coordinates in mm.
        files: where the voxels come from.
        spatial_unit: unit of the returned affine.
    """
    factor = unit_factor(affine, 1.0, spatial_unit)
    return _image(array, np.diag([factor, factor, factor, 1.0]) @ affine, files)


def series_image(series: Series, *, spatial_unit: Unit = "mm") -> MetaTensor:
    """Return a DICOM series as :func:`read_images` returns an image file.

    ``meta["modality"]`` is DICOM's Modality, such as MR.

    Raises:
        MedSSLError: a file is damaged or its compression is not supported.
    """
    voxels = np.ascontiguousarray(read_series(series), dtype=np.float32)
    files = [header.path for header in series.headers]
    image = make_image(voxels[None], series.affine, files=files, spatial_unit=spatial_unit)
    image.meta["modality"] = series.text("Modality")
    return image


def _image(
    array: np.ndarray, affine: np.ndarray, files: Sequence[str | Path], note: str = ""
) -> MetaTensor:
    meta = {"files": tuple(map(str, files)), "note": note}
    return MetaTensor(torch.from_numpy(array), affine=torch.from_numpy(affine), meta=meta)


def with_affine(tensor: Tensor, affine: Tensor, meta: Mapping[str, Any]) -> MetaTensor:
    """Return a MetaTensor with an image's meta data and another affine."""
    out = MetaTensor(tensor, meta=dict(meta))
    out.affine = affine
    return out
