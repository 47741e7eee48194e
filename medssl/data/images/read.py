"""Read image files: NIfTI through nibabel, NRRD and MetaImage through SimpleITK."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk  # noqa: N813
import torch
from monai.data import MetaTensor
from torch import Tensor

from medssl.data.images.header import factor_to, itk_affine
from medssl.data.images.itk import read_itk
from medssl.data.images.names import ITK, NIFTI
from medssl.data.images.nifti import open_nifti, stated_unit
from medssl.errors import MedSSLError


def read_image(path: str | Path, *, spatial_unit: Literal["mm", "um"] = "mm") -> MetaTensor:
    """Read an image file as ``(C, X, Y, Z)`` float32 with an affine to RAS world coordinates.

    NIfTI goes through nibabel and NRRD/MetaImage through SimpleITK, never the other way round: the
    two disagree about units and about broken headers.

    Args:
        path: ``.nii .nii.gz .nrrd .nhdr .mha .mhd``. A fourth axis becomes the channels.
        spatial_unit: unit of the returned affine; ``meta["unit_factor"]`` is what the file's own
            affine (``meta["original_affine"]``) was multiplied with.

    Raises:
        MedSSLError: the file is missing, damaged, of another kind, or claims more voxels than fit
            into memory.
    """
    path = Path(path)
    name = path.name.lower()
    if not path.is_file():
        raise MedSSLError(
            "the image file does not exist",
            where=path,
            fix="correct the path, or remove the case from dataset.json",
        )
    if not name.endswith((*NIFTI, *ITK)):
        raise MedSSLError(
            f"images ending in {path.suffix!r} cannot be read",
            where=path,
            fix=f"convert it to one of {' '.join((*NIFTI, *ITK))}",
        )
    try:
        array, affine, micrometers = (_read_nifti if name.endswith(NIFTI) else _read_itk)(path)
        np.linalg.inv(affine)
    except MedSSLError:
        raise
    except Exception as error:  # the libraries raise anything at all for a damaged file
        reason = " ".join(str(error).split())[:160]
        raise MedSSLError(
            f"the image cannot be read ({type(error).__name__}: {reason})",
            where=path,
            fix="copy the file again from its source, or remove the case from dataset.json",
        ) from error
    return make_image(
        array, affine, files=[path], micrometers=micrometers, spatial_unit=spatial_unit
    )


def make_image(
    array: np.ndarray,
    affine: np.ndarray,
    *,
    files: Sequence[str | Path],
    micrometers: bool = False,
    spatial_unit: Literal["mm", "um"] = "mm",
) -> MetaTensor:
    """Return voxels in memory as what :func:`read_image` returns of a file.

    Args:
        array: ``(C, X, Y, Z)`` float32.
        affine: ``(4, 4)``, voxel to RAS world coordinates.
        files: where the voxels come from.
        micrometers: the unit of ``affine``; otherwise mm.
        spatial_unit: unit of the returned affine.
    """
    factor = factor_to(affine, micrometers=micrometers, spatial_unit=spatial_unit)
    scaled = np.diag([factor, factor, factor, 1.0]) @ affine
    meta = {"files": tuple(map(str, files)), "original_affine": affine, "unit_factor": factor}
    return MetaTensor(torch.from_numpy(array), affine=torch.from_numpy(scaled), meta=meta)


def _read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray, bool]:
    image = open_nifti(path)
    array = np.asarray(image.dataobj, dtype=np.float32)
    array = array.reshape(*array.shape[:3], *(1,) * (3 - array.ndim), *array.shape[3:])
    if array.ndim == 5 and array.shape[3] == 1:  # NIfTI stores vectors along the fifth axis
        array = array[..., 0, :]
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.size == 0:
        raise ValueError(f"shape {image.shape} is neither a volume nor a volume with channels")
    micrometers = stated_unit(path) == "micron"
    return np.ascontiguousarray(np.moveaxis(array, -1, 0)), np.asarray(image.affine), micrometers


def _read_itk(path: Path) -> tuple[np.ndarray, np.ndarray, bool]:
    image = read_itk(path)
    vector = image.GetNumberOfComponentsPerPixel() > 1
    array = sitk.GetArrayFromImage(image).astype(np.float32)  # (T,) Z, Y, X (, C)
    if vector:
        array = np.moveaxis(array, -1, 0)
    spatial = image.GetDimension()
    if spatial == 2:
        array = np.expand_dims(array, -3)
    if not vector and spatial < 4:
        array = array[None]
    if array.ndim != 4 or array.size == 0:
        raise ValueError(f"size {image.GetSize()} is neither a volume nor a volume with channels")
    return np.ascontiguousarray(array.transpose(0, 3, 2, 1)), itk_affine(image), False


def read_images(
    paths: Sequence[str | Path], *, spatial_unit: Literal["mm", "um"] = "mm"
) -> MetaTensor:
    """Read one image, or several files of one grid as the channels of one image.

    Raises:
        MedSSLError: a file cannot be read, or the files are not on one grid.
    """
    images = [read_image(path, spatial_unit=spatial_unit) for path in paths]
    for path, image in zip(paths[1:], images[1:], strict=True):
        check_grid(image, images[0], path=path, reference=paths[0])
    if len(images) == 1:
        return images[0]
    stacked = torch.cat([image.as_tensor() for image in images])
    meta = images[0].meta | {"files": tuple(str(path) for path in paths)}
    return with_affine(stacked, images[0].affine, meta)


def with_affine(tensor: Tensor, affine: Tensor, meta: Mapping[str, Any]) -> MetaTensor:
    """Return a MetaTensor with an image's meta data and another affine."""
    out = MetaTensor(tensor, meta=dict(meta))
    out.affine = affine
    return out


def check_grid(
    image: MetaTensor, reference_image: MetaTensor, *, path: str | Path, reference: str | Path
) -> None:
    """Refuse two files that do not show the same voxels (corners further than half a voxel apart).

    Raises:
        MedSSLError: shape or affine differ.
    """
    fix = "export both files on one grid; `medssl check` lists every such case of a dataset"
    name = Path(reference).name
    if image.shape[1:] != reference_image.shape[1:]:
        here, there = tuple(image.shape[1:]), tuple(reference_image.shape[1:])
        raise MedSSLError(f"shape {here}, but {name} has shape {there}", where=path, fix=fix)
    ends = np.stack(np.meshgrid(*[(0, n - 1) for n in image.shape[1:]], indexing="ij"))
    corners = np.concatenate([ends.reshape(3, -1), np.ones((1, 8))])
    own, other = image.affine.numpy(), reference_image.affine.numpy()
    shift = np.abs((np.linalg.solve(other, own) @ corners - corners)[:3]).max()
    if shift > 0.5:
        spacing = ["x".join(f"{v:g}" for v in m.pixdim.tolist()) for m in (image, reference_image)]
        raise MedSSLError(
            f"the header places this file up to {shift:.3g} voxels away from {name} "
            f"(voxels {spacing[0]} and {spacing[1]})",
            where=path,
            fix=fix,
        )
