"""Write maps on the grid of the image they belong to: all of a file or nothing of it."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813 - its usual name
from numpy.typing import DTypeLike

from medssl.data.images.itk import itk_header, read_itk
from medssl.data.images.names import ITK, NIFTI
from medssl.data.images.nifti import open_nifti, stated_unit
from medssl.errors import MedSSLError
from medssl.files import reason_of, replacing

IMAGE_SUFFIXES = (*NIFTI, *ITK)
WRITABLE_SUFFIXES = (*NIFTI, ".nrrd", ".mha")

T = TypeVar("T")

_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_MM_PER_UNIT = {"meter": 1000.0, "mm": 1.0, "micron": 1e-3, "unknown": 1.0}
# What of a NIfTI header says where the voxels are; the rest describes intensities.
_GEOMETRY_FIELDS = (
    *("qform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z"),
    *("sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units"),
)


def image_suffix(path: Path) -> str | None:
    """Return the image suffix of a file name in lower case, or None if it is no image's."""
    name = path.name.lower()
    return next((suffix for suffix in IMAGE_SUFFIXES if name.endswith(suffix)), None)


def write_label(
    values: np.ndarray,
    path: Path,
    *,
    affine: np.ndarray,
    reference: Path | None = None,
    dtype: DTypeLike | None = None,
) -> Path:
    """Write label values on their image's own grid, so that any viewer shows them in place.

    The file appears under its name only when it is complete, and the same values give the same
    bytes. A NIfTI takes shape, sform, qform, their codes and the unit from a NIfTI reference; it
    always has an explicit sform. NRRD and MHA take origin, spacing and direction from a
    reference of that kind. Without such a reference the affine decides.

    Args:
        values: label values ``(X, Y, Z)``, whole numbers.
        path: ``.nii.gz``, ``.nii``, ``.nrrd`` or ``.mha``.
        affine: voxel to world (RAS), 4x4, in the unit of the reference, else in mm.
        reference: file of the image that was segmented.
        dtype: uint8 or uint16; by default the smaller one that holds the values.

    Returns:
        The path.

    Raises:
        MedSSLError: unsupported format, values or shape do not fit, or the disk refuses.
    """
    path = Path(path)
    values = _as_unsigned(values, dtype, path)
    return _write(values, path, affine, None if reference is None else Path(reference))


def write_map(
    values: np.ndarray, path: Path, *, affine: np.ndarray, reference: Path | None = None
) -> Path:
    """Write a probability or uncertainty map as float32, with the geometry of `write_label`.

    Args:
        values: ``(X, Y, Z)``.
        path, affine, reference: see :func:`write_label`.

    Returns:
        The path.

    Raises:
        MedSSLError: unsupported format, the shape does not fit, or the disk refuses.
    """
    values = np.asarray(values, dtype=np.float32)
    return _write(values, Path(path), affine, None if reference is None else Path(reference))


def _write(values: np.ndarray, path: Path, affine: np.ndarray, reference: Path | None) -> Path:
    suffix = image_suffix(path)
    if suffix not in WRITABLE_SUFFIXES:
        raise MedSSLError(
            "results cannot be written in this format",
            where=path,
            fix=f"choose a name that ends in {', '.join(WRITABLE_SUFFIXES)}",
        )
    affine = np.asarray(affine, dtype=np.float64)
    if suffix in NIFTI:
        image = _nifti(values, affine, reference)
        write_atomically(path, suffix, lambda temporary: _save_nifti(image, temporary))
    else:
        itk_image = _itk(values, affine, reference)
        write_atomically(path, suffix, lambda temporary: _save_itk(itk_image, temporary))
    return path


def _save_itk(image: sitk.Image, temporary: str) -> None:
    """Write a file and read it back: ITK does not notice when its end finds no room."""
    sitk.WriteImage(image, temporary, True)
    written = read_itk(temporary)
    arrays = (sitk.GetArrayViewFromImage(i) for i in (written, image))
    if not np.array_equal(*arrays, equal_nan=True):
        raise OSError("the file does not read back as it was written; the disk may be full")


@dataclass(frozen=True)
class _Geometry:
    """Geometry in ITK's terms: LPS, mm."""

    origin: tuple[float, ...]
    spacing: tuple[float, ...]
    direction: tuple[float, ...]


def _as_unsigned(values: np.ndarray, dtype: DTypeLike | None, path: Path) -> np.ndarray:
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    target = np.dtype(dtype or (np.uint8 if high < 256 else np.uint16))
    if values.dtype.kind not in "ui" or target.name not in ("uint8", "uint16"):
        raise MedSSLError(
            f"label values of type {values.dtype} cannot be written as {target.name}",
            where=path,
            fix="use whole numbers, written as uint8 or uint16",
        )
    if low < 0 or high > np.iinfo(target).max:
        raise MedSSLError(
            f"label values from {low} to {high} do not fit {target.name}",
            where=path,
            fix="declare label values from 0 to 65535 in dataset.json",
        )
    return values.astype(target, copy=False)


def _fit_shape(values: np.ndarray, shape: tuple[int, ...], reference: Path) -> np.ndarray:
    """Give the values the reference's spatial shape; only axes of length one may differ."""
    spatial = tuple(shape[:3])
    squeezed = tuple(n for n in spatial if n != 1)
    if tuple(n for n in values.shape if n != 1) != squeezed:
        raise MedSSLError(
            f"a map of shape {values.shape} does not fit an image of shape {spatial}",
            where=reference,
            fix="predict this image again; the file may have changed since",
        )
    return values.reshape(spatial)


def _nifti(values: np.ndarray, affine: np.ndarray, reference: Path | None) -> nib.Nifti1Image:
    if reference is None or image_suffix(reference) not in NIFTI:
        image = nib.Nifti1Image(values, affine)
        image.header.set_xyzt_units("mm")
        image.set_sform(affine, code="scanner")
        return image
    source = _read(reference, lambda name: open_nifti(name, voxels=False).header)
    values = _fit_shape(values, source.get_data_shape(), reference)
    header = nib.Nifti1Header()
    header.set_data_dtype(values.dtype)
    header.set_data_shape(values.shape)
    for name in _GEOMETRY_FIELDS:
        header[name] = source[name]
    header["pixdim"][:4] = source["pixdim"][:4]
    if source["sform_code"] == 0:
        # Readers disagree about files without one, so the affine is spelled out.
        header.set_sform(source.get_best_affine(), code=int(source["qform_code"]) or "aligned")
    return nib.Nifti1Image(values, header.get_best_affine(), header)


def _save_nifti(image: nib.Nifti1Image, temporary: str) -> None:
    with open(temporary, "wb") as file:
        if not temporary.endswith(".gz"):
            image.to_stream(file)
            return
        # Neither time nor name goes into the gzip header: equal labels, equal bytes.
        with gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as zipped:
            image.to_stream(zipped)


def _itk(values: np.ndarray, affine: np.ndarray, reference: Path | None) -> sitk.Image:
    suffix = None if reference is None else image_suffix(reference)
    if reference is not None and suffix in ITK:
        shape, geometry = _read(reference, _itk_information)
        values = _fit_shape(values, shape, reference)
    else:
        geometry = _geometry_of(_affine_in_mm(affine, reference, suffix))
    image = sitk.GetImageFromArray(np.ascontiguousarray(values.T))
    image.SetOrigin(geometry.origin)
    image.SetSpacing(geometry.spacing)
    image.SetDirection(geometry.direction)
    return image


def _itk_information(name: str) -> tuple[tuple[int, ...], _Geometry]:
    reader = itk_header(name)
    size = tuple(reader.GetSize())
    axes = min(len(size), 3)  # a fourth axis holds channels
    direction = np.reshape(reader.GetDirection(), (len(size), len(size)))[:axes, :axes]
    geometry = _Geometry(
        tuple(reader.GetOrigin()[:axes]),
        tuple(reader.GetSpacing()[:axes]),
        tuple(direction.ravel().tolist()),
    )
    return size[:axes], geometry


def _affine_in_mm(affine: np.ndarray, reference: Path | None, suffix: str | None) -> np.ndarray:
    if reference is None or suffix not in NIFTI:
        return affine
    unit = _read(reference, stated_unit)
    scale = _MM_PER_UNIT[unit]
    return np.diag([scale, scale, scale, 1.0]) @ affine


def _geometry_of(affine: np.ndarray) -> _Geometry:
    lps = _LPS_FROM_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    direction = lps[:3, :3] / spacing
    return _Geometry(
        tuple(lps[:3, 3].tolist()), tuple(spacing.tolist()), tuple(direction.ravel().tolist())
    )


def _read(reference: Path, read: Callable[[str], T]) -> T:
    try:
        return read(str(reference))
    except Exception as error:
        reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise MedSSLError(
            f"cannot read the geometry of the segmented image: {reason[0]}",
            where=reference,
            fix="check that the file is still there and complete",
        ) from error


def write_atomically(path: Path, suffix: str, save: Callable[[str], None]) -> None:
    """Let ``save`` write a hidden file beside ``path``, then give it its name."""
    with replacing(path, suffix=suffix, what="cannot write the result") as temporary:
        try:
            save(str(temporary))
        except (RuntimeError, MedSSLError) as error:  # ITK's; a file that cannot be read back
            raise OSError(reason_of(error)) from error
