"""The one writer of image files: all of a file or nothing of it, where ITK's viewers expect it."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import nibabel as nib
import numpy as np
from numpy.typing import DTypeLike

from medssl.data.images.explain import explained
from medssl.data.images.geometry import (
    ItkGeometry,
    Unit,
    is_sheared,
    is_usable,
    straightened,
)
from medssl.data.images.names import EXTENSIONS, NIFTI, image_suffix
from medssl.data.images.nifti import GEOMETRY_FIELDS, NiftiHeader, nifti_header
from medssl.data.images.volume import Volume
from medssl.errors import MedSSLError
from medssl.files import new_file, reason_of, replacing

if TYPE_CHECKING:
    import SimpleITK as sitk  # noqa: N813

WHAT = "cannot write the result"


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
    bytes. A NIfTI takes sform, qform, their codes and the unit from a NIfTI reference whose header
    all programs read alike; NRRD and MHA take origin, spacing and direction from a reference of
    that kind. Else the affine decides, spelled out as sform and qform in mm.

    Args:
        values: label values ``(X, Y, Z)``, whole numbers.
        path: ``.nii.gz``, ``.nii``, ``.nrrd`` or ``.mha``.
        affine: voxel to world (RAS) in mm, 4x4.
        reference: file of the image that was segmented.
        dtype: uint8 or uint16; by default the smaller one that holds the values.

    Returns:
        The path.

    Raises:
        MedSSLError: unsupported format, values or shape do not fit, the format cannot hold the
            geometry, or the disk refuses.
    """
    return _write(_as_unsigned(values, dtype, Path(path)), Path(path), affine, reference)


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
        MedSSLError: see :func:`write_label`.
    """
    return _write(np.asarray(values, dtype=np.float32), Path(path), affine, reference)


def write_nifti(
    path: Path,
    array: np.ndarray,
    affine: np.ndarray,
    unit: Unit,
    *,
    code: Literal[1, 2] = 1,
) -> int:
    """Write an image or a label of a dataset as compressed NIfTI; return its size in bytes.

    Args:
        path: ``.nii.gz``.
        array: ``(X, Y, Z)`` or ``(X, Y, Z, C)``.
        affine: voxel to RAS world coordinates in ``unit``, written as sform and, in scanner
            coordinates, as qform.
        unit: of the affine and of the file.
        code: 1 scanner coordinates, 2 aligned to anatomy only.

    Raises:
        MedSSLError: the axes are sheared, or the disk refuses.
    """
    check_writable(path, affine, array.shape)
    header = nib.Nifti1Header()
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape)
    _spell_out(header, affine, unit, code)
    _save_nifti(nib.Nifti1Image(array, None, header), path)
    return path.stat().st_size


def write_mended(volume: Volume, path: Path, *, source: Path, grid: Path | None) -> None:
    """Write stored voxels with all else that their file's header says.

    Args:
        volume: as of ``source``, or changed.
        path: of the same format.
        source: the file whose header is kept.
        grid: the image on whose grid the voxels lie now; None: where they lay.

    Raises:
        MedSSLError: the disk refuses.
    """
    if image_suffix(path) in NIFTI:
        with explained(source):
            header = nifti_header(source).raw.copy()
        header.set_data_dtype(volume.data.dtype)
        header.set_data_shape(volume.data.shape)
        if grid is not None:
            _place(header, volume.affine, _reference(grid))
        kind = nib.Nifti1Image if type(header) is nib.Nifti1Header else nib.Nifti2Image
        image = kind(volume.data, None, header)
        image.header.set_slope_inter(*volume.scale)
        _save_nifti(image, path)
        return
    from medssl.data.images.itk import itk_image, read_itk

    geometry = (None if grid is None else _reference(grid).itk) or ItkGeometry.of(volume.affine)
    written = itk_image(volume.data, geometry, vector=volume.data.ndim == 4)
    old = read_itk(source)
    for key in old.GetMetaDataKeys():
        written.SetMetaData(key, old.GetMetaData(key))
    _save_itk(written, path)


def check_writable(path: Path, affine: np.ndarray, shape: Sequence[int]) -> None:
    """Refuse a format that medssl does not write, or that cannot hold a geometry.

    Args:
        path: its name tells the format.
        affine: voxel to RAS.
        shape: ``(X, Y, Z)``.

    Raises:
        MedSSLError: says which format does.
    """
    suffix = image_suffix(path, EXTENSIONS)
    if suffix is None:
        raise MedSSLError(
            "results cannot be written in this format",
            where=path,
            fix=f"choose a name that ends in {', '.join(EXTENSIONS)}",
        )
    if suffix in NIFTI and is_usable(affine) and is_sheared(affine, shape):
        raise MedSSLError(
            "the image's axes are not at right angles (a tilted gantry?), and ITK programs open no "
            "such NIfTI",
            where=path,
            fix="write NRRD (predict: --format nrrd), or resample the image to a straight grid",
        )


def _write(values: np.ndarray, path: Path, affine: np.ndarray, reference: Path | None) -> Path:
    affine = np.asarray(affine, dtype=np.float64)
    check_writable(path, affine, values.shape)
    source = None if reference is None else _reference(Path(reference))
    nifti = image_suffix(path) in NIFTI
    if source is not None and reference is not None:
        values = _fit_shape(values, source, nifti=nifti, where=reference)
    if nifti:
        header = nib.Nifti1Header()
        header.set_data_dtype(values.dtype)
        header.set_data_shape(values.shape)
        _place(header, affine, source)
        _save_nifti(nib.Nifti1Image(values, None, header), path)
    else:
        from medssl.data.images.itk import itk_image

        geometry = None if source is None else source.itk
        _save_itk(itk_image(values, geometry or ItkGeometry.of(affine)), path)
    return path


@dataclass(frozen=True)
class _Reference:
    """The grid of the file that a map belongs to; of ``nifti`` and ``itk`` one is set."""

    shape: tuple[int, ...]
    nifti: NiftiHeader | None = None
    itk: ItkGeometry | None = None


def _reference(path: Path) -> _Reference:
    with explained(path):
        if image_suffix(path) in NIFTI:
            header = nifti_header(path)
            return _Reference(header.shape[:3], nifti=header)
        from medssl.data.images.itk import itk_geometry, itk_header

        reader = itk_header(path)
        return _Reference(tuple(reader.GetSize()[:3]), itk=itk_geometry(reader).spatial())


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


def _fit_shape(values: np.ndarray, source: _Reference, *, nifti: bool, where: Path) -> np.ndarray:
    """Give the values the reference's spatial shape; only axes of length one may differ."""
    squeezed = tuple(n for n in source.shape if n != 1)
    if tuple(n for n in values.shape if n != 1) != squeezed:
        raise MedSSLError(
            f"a map of shape {values.shape} does not fit an image of shape {source.shape}",
            where=where,
            fix="predict this image again; the file may have changed since",
        )
    one_kind = nifti == (source.nifti is not None)
    return values.reshape(source.shape if one_kind else (*source.shape, 1, 1)[:3])


def _place(header: nib.Nifti1Header, affine: np.ndarray, source: _Reference | None) -> None:
    """Say in a header where the voxels lie: as the source says it, or spelled out in mm."""
    if source is None or source.nifti is None or not source.nifti.is_plain:
        _spell_out(header, affine, "mm", 1)
        return
    raw = source.nifti.raw
    for name in (*GEOMETRY_FIELDS, "xyzt_units"):
        header[name] = raw[name]
    header["pixdim"][:4] = raw["pixdim"][:4]
    if raw["sform_code"] == 0:
        # Readers disagree about files without one, so the affine is spelled out.
        header.set_sform(raw.get_best_affine(), code=int(raw["qform_code"]))


def _spell_out(header: nib.Nifti1Header, affine: np.ndarray, unit: Unit, code: int) -> None:
    """Write an affine as sform and qform; the latter is coded in scanner coordinates only."""
    affine = straightened(affine)
    header.set_qform(affine, code=1 if code == 1 else 0)
    header.set_sform(affine, code=code)
    header.set_xyzt_units({"mm": "mm", "um": "micron"}[unit])


def _save_nifti(image: nib.Nifti1Image | nib.Nifti2Image, path: Path) -> None:
    with new_file(path, what=WHAT) as file:
        if image_suffix(path) == ".nii":
            image.to_stream(cast(io.IOBase, file))
            return
        # Neither time nor name goes into the gzip header: equal labels, equal bytes.
        with gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as zipped:
            image.to_stream(zipped)


def _save_itk(image: sitk.Image, path: Path) -> None:
    """Write a file and read it back: ITK does not notice when its end finds no room."""
    import SimpleITK as sitk  # noqa: N813

    from medssl.data.images.itk import read_itk

    def save(temporary: str) -> None:
        sitk.WriteImage(image, temporary, True)
        written = read_itk(temporary)
        found, meant = (sitk.GetArrayViewFromImage(i) for i in (written, image))
        if not np.array_equal(found, meant, equal_nan=True):
            raise OSError("the file does not read back as it was written; the disk may be full")

    write_atomically(path, image_suffix(path) or "", save)


def write_atomically(path: Path, suffix: str, save: Callable[[str], None]) -> None:
    """Let ``save`` write a hidden file beside ``path``, then give it its name."""
    with replacing(path, suffix=suffix, what=WHAT) as temporary:
        try:
            save(str(temporary))
        except (RuntimeError, MedSSLError) as error:  # ITK's; a file that cannot be read back
            raise OSError(reason_of(error)) from error
