"""NIfTI files spelled field by field, as scanners, archives and programs leave them."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813


def write_raw(
    path: Path,
    data: np.ndarray,
    *,
    qform: np.ndarray | None = None,
    sform: np.ndarray | None = None,
    codes: tuple[int, int] = (0, 0),
    pixdim: tuple[float, float, float] | None = None,
    unit: str | int = "mm",
    endianness: str = "<",
    version: int = 1,
    **fields: Any,
) -> Path:
    """Write a NIfTI whose header says just this, however it contradicts itself.

    Args:
        data: stored values.
        qform, sform: affines to RAS in the file's unit; None leaves the fields 0.
        codes: of qform and sform.
        pixdim: voxel edges; the qform's or the sform's where not given, else 1.
        unit: name or code.
        fields: of the header, set last.
    """
    header = {1: nib.Nifti1Header, 2: nib.Nifti2Header}[version](endianness=endianness)
    header.set_data_dtype(data.dtype)
    header.set_data_shape(data.shape)
    if qform is not None:
        header.set_qform(qform, code=1)
    if sform is not None:
        for row, name in enumerate(("srow_x", "srow_y", "srow_z")):
            header[name] = sform[row]
        if qform is None:
            header["pixdim"][1:4] = np.linalg.norm(sform[:3, :3], axis=0)
    header["qform_code"], header["sform_code"] = codes
    if pixdim is not None:
        header["pixdim"][1:4] = pixdim
    header["xyzt_units"] = {"unknown": 0, "meter": 1, "mm": 2, "micron": 3}.get(unit, unit)
    header["vox_offset"] = len(header.binaryblock) + 4
    header["magic"] = {1: b"n+1", 2: b"n+2\0\r\n\x1a\n"}[version]
    for name, value in fields.items():
        header[name] = value
    stored = data.astype(data.dtype.newbyteorder(endianness)).tobytes(order="F")
    raw = header.binaryblock + bytes(4) + stored
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(raw, mtime=0) if path.name.endswith(".gz") else raw)
    return path


def itk_places(path: Path, indices: np.ndarray) -> np.ndarray:
    """Return where ITK shows voxels ``(N, 3)`` of a file: RAS, mm."""
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    image = sitk.ReadImage(str(path))
    places = [image.TransformContinuousIndexToPhysicalPoint(i) for i in indices.astype(float)]
    return np.array(places) * [-1, -1, 1]


def places(affine: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Return where an affine puts voxels ``(N, 3)``."""
    return indices @ affine[:3, :3].T + affine[:3, 3]


def landmarks(shape: tuple[int, ...]) -> np.ndarray:
    """Return five voxels of a volume that do not lie in one plane."""
    x, y, z = (n - 1 for n in shape[:3])
    return np.array([[0, 0, 0], [x, 0, 0], [0, y, 0], [0, 0, z], [x // 2, y, z // 3]])
