"""Read source volumes: any image file that medssl opens, and its label on the same grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from medssl.data.images.geometry import (
    GRID_ERROR_VOXELS,
    GRID_WARNING_VOXELS,
    Unit,
    grid_distance,
)
from medssl.data.images.labels import whole_numbers
from medssl.data.images.volume import Volume, read_header, read_image
from medssl.errors import MedSSLError


@contextmanager
def _of_case(case_id: str, path: Path) -> Iterator[None]:
    """Say of an error whose file it is about, and that the case can be left out."""
    try:
        yield
    except MedSSLError as error:
        raise MedSSLError(
            f"case '{case_id}': {path.name}: {error.what}",
            where=path,
            fix=f"{error.fix}, or leave it out with --option skip_broken=true",
        ) from None


def read_case_volume(path: Path, case_id: str, *, unit: Unit = "mm") -> Volume:
    """Read an image file to its end, scaled as its header says.

    Args:
        case_id: whose file it is, for the error.
        unit: unit of the returned affine, see :func:`medssl.data.images.volume.read_volume`.

    Raises:
        MedSSLError: the file cannot be read, or is no image.
    """
    with _of_case(case_id, path):
        volume = read_image(path, unit=unit)
    return replace(volume, data=volume.values(), scale=(1.0, 0.0))


def read_channels(paths: Sequence[Path], case_id: str, *, unit: Unit = "mm") -> Volume:
    """Read one file, or several of one grid as the channels of one image.

    Raises:
        MedSSLError: a file cannot be read, or the files are not on one grid.
    """
    volumes = [read_case_volume(path, case_id, unit=unit) for path in paths]
    first = volumes[0]
    for path, other in zip(paths[1:], volumes[1:], strict=True):
        same = other.data.shape == first.data.shape
        apart = grid_distance(first.affine, other.affine, first.data.shape[:3]) if same else 0.0
        if not same or first.data.ndim != 3 or apart > GRID_ERROR_VOXELS:
            found = f"{apart:.3g} voxels apart" if same else f"{other.data.shape}"
            raise MedSSLError(
                f"case '{case_id}': its channels are not on one grid ({path.name}: {found}, "
                f"{paths[0].name}: {first.data.shape})",
                where=path,
                fix="resample the channels to one grid, or leave the case out with "
                "--option skip_broken=true",
            )
    if len(volumes) == 1:
        return first
    return replace(first, data=np.stack([v.data for v in volumes], axis=-1))


def read_case_label(
    path: Path, case_id: str, image: Volume, *, unit: Unit = "mm"
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read a label file and place it on its image's grid; also return warnings.

    A label that covers only part of the image on the same lattice of voxels (as 3D Slicer saves
    cropped segmentations) is filled up with background; any other grid is refused.

    Raises:
        MedSSLError: unreadable, on another grid, or of several overlapping layers.
    """
    label = read_case_volume(path, case_id, unit=unit)
    if label.data.ndim == 3:
        with _of_case(case_id, path):
            label = replace(label, data=whole_numbers(label.data))
    return place_label(label, image, case_id, path)


def place_label(
    label: Volume, image: Volume, case_id: str, where: Path
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the label's voxels on the image's grid, and warnings; see :func:`read_case_label`."""
    fix = "export the label on its image's grid, or leave it out with --option skip_broken=true"
    shape = image.data.shape[:3]
    if label.data.ndim != 3:
        raise MedSSLError(
            f"case '{case_id}': the label has the shape {label.data.shape}: overlapping layers or "
            "channels are not supported",
            where=where,
            fix="export one label map with one value per structure",
        )
    if label.data.shape == shape:
        apart = grid_distance(image.affine, label.affine, shape)
        if apart <= GRID_WARNING_VOXELS:
            return label.data, ()
        if apart <= GRID_ERROR_VOXELS:
            return label.data, (
                f"the label's header lies {apart:.2g} voxels off the image's, which is used for "
                "both",
            )
        raise MedSSLError(
            f"case '{case_id}': the label lies {apart:.3g} voxels off its image although both "
            f"have {shape} voxels",
            where=where,
            fix=fix,
        )
    step = np.linalg.solve(image.affine, label.affine)
    offset = np.rint(step[:3, 3]).astype(int)
    lattice = np.eye(4)
    lattice[:3, 3] = offset
    end = offset + label.data.shape
    apart = grid_distance(lattice, step, label.data.shape)
    if apart > GRID_WARNING_VOXELS or (offset < 0).any() or (end > shape).any():
        raise MedSSLError(
            f"case '{case_id}': the label has {label.data.shape} voxels but the image {shape}, "
            "and it is no part of the image's grid",
            where=where,
            fix=fix,
        )
    full = np.zeros(shape, label.data.dtype)
    full[tuple(slice(a, b) for a, b in zip(offset, end, strict=True))] = label.data
    return full, ()


def count_channels(path: Path) -> int:
    """Return how many channels a file holds, from its header; 1 if that cannot be read."""
    try:
        return read_header(path).channels
    except MedSSLError:  # reading the case says what is wrong
        return 1


def ignore_unannotated(label: np.ndarray, axis: int, ignore: int) -> np.ndarray:
    """Give slices across an axis that carry no label at all the value of unannotated voxels."""
    others = tuple(a for a in range(3) if a != axis)
    empty = ~label.any(axis=others)
    out = label.astype(np.promote_types(label.dtype, np.min_scalar_type(ignore)))
    out[(slice(None),) * axis + (empty,)] = ignore
    return out


def affine_of_spacing(spacing: tuple[float, float, float]) -> np.ndarray:
    """Return the affine of voxels with known edge lengths and unknown place: axes along R, A, S."""
    return np.diag([*spacing, 1.0])


def need_spacing(
    spacing: tuple[float, float, float] | None, where: Path, why: str, example: str
) -> tuple[float, float, float]:
    """Return the spacing, or refuse to go on without one.

    Raises:
        MedSSLError: there is none; says why and how to give it.
    """
    if spacing is None:
        raise MedSSLError(
            f"the voxel spacing is not in the files: {why}",
            where=where,
            fix=f"give it in mm, along the axes of the image: --option spacing={example}",
        )
    return spacing


def refuse_format(source: Path, name: str, expected: str) -> MedSSLError:
    """Make the error for a source that is not what the format says."""
    return MedSSLError(f"this is no {name} source", where=source, fix=f"expected: {expected}")
