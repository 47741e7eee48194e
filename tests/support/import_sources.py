"""Volumes whose axes cannot be confused, and their true places in the world."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813
from nibabel.affines import from_matvec

from medssl.data.datasets.case import Case
from medssl.data.datasets.decathlon import read_dataset

SHAPE = (7, 6, 5)
SPACING = (0.5, 0.8, 2.5)


def _oblique() -> np.ndarray:
    """Return an affine with three different spacings, turned about two axes, off the origin."""
    a, b = np.deg2rad([20.0, -35.0])
    turn_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    flips = np.diag([-1.0, 1.0, 1.0])
    return from_matvec(turn_z @ turn_x @ flips @ np.diag(SPACING), [11.0, -23.5, 41.25])


AFFINE = _oblique()


def image_array(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Return int16 values that are all different, so that no flip or transposition is missed."""
    count = int(np.prod(shape))
    return (np.arange(count).reshape(shape) * 3 + 100 * seed - 200).astype(np.int16)


def label_array(value: int = 3, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Return a small structure near one corner, different along each axis."""
    label = np.zeros(shape, np.uint8)
    label[1:3, 2:5, 3] = value
    label[5, 0, 1] = value
    return label


def write_itk(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    """Write (X, Y, Z[, C]) with SimpleITK, which stores (Z, Y, X[, C]) in LPS."""
    path.parent.mkdir(parents=True, exist_ok=True)
    axes = (2, 1, 0, 3) if array.ndim == 4 else (2, 1, 0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(axes)))
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, str(path))
    return path


def write_nifti(
    path: Path, array: np.ndarray, affine: np.ndarray = AFFINE, *, unit: str = "mm"
) -> Path:
    """Write a NIfTI with an explicit sform."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, code=1)
    image.header.set_xyzt_units(unit)
    nib.save(image, path)
    return path


def world_of(path: Path, index: tuple[int, int, int]) -> np.ndarray:
    """Return the place of a voxel in RAS, by SimpleITK, which shares no code with the importers."""
    place = sitk.ReadImage(str(path)).TransformIndexToPhysicalPoint(index)
    return np.array(place) * [-1, -1, 1]


def cases_of(root: Path) -> dict[str, Case]:
    """Return the cases of an imported dataset, which must deviate in nothing."""
    dataset = read_dataset(root)
    assert dataset.deviations == ()
    return {c.id: c for c in [*dataset.training, *dataset.unlabeled, *dataset.test]}


def assert_written(
    case: Case, image: np.ndarray, label: np.ndarray | None, affine: np.ndarray = AFFINE
) -> None:
    """Compare the files of a case with the truth, voxel by voxel."""
    (path,) = case.images
    found = nib.load(path)
    np.testing.assert_array_equal(np.asarray(found.dataobj), image)
    np.testing.assert_allclose(found.affine, affine, rtol=1e-5, atol=1e-5)
    assert int(found.header["sform_code"]) > 0
    if image.ndim == 3:
        corner = tuple(n - 1 for n in image.shape)
        truth = affine[:3, :3] @ corner + affine[:3, 3]
        np.testing.assert_allclose(world_of(path, corner), truth, atol=1e-3)
    if label is None:
        assert case.label is None
        return
    mask = nib.load(case.label)
    np.testing.assert_array_equal(np.asarray(mask.dataobj), label)
    np.testing.assert_allclose(mask.affine, affine, rtol=1e-5, atol=1e-5)
