"""Open an image file fully and say plainly why it cannot be opened."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medssl.data.images.nifti import read_whole_nifti
from medssl.errors import MedSSLError


class UnreadableError(Exception):
    """An image file that cannot be opened; the message is for the user."""


@dataclass(frozen=True)
class Volume:
    """An image as stored.

    Attributes:
        data: ``(X, Y, Z)`` or ``(X, Y, Z, C)``, stored values without the header's scaling.
        scale: factor and offset from stored to true values.
        affine: ``(4, 4)``, voxel to RAS world coordinates.
    """

    data: np.ndarray
    scale: tuple[float, float]
    affine: np.ndarray

    @property
    def spacing(self) -> tuple[float, ...]:
        """Voxel edge lengths, from the affine."""
        return tuple(float(v) for v in np.linalg.norm(self.affine[:3, :3], axis=0))


def open_volume(path: Path) -> Volume:
    """Read a NIfTI, NRRD or MHA file to its last byte, checksum included.

    Raises:
        UnreadableError: the file is missing, truncated, damaged, no image, or claims more voxels
            than fit into memory.
    """
    try:
        if path.name.lower().endswith((".nii", ".nii.gz")):
            return _open_nifti(path)
        return _open_itk(path)
    except MedSSLError as error:
        raise UnreadableError(f"is refused: {error.what} ({error.fix})") from None
    except FileNotFoundError:
        raise UnreadableError("does not exist") from None
    except (EOFError, zlib.error) as error:
        raise UnreadableError(f"is truncated or damaged ({error})") from None
    except gzip.BadGzipFile as error:
        raise UnreadableError(f"is not a sound gzip file ({error})") from None
    except Exception as error:  # the libraries raise anything at all for a damaged file
        reason = next((s for s in reversed(str(error).splitlines()) if s.strip()), "")
        if path.is_file() and path.stat().st_size == 0:
            reason = "the file is empty"
        raise UnreadableError(f"cannot be read ({reason[:150] or type(error).__name__})") from None


def _open_nifti(path: Path) -> Volume:
    image = read_whole_nifti(path)
    proxy = image.dataobj
    data = np.asanyarray(proxy.get_unscaled())
    if data.ndim == 5 and data.shape[3] == 1:  # NIfTI keeps vectors along the fifth axis
        data = data[:, :, :, 0]
    # Trailing axes of one voxel carry no information.
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    return Volume(data, (float(proxy.slope), float(proxy.inter)), np.asarray(image.affine, float))


def _open_itk(path: Path) -> Volume:
    import SimpleITK  # slow to import, and most datasets are NIfTI

    from medssl.data.images.itk import read_itk

    image = read_itk(path)
    data = SimpleITK.GetArrayFromImage(image)
    channels_last = image.GetNumberOfComponentsPerPixel() > 1
    spatial = tuple(range(data.ndim - channels_last))[::-1]
    data = data.transpose(*spatial, data.ndim - 1) if channels_last else data.transpose(spatial)
    dims = image.GetDimension()
    affine = np.eye(4)
    if dims >= 3:
        direction = np.reshape(image.GetDirection(), (dims, dims))[:3, :3]
        affine[:3, :3] = direction * np.asarray(image.GetSpacing()[:3])
        affine[:3, 3] = image.GetOrigin()[:3]
        # ITK's world is LPS, ours is RAS.
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    return Volume(data, (1.0, 0.0), affine)


def count_values(data: np.ndarray) -> dict[float, int]:
    """Count each value of a label image; quick for the integers that labels are."""
    if not np.issubdtype(data.dtype, np.integer):
        whole = np.rint(data)
        if not np.array_equal(whole, data) or data.size == 0 or np.abs(data).max() >= 2**31:
            found, counts = np.unique(data, return_counts=True)
            return {float(v): int(n) for v, n in zip(found, counts, strict=True)}
        data = whole.astype(np.int64)
    low, high = int(data.min()), int(data.max())
    if high - low > 2**20:
        found, counts = np.unique(data, return_counts=True)
    else:
        counts = np.bincount((data.astype(np.int64) - low).ravel(order="K"))
        found = np.flatnonzero(counts)
        counts = counts[found]
        found = found + low
    return {float(v): int(n) for v, n in zip(found, counts, strict=True)}
