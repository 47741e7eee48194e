"""Images in memory as what the reader returns of a file."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813 - its usual name
from monai.data import MetaTensor
from torch import Tensor

from medssl.data.images.geometry import Unit, is_usable
from medssl.data.images.itk import itk_geometry, itk_voxels
from medssl.data.images.volume import Volume
from medssl.data.preprocessing.tensors import make_image, read_images
from medssl.errors import MedSSLError

Image = sitk.Image | nib.Nifti1Image | nib.Nifti2Image | np.ndarray | Tensor
"""An image as programs hold it; arrays are ``(X, Y, Z)`` or ``(C, X, Y, Z)``."""

IN_MEMORY = "an image in memory"
AXES = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}


def image_in_memory(
    image: Image,
    *,
    affine: np.ndarray | Sequence[Sequence[float]] | None = None,
    spacing_mm: Sequence[float] | None = None,
    orientation: str | None = None,
    spatial_unit: Unit = "mm",
) -> MetaTensor:
    """Return an image in memory as :func:`~medssl.data.preprocessing.tensors.read_images` does.

    Args:
        image: SimpleITK and nibabel images know where they lie; an array is told by the rest.
        affine: ``(4, 4)``, voxel to RAS world coordinates in mm, of an array.
        spacing_mm: in place of it, voxel edge lengths along the array's axes ...
        orientation: ... and where these axes lead, such as ``LPS``.
        spatial_unit: unit of the returned affine.

    Raises:
        MedSSLError: the kind of image is unknown, its shape or values are not those of a scan, or
            nothing, or too much, says where it lies.
    """
    told = affine is not None or spacing_mm is not None or orientation is not None
    if isinstance(image, nib.Nifti1Image | nib.Nifti2Image | sitk.Image) and told:
        raise _wrong(
            f"a {type(image).__name__} says itself where it lies",
            "leave out affine, spacing_mm and orientation",
        )
    if isinstance(image, nib.Nifti1Image | nib.Nifti2Image):
        # Its header is read as that of a file is, by the same code.
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "image.nii"
            nib.save(image, path)
            found = read_images([path], spatial_unit=spatial_unit)
        found.meta["files"] = (IN_MEMORY,)
        return found
    if isinstance(image, sitk.Image):
        volume = Volume(itk_voxels(image), (1.0, 0.0), itk_geometry(image).affine())
        voxels, where = volume.channels_first(), volume.affine
    else:
        voxels, where = _voxels(image), _place(affine, spacing_mm, orientation)
    if not np.isfinite(voxels).all():
        raise _wrong("it holds values that are not finite", "replace NaN and infinity by numbers")
    return make_image(voxels, where, files=[IN_MEMORY], spatial_unit=spatial_unit)


def _voxels(image: object) -> np.ndarray:
    """Return an array ``(C, X, Y, Z)`` as float32, in one piece."""
    if isinstance(image, Tensor):
        image = image.detach().cpu().numpy()
    if not isinstance(image, np.ndarray):
        raise _wrong(
            f"a {type(image).__name__} is no image",
            "give a SimpleITK or nibabel image, an array or a tensor; medssl.predict takes files",
        )
    if image.ndim not in (3, 4) or image.size == 0 or image.dtype.kind not in "biuf":
        raise _wrong(
            f"an array of shape {image.shape} and type {image.dtype} is no scan",
            "give numbers as (X, Y, Z), or (C, X, Y, Z) with the channels first",
        )
    voxels = image if image.ndim == 4 else image[None]
    return np.require(voxels.astype(np.float32), requirements=("C", "W"))


def _place(
    affine: np.ndarray | Sequence[Sequence[float]] | None,
    spacing_mm: Sequence[float] | None,
    orientation: str | None,
) -> np.ndarray:
    """Return the affine of an array."""
    if (affine is None) == (spacing_mm is None or orientation is None):
        raise _wrong(
            "an array does not say where it lies in the patient",
            "give either affine= (voxel to RAS in mm), or spacing_mm= with orientation=, such as "
            "spacing_mm=(0.5, 0.5, 1), orientation='LPS'",
        )
    if affine is not None:
        matrix = np.asarray(affine, dtype=np.float64)
    else:
        assert spacing_mm is not None
        assert orientation is not None
        codes = [AXES.get(letter) for letter in orientation.upper()]
        if len(codes) != 3 or len(spacing_mm) != 3 or len({c and c[0] for c in codes}) != 3:
            raise _wrong(
                f"orientation {orientation!r} with spacing_mm {tuple(spacing_mm)} is no frame",
                "name where each axis leads, one of R and L, A and P, S and I, such as LPS",
            )
        matrix = np.eye(4)
        matrix[:3, :3] = 0
        for axis, (code, length) in enumerate(zip(codes, spacing_mm, strict=True)):
            if code is None:
                raise _wrong(f"orientation {orientation!r} has an unknown letter", "write LPS")
            matrix[code[0], axis] = code[1] * float(length)
    if matrix.shape != (4, 4) or not is_usable(matrix):
        raise _wrong(
            f"its affine is not usable: {matrix.tolist()}",
            "give four rows of four numbers, whose three axes have lengths and are not parallel",
        )
    return matrix


def _wrong(what: str, fix: str) -> MedSSLError:
    return MedSSLError(what, where=IN_MEMORY, fix=fix)
