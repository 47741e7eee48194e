"""NIfTI files spelled field by field, as scanners, archives and programs leave them."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813
from scipy.spatial.transform import Rotation

SHAPE = (23, 19, 11)
DATA = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
SPACING = np.array([1.3158, 1.3158, 10.0])


def oblique(spacing: np.ndarray = SPACING, angles: tuple[float, ...] = (17, -9, 4)) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("zxy", angles, degrees=True).as_matrix() * spacing
    affine[:3, :3] *= [-1, -1, 1]
    affine[:3, 3] = 81.5, -33.25, 212.0
    return affine


def unit_columns(affine: np.ndarray) -> np.ndarray:
    out = affine.copy()
    out[:3, :3] /= np.linalg.norm(out[:3, :3], axis=0)
    return out


def moved(affine: np.ndarray, by: float) -> np.ndarray:
    out = affine.copy()
    out[:3, 3] += by
    return out


SHEARED = oblique() @ np.array([[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
SINGULAR = oblique() @ np.diag([1, 1, 0, 1])
MIRRORED = oblique() @ np.diag([-1, 1, 1, 1])

HEADERS = {
    "both alike": {"qform": oblique(), "sform": oblique(), "codes": (1, 1)},
    "sform alone": {"sform": oblique(), "codes": (0, 1)},
    "sform aligned": {"sform": oblique(), "codes": (0, 2)},
    "qform alone": {"qform": oblique(), "codes": (1, 0)},
    "neither": {"qform": oblique(), "sform": oblique(), "codes": (0, 0)},
    "no geometry": {"pixdim": (2.0, 3.0, 4.0)},
    "unit sform beside qform": {
        "qform": oblique(),
        "sform": unit_columns(oblique()),
        "codes": (1, 2),
    },
    "unit sform of the scanner": {
        "qform": oblique(),
        "sform": unit_columns(oblique()),
        "codes": (1, 1),
    },
    "unit sform alone": {"sform": unit_columns(oblique()), "codes": (0, 1), "pixdim": (2, 3, 4)},
    "moved sform": {"qform": oblique(), "sform": moved(oblique(), 7), "codes": (1, 1)},
    "moved sform of a template": {
        "qform": oblique(),
        "sform": moved(oblique(), 7),
        "codes": (1, 4),
    },
    "mirrored sform": {"qform": oblique(), "sform": MIRRORED, "codes": (1, 1)},
    "mirrored sform of a template": {"qform": oblique(), "sform": MIRRORED, "codes": (1, 3)},
    "sheared sform beside qform": {"qform": oblique(), "sform": SHEARED, "codes": (1, 1)},
    "singular sform beside qform": {"qform": oblique(), "sform": SINGULAR, "codes": (1, 2)},
    "empty sform beside qform": {"qform": oblique(), "codes": (1, 1)},
    "code that is none": {"qform": oblique(), "sform": moved(oblique(), 5), "codes": (1, -1)},
    "long quaternion": {"qform": oblique(), "codes": (1, 0), "quatern_b": 1.000003},
    "very long quaternion": {"qform": oblique(), "codes": (1, 0), "quatern_b": 1.5},
    "nearly half a turn": {"qform": oblique(angles=(179.97, 0, 0)), "codes": (1, 0)},
    "half a turn": {"qform": oblique() * 0 + np.diag([-1, -1, 3.0, 1]), "codes": (2, 0)},
    "qfac of 0": {"qform": oblique(), "codes": (1, 0), "pixdim": None},
    "negative edge": {"qform": oblique(), "codes": (1, 0), "pixdim": (-1.5, 1.5, 3)},
    "no edges": {"sform": oblique(), "codes": (0, 1), "pixdim": (0, 0, 0)},
    "rounded edges": {"sform": oblique(), "codes": (0, 1), "pixdim": (1.3, 1.3, 10)},
    "big-endian": {"qform": oblique(), "sform": oblique(), "codes": (1, 1), "endianness": ">"},
    "meter": {"sform": np.diag([1e-3, 1e-3, 2e-3, 1]), "codes": (0, 1), "unit": "meter"},
    "micron": {"sform": np.diag([700.0, 700, 2000, 1]), "codes": (0, 1), "unit": "micron"},
    "unknown unit": {"sform": oblique(), "codes": (0, 1), "unit": "unknown"},
    "unit that is none": {"sform": oblique(), "codes": (0, 1), "unit": 7},
    "micron without codes": {"pixdim": (700, 700, 2000), "unit": "micron"},
}


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
