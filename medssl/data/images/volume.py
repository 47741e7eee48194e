"""The one reader of image files: voxels as stored, where ITK's viewers show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from medssl.data.images.explain import explained
from medssl.data.images.geometry import (
    GRID_ERROR_VOXELS,
    Grid,
    Unit,
    describe_difference,
    grid_distance,
    impossible_size,
    is_usable,
    spacing_of,
    unit_factor,
)
from medssl.data.images.names import NIFTI, image_suffix
from medssl.data.images.nifti import nifti_header, read_nifti
from medssl.errors import MedSSLError

UNUSABLE = "the header's affine is not usable (zero spacing, parallel axes or not a number)"
PLACE = "write the right spacing and orientation into the header"


@dataclass(frozen=True)
class Header:
    """What a file says of its image before its voxels are read.

    Attributes:
        shape: ``(X, Y, Z)``.
        channels: how many values each voxel has.
        affine: ``(4, 4)``, voxel to RAS world coordinates in the unit asked for.
    """

    shape: tuple[int, int, int]
    channels: int
    affine: np.ndarray


@dataclass(frozen=True)
class Volume:
    """An image as stored.

    Attributes:
        data: ``(X, Y, Z)`` or ``(X, Y, Z, C)``, stored values without the header's scaling.
        scale: factor and offset from stored to true values.
        affine: ``(4, 4)``, voxel to RAS world coordinates in the unit asked for; `read_volume` does
            not promise that it can be used.
        note: what of the header ITK reads in another way than other programs; empty for most.
    """

    data: np.ndarray
    scale: tuple[float, float]
    affine: np.ndarray
    note: str = ""

    @property
    def grid(self) -> Grid:
        """Shape and affine."""
        return self.data.shape[:3], self.affine

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel edge lengths, from the affine."""
        return spacing_of(self.affine)

    def values(self, dtype: DTypeLike | None = None) -> np.ndarray:
        """Return the true values: as stored where the header scales nothing, else float64."""
        data, (slope, offset) = self.data, self.scale
        if (slope, offset) != (1.0, 0.0) and data.dtype.fields is None:  # colors are not scaled
            data = data * np.float64(slope) + np.float64(offset)
        return data if dtype is None else data.astype(dtype, copy=False)

    def channels_first(self) -> np.ndarray:
        """Return the true values of an image ``(C, X, Y, Z)`` as float32, in one piece."""
        data = self.values(np.float32)
        data = np.moveaxis(data, 3, 0) if data.ndim == 4 else data[None]
        return np.require(data, requirements=("C", "W"))  # a file's bytes cannot be written to


def read_volume(path: str | Path, *, unit: Unit = "mm") -> Volume:
    """Read a NIfTI, NRRD or MetaImage file to its last byte, checksum included.

    Args:
        path: the file. Vectors become channels; further axes of one voxel are dropped, and a slice
            gets a third axis.
        unit: of the returned affine. A NIfTI says its own (none is mm); all else is in mm.

    Raises:
        MedSSLError: the file is missing, truncated, damaged, no image, claims more voxels than fit
            into memory, or cannot be as large as it says; names the file and what helps.
    """
    path = Path(path)
    with explained(path):
        if image_suffix(path) in NIFTI:
            header, data = read_nifti(path)
            data = _volume_axes(data)
            affine = _placed(header.affine, header.mm_per_unit, data.shape, unit)
            return Volume(data, header.scale, affine, header.note)
        from medssl.data.images.itk import itk_geometry, itk_voxels, read_itk  # slow to import

        image = read_itk(path)
        data = _volume_axes(itk_voxels(image))
        return Volume(
            data, (1.0, 0.0), _placed(itk_geometry(image).affine(), 1.0, data.shape, unit)
        )


@dataclass(frozen=True)
class Fault:
    """Why a volume cannot be used: the name of the check that finds it, the cause, what to do."""

    check: str
    what: str
    fix: str


def read_image(path: str | Path, *, unit: Unit = "mm") -> Volume:
    """Read an image file that can be used as one: numbers, with channels or without, in a place.

    Args: see :func:`read_volume`.

    Raises:
        MedSSLError: as `read_volume`, or for what :func:`image_fault` finds; names the file.
    """
    volume = read_volume(path, unit=unit)
    fault = image_fault(volume)
    if fault is not None:
        raise MedSSLError(fault.what, where=path, fix=fault.fix)
    return volume


def image_fault(volume: Volume) -> Fault | None:
    """Say why a volume cannot be used as an image or a label map, None if it can."""
    data = volume.data
    if data.dtype.kind not in "iufb":
        return Fault(
            "voxel_type",
            "the voxels are colors or complex numbers",
            "store plain numbers, one per channel",
        )
    if data.ndim > 4:
        return Fault(
            "dimensions",
            f"the image has {data.ndim} dimensions {data.shape}",
            "provide one volume per file: three dimensions, and a fourth only for channels",
        )
    if data.size == 0:
        return Fault("constant", f"the image is empty {data.shape}", "provide it again")
    if not is_usable(volume.affine):
        return Fault(
            "affine",
            UNUSABLE,
            PLACE,
        )
    return None


def read_header(path: str | Path, *, unit: Unit = "mm") -> Header:
    """Read what an image file says of its grid, and none of its voxels.

    Args and errors: see :func:`read_volume`.
    """
    path = Path(path)
    with explained(path):
        if image_suffix(path) in NIFTI:
            header = nifti_header(path)
            shape, components = header.shape, 1
            affine, mm_per_unit = header.affine, header.mm_per_unit
        else:
            from medssl.data.images.itk import itk_geometry, itk_header

            reader = itk_header(path)
            shape, components = tuple(reader.GetSize()), reader.GetNumberOfComponents()
            affine, mm_per_unit = itk_geometry(reader).affine(), 1.0
        if not is_usable(affine):
            raise MedSSLError(UNUSABLE, fix=PLACE)
        x, y, z, *more = (*shape, *(1,) * (3 - len(shape)))
        channels = components * int(np.prod(more, dtype=np.int64))
        return Header((x, y, z), channels, _placed(affine, mm_per_unit, (x, y, z), unit))


def check_grid(grid: Grid, reference: Grid, *, path: str | Path, of: str | Path) -> None:
    """Refuse two files that do not show the same voxels.

    Args:
        grid, reference: shape and affine of each.
        path, of: their files.

    Raises:
        MedSSLError: the shapes differ, or a corner lies more than half a voxel off.
    """
    (shape, affine), (other_shape, other) = grid, reference
    name = Path(of).name
    if tuple(shape) != tuple(other_shape):
        what = f"shape {tuple(shape)}, but {name} has shape {tuple(other_shape)}"
    elif (apart := grid_distance(other, affine, shape)) > GRID_ERROR_VOXELS:
        what = (
            f"the header places this file up to {apart:.3g} voxels away from {name}: "
            f"{describe_difference(other, affine)}"
        )
    else:
        return
    raise MedSSLError(
        what,
        where=path,
        fix="export both files on one grid; `medssl check` lists every such case of a dataset",
    )


def _placed(affine: np.ndarray, mm_per_unit: float, shape: Sequence[int], unit: Unit) -> np.ndarray:
    """Return a file's affine in the wanted unit."""
    if not is_usable(affine):
        return affine
    factor = unit_factor(affine, mm_per_unit, unit)
    placed = np.diag([factor, factor, factor, 1.0]) @ affine
    impossible = impossible_size(placed, shape, mm_per_unit, unit)
    if impossible is not None:
        raise impossible
    return placed


def _volume_axes(data: np.ndarray) -> np.ndarray:
    """Return voxels as (X, Y, Z), with channels behind where there are any."""
    if data.ndim == 5 and data.shape[3] == 1:  # NIfTI keeps vectors along the fifth axis
        data = data[:, :, :, 0]
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    return data.reshape(*data.shape, *(1,) * (3 - data.ndim))
