"""Read label maps with their geometry, whatever medical format they are in."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medssl.data.images.header import unit_factor
from medssl.data.images.nifti import open_nifti
from medssl.errors import MedSSLError

LABEL_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")

_NIFTI = (".nii.gz", ".nii")
_INTEGER_TOLERANCE = 1e-3


def case_id_of(path: Path) -> str:
    """Return the file name without its image suffix (``a.nii.gz`` -> ``a``)."""
    suffix = label_suffix(path)
    return path.name[: -len(suffix)] if suffix else path.stem


def read_label(path: Path, *, unit: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Read a label map in any supported format.

    Args:
        path: NIfTI (by nibabel), NRRD or MetaImage (by SimpleITK).
        unit: ``mm`` or ``um``, of the returned affine; None leaves it in the file's own.

    Returns:
        Integer array ``(X, Y, Z)`` (a 2D image has Z = 1) and its 4x4 voxel-to-RAS affine.

    Raises:
        MedSSLError: the file cannot be read, is not a volume, claims more voxels than fit into
            memory, holds a value that is no integer (to 1e-3), or its affine is singular.
    """
    path = Path(path)
    if not path.is_file():
        raise MedSSLError("this file does not exist", where=path, fix="check the path")
    try:
        values, affine = _read_nifti(path) if label_suffix(path) in _NIFTI else _read_itk(path)
    except MedSSLError:
        raise
    except Exception as error:  # the libraries raise anything at all for a damaged file
        reason = (str(error).replace(str(path), path.name).splitlines() or ["damaged"])[0][:160]
        raise MedSSLError(
            f"the label map cannot be read: {reason}",
            where=path,
            fix="check that the file is complete and in NIfTI, NRRD or MetaImage format",
        ) from error
    shape = values.shape
    values = values.reshape(shape[:3] + (1,) * (3 - len(shape))) if _is_volume(shape) else values
    if values.ndim != 3:
        raise MedSSLError(
            f"a label map must be 2D or 3D, this one has shape {shape}",
            where=path,
            fix="store one label value per voxel (argmax of the channels, one time point)",
        )
    if not np.isfinite(affine).all() or min(voxel_sizes(affine)) <= 0:
        raise MedSSLError(
            f"the affine is not usable: voxel sizes {voxel_sizes(affine)}",
            where=path,
            fix="write the file again with the geometry of its image",
        )
    if unit is not None:
        affine = np.diag([*[unit_factor(path, affine, spatial_unit=unit)] * 3, 1.0]) @ affine
    return _as_integers(values, path), affine


def voxel_sizes(affine: np.ndarray) -> tuple[float, float, float]:
    """Return the voxel size along each axis: the lengths of the affine's columns."""
    return tuple(float(s) for s in np.linalg.norm(affine[:3, :3], axis=0))


def label_suffix(path: Path) -> str | None:
    """Return the supported suffix a file name ends with, or None."""
    name = path.name.lower()
    return next((suffix for suffix in LABEL_SUFFIXES if name.endswith(suffix)), None)


def _read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = open_nifti(path)
    return np.asanyarray(image.dataobj), np.asarray(image.affine, dtype=np.float64)


def _read_itk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    import SimpleITK

    from medssl.data.images.itk import read_itk

    try:
        image = read_itk(path)
    except RuntimeError as error:  # its text is a dump of the toolkit's internals
        raise ValueError("damaged, or not in the format its name says") from error
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise ValueError(f"{image.GetNumberOfComponentsPerPixel()} components per voxel, not one")
    n = image.GetDimension()
    affine = np.eye(4)
    if n in (2, 3):
        direction = np.array(image.GetDirection()).reshape(n, n)
        affine[:n, :n] = direction * np.array(image.GetSpacing())
        affine[:n, 3] = image.GetOrigin()
    lps_to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    return SimpleITK.GetArrayFromImage(image).T, lps_to_ras @ affine


def _is_volume(shape: tuple[int, ...]) -> bool:
    return len(shape) >= 2 and all(size == 1 for size in shape[3:]) and 0 not in shape


def _as_integers(values: np.ndarray, path: Path) -> np.ndarray:
    if np.issubdtype(values.dtype, np.integer):
        return values
    if values.dtype == bool:
        return values.astype(np.uint8)
    if not np.issubdtype(values.dtype, np.floating):
        raise MedSSLError(
            f"a label map must hold numbers, this one holds {values.dtype}",
            where=path,
            fix="store one integer label value per voxel",
        )
    rounded = np.rint(values)
    with np.errstate(invalid="ignore"):  # NaN and infinity compare false, so they are wrong too
        near = np.abs(values - rounded) <= _INTEGER_TOLERANCE
    wrong = ~near | (np.abs(values) > np.iinfo(np.int32).max)
    if wrong.any():
        raise MedSSLError(
            f"{int(wrong.sum())} voxels are not integers, the first is {values[wrong][0]:g}",
            where=path,
            fix="give label maps, not images or probabilities, resampled with nearest neighbor",
        )
    return rounded.astype(np.int32)
