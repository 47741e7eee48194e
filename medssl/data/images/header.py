"""Where an image file puts its voxels, from its header alone; loads neither PyTorch nor MONAI."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813

from medssl.data.images.itk import itk_header
from medssl.data.images.names import NIFTI
from medssl.data.images.nifti import open_nifti, stated_unit
from medssl.errors import MedSSLError


def read_affine(path: str | Path) -> np.ndarray:
    """Return the ``(4, 4)`` affine of an image file to RAS, in the file's own unit; reads no voxel.

    Raises:
        MedSSLError: the file is missing or damaged.
    """
    path = Path(path)
    try:
        if path.name.lower().endswith(NIFTI):
            return np.asarray(open_nifti(path, voxels=False).affine, dtype=np.float64)
        return itk_affine(itk_header(path))
    except MedSSLError:
        raise
    except Exception as error:  # the libraries raise anything at all for a damaged file
        reason = " ".join(str(error).split())[:160]
        raise MedSSLError(
            f"the image's header cannot be read ({type(error).__name__}: {reason})",
            where=path,
            fix="copy the file again from its source, or remove the case from dataset.json",
        ) from error


def itk_affine(image: sitk.Image | sitk.ImageFileReader) -> np.ndarray:
    """Return the ``(4, 4)`` affine to RAS of an image or a header read with SimpleITK, in mm."""
    dims = image.GetDimension()
    axes = min(dims, 3)
    direction = np.reshape(image.GetDirection(), (dims, dims))[:axes, :axes]
    affine = np.eye(4)
    affine[:axes, :axes] = direction * np.asarray(image.GetSpacing()[:axes])
    affine[:axes, 3] = image.GetOrigin()[:axes]
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # ITK's world is LPS


def unit_factor(path: str | Path, affine: np.ndarray, *, spatial_unit: str) -> float:
    """Return what to multiply a file's affine with to get it in a unit.

    Args:
        path: the file; the header of a NIfTI names its unit, other formats are in mm.
        affine: ``(4, 4)`` as in the file.
        spatial_unit: ``mm`` or ``um``.
    """
    nifti = str(path).lower().endswith(NIFTI)
    micrometers = nifti and stated_unit(path) == "micron"
    return factor_to(affine, micrometers=micrometers, spatial_unit=spatial_unit)


def factor_to(affine: np.ndarray, *, micrometers: bool, spatial_unit: str) -> float:
    """Return what to multiply an affine with to get it in a unit.

    Args:
        affine: ``(4, 4)``, in micrometers or else mm.
        micrometers: the unit it is stated in.
        spatial_unit: ``mm`` or ``um``.
    """
    if spatial_unit == "mm":
        return 1e-3 if micrometers else 1.0
    # The unit field is often wrong in OCT files. No OCT has axial voxels over 100 um, so a finer
    # number than 0.1 is millimeters and any other is micrometers already.
    finest = np.linalg.norm(affine[:3, :3], axis=0).min()
    return 1000.0 if not micrometers and finest < 0.1 else 1.0
