"""Write a dataset's folder: all of it or nothing, and the same content as the same bytes."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from numpy.typing import NDArray


@contextlib.contextmanager
def all_or_nothing(out: Path) -> Iterator[Path]:
    """Yield a folder whose content becomes that of ``out`` on success and vanishes on failure."""
    fresh = not out.exists()
    created = [p for p in out.parents if not p.exists()]
    # On the same file system as its destination, so that moving is renaming.
    building = (out.parent if fresh else out) / f".{out.name}-{secrets.token_hex(4)}.partial"
    moved: list[Path] = []
    try:
        building.parent.mkdir(parents=True, exist_ok=True)
        building.mkdir()
        yield building
        if fresh:
            os.rename(building, out)
            return
        # An empty folder the user made stays his own (it may be a mount point): fill it.
        for item in sorted(building.iterdir(), key=lambda p: p.is_file()):
            moved.append(out / item.name)
            os.rename(item, moved[-1])
        building.rmdir()
    except BaseException:
        for leftover in [building, *moved]:
            shutil.rmtree(leftover, ignore_errors=True)
            leftover.unlink(missing_ok=True) if leftover.is_file() else None
        for parent in created:
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise


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
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(buffer.getvalue())
    return len(buffer.getvalue())
