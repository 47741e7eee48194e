"""Write a dataset's folder: all of it or nothing, and the same content as the same bytes."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from medssl.files import write_bytes


def write_nifti(
    path: Path,
    array: NDArray[Any],
    affine: NDArray[np.float64],
    spatial_unit: str,
    *,
    code: Literal[1, 2] = 1,
) -> int:
    """Write a compressed NIfTI without the time of day in it; return its size in bytes.

    Args:
        affine: voxel to RAS world coordinates in ``spatial_unit``, written as sform and, in scanner
            coordinates without shear (which a qform cannot say), as qform.
        spatial_unit: ``mm`` or ``um``.
        code: 1 scanner coordinates, 2 aligned to anatomy only.
    """
    image = nib.Nifti1Image(array, affine)
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    sheared = np.abs(directions.T @ directions - np.eye(3)).max() > 1e-4
    if code == 1 and not sheared:
        image.set_qform(affine, code=code)
    else:
        image.set_qform(None, code=0)
    image.set_sform(affine, code=code)
    image.header.set_xyzt_units({"mm": "mm", "um": "micron"}[spatial_unit])
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, compresslevel=6, mtime=0) as stream:
        stream.write(image.to_bytes())
    write_bytes(path, buffer.getvalue())
    return len(buffer.getvalue())
