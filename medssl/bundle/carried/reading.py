"""NIfTI files where ITK's viewers show them, in millimeters; MONAI's own reader asks nibabel.

Most headers say one thing to both. Where the two transforms of a header disagree, or none is
coded, or the unit is not the millimeter, the programs part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.data import NibabelReader
from monai.utils import ensure_tuple
from nibabel.openers import Opener
from nibabel.spatialimages import HeaderDataError

ROUNDING_MM = 5e-4
"""Readings of a header that put no corner further apart are one: nibabel's, to the last bit."""
RIGHT_ANGLES = 1e-4
"""Largest deviation from right angles of axes that ITK takes for perpendicular."""
LARGEST_MM = 10_000.0
"""No scan is larger."""

_MM_PER_UNIT = {1: 1000.0, 3: 1e-3}
_LPS = np.diag([-1.0, -1.0, 1.0])


class ItkPlacedReader(NibabelReader):
    """MONAI's reader of NIfTI files, but voxels lie where ITK places them, in millimeters.

    Raises:
        ValueError: a header has no right-angled axes, a scan cannot be as large as its header
            says, or holds values that are not finite; names the file.
    """

    def get_data(self, img: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the voxels and their place of what was opened; see MONAI.

        The errors are raised here and not in ``read``, after which MONAI tries its other readers.
        """
        pairs = zip(ensure_tuple(img), self.filenames, strict=True)
        images = [_placed(image, Path(name)) for image, name in pairs]
        found: tuple[np.ndarray, dict[str, Any]] = super().get_data(
            images if len(images) > 1 else images[0]
        )
        return found

    def _get_array_data(self, img: Any, filename: Any) -> Any:
        values = super()._get_array_data(img, filename)
        if not np.isfinite(values).all():
            raise ValueError(f"{filename}: it holds voxels that are NaN or infinite")
        return values


def _placed(image: nib.Nifti1Image, path: Path) -> nib.Nifti1Image:
    """Return an image with its affine in millimeters where ITK has it."""
    try:
        if not isinstance(image.header, nib.Nifti1Header):
            raise ValueError("it is not a NIfTI file")
        with Opener(str(path)) as file:  # what nibabel and MONAI have not mended yet
            header = type(image.header).from_fileobj(file, check=False)
        affine = itk_affine(header)
    except (ValueError, HeaderDataError) as error:
        raise ValueError(f"{path}: {error}") from error
    factor = _MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)
    affine = np.diag([factor, factor, factor, 1.0]) @ affine
    extent = float((np.linalg.norm(affine[:3, :3], axis=0) * (*image.shape, 1, 1)[:3]).max())
    if not extent <= LARGEST_MM:
        raise ValueError(f"{path}: by its header the scan would be {extent / 1000:.3g} m long")
    header = image.header.copy()
    header.set_xyzt_units("mm")
    # The header's own transforms follow the affine, so that MONAI finds both alike.
    return type(image)(image.dataobj, affine, header)


def itk_affine(header: nib.Nifti1Header) -> np.ndarray:
    """Return the affine ``(4, 4)`` to RAS in the file's unit, as ITK reads a header.

    The voxel size is pixdim's. Directions and origin are the sform's, if it has right angles and
    is coded 1 or agrees with the qform or there is none; else the qform's; without codes the voxel
    order's.

    Raises:
        ValueError: ITK refuses the header, since no transform of it has right angles; or all axes
            of its two transforms run opposite ways, where ITK's choice hangs on a hair.
    """
    spacing = np.asarray(header["pixdim"][1:4], np.float64)
    sform_code, qform_code = max(int(header["sform_code"]), 0), max(int(header["qform_code"]), 0)
    if not spacing.any() and sform_code and not qform_code:
        spacing = np.ones(3)
    if not spacing.min() > 0 or not np.isfinite(spacing).all():
        raise ValueError(f"its voxel size {spacing.tolist()} is none")
    if not sform_code and not qform_code:
        return nib.affines.from_matvec(_LPS * spacing, np.zeros(3))
    qform = header.get_qform() if qform_code else None
    sform = _with_spacing(header.get_sform(), spacing) if sform_code else None
    if sform is None and qform is None:
        raise ValueError("no transform of its header has right angles, so ITK does not open it")
    found = sform if sform is not None and (qform is None or sform_code == 1) else qform
    assert found is not None
    if sform is not None and np.allclose(sform[:3, :3], -found[:3, :3], atol=0.1 * spacing.min()):
        raise ValueError("the axes of its header's two transforms run opposite ways")
    own = header.get_best_affine()
    return own if _apart(own, found, header) <= ROUNDING_MM else found


def _with_spacing(sform: np.ndarray, spacing: np.ndarray) -> np.ndarray | None:
    """Return a transform with pixdim's voxel size; None if its axes are not perpendicular."""
    lengths = np.linalg.norm(sform[:3, :3], axis=0)
    if not np.isfinite(sform).all() or not lengths.min() > 0:
        return None
    directions = sform[:3, :3] / lengths
    if np.abs(directions.T @ directions - np.eye(3)).max() > RIGHT_ANGLES:
        return None
    out = sform.astype(np.float64)
    out[:3, :3] = directions * spacing
    return out


def _apart(first: np.ndarray, second: np.ndarray, header: nib.Nifti1Header) -> float:
    """Return how far two affines take a corner of the volume apart."""
    shape = (*header.get_data_shape(), 1, 1)[:3]
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij")).reshape(3, -1)
    moved = (first - second) @ np.vstack([corners, np.ones(corners.shape[1])])
    return float(np.linalg.norm(moved[:3], axis=0).max())


def file_metas(batch: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return what MONAI names the files of a batch by."""
    return [item["image"].meta for item in batch]


def image_list(folder: str, *, label_folder: str | None = None) -> list[dict[str, str]]:
    """Return the NIfTI images of a folder, and the label of the same name beside each.

    Args:
        folder: searched without its folders.
        label_folder: of the labels; None: none are wanted.

    Raises:
        FileNotFoundError: there is no image, or an image has no label.
    """
    images = sorted(str(path) for path in Path(folder).glob("*.nii*"))
    if not images:
        raise FileNotFoundError(f"no NIfTI image (*.nii, *.nii.gz) in {folder}")
    if label_folder is None:
        return [{"image": image} for image in images]
    labels = [str(Path(label_folder) / Path(image).name) for image in images]
    missing = [label for label in labels if not Path(label).is_file()]
    if missing:
        raise FileNotFoundError(f"no label {missing[0]} for the image of the same name")
    return [{"image": i, "label": lab} for i, lab in zip(images, labels, strict=True)]
