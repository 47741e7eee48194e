"""Bring one scan onto another: affine by correlation, then diffeomorphic demons.

Both are SimpleITK's, on one thread, so that the same scans always give the same displacement. The
fixed image is the scan that is to be labeled, the moving one the atlas. Displacements are in the
unit of the affines.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk  # noqa: N813

from medssl.atlases.settings import AtlasSettings
from medssl.data.images.geometry import ItkGeometry, straightened
from medssl.data.images.itk import itk_image, itk_voxels

LEVELS = ((4, 2.0), (2, 1.0), (1, 0.0))
"""Coarse to fine: how much smaller the images are, and the SD of their smoothing in voxels."""
SMALLEST = 12
"""Voxels along the shortest axis that a coarser level must leave."""
SMOOTHABLE = 4
"""Voxels along an axis that ITK's smoothing needs."""


@dataclass(frozen=True)
class Volume:
    """A preprocessed image and where it lies.

    Attributes:
        image: ``(C, X, Y, Z)`` float32; the first channel is registered.
        affine: ``(4, 4)``, voxel to RAS.
    """

    image: np.ndarray
    affine: np.ndarray

    def itk(self, values: np.ndarray) -> sitk.Image:
        """Return values ``(X, Y, Z)`` on this grid as ITK's image."""
        return itk_image(values, ItkGeometry.of(straightened(self.affine)))


@dataclass(frozen=True)
class Warp:
    """Where each voxel of one scan lies in another.

    Attributes:
        fixed: the grid that values are brought to.
        transform: from points of the fixed to points of the moving scan.
    """

    fixed: sitk.Image
    transform: sitk.Transform

    def bring(self, volume: Volume, values: np.ndarray, outside: float = 0.0) -> np.ndarray:
        """Bring values ``(X, Y, Z)`` of the moving scan to the fixed grid, linearly, float32."""
        return itk_voxels(_resampled(volume.itk(values), self.fixed, self.transform, outside))


def register(fixed: Volume, moving: Volume, settings: AtlasSettings) -> Warp:
    """Find where each voxel of ``fixed`` lies in ``moving``.

    Images that have nothing in common, or a single value, are left where their centers meet.
    """
    target, atlas = (v.itk(np.asarray(v.image[0], np.float32)) for v in (fixed, moving))
    if not (fixed.image[0].std() and moving.image[0].std()):
        return Warp(target, _centered(target, atlas))
    transform = sitk.CompositeTransform([align(target, atlas)])
    if settings.demons:
        transform.AddTransform(_deform(target, atlas, transform, settings))
    return Warp(target, transform)


def align(target: sitk.Image, atlas: sitk.Image) -> sitk.Transform:
    """Return the affine transform of largest correlation, from points of one to the other."""
    start = _centered(target, atlas)
    shortest = min(*target.GetSize(), *atlas.GetSize())
    levels = [one for one in LEVELS if one[0] == 1 or shortest // one[0] >= SMALLEST]
    if shortest < SMOOTHABLE:
        levels = [(1, 0.0)]
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsCorrelation()
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=1.0, minStep=1e-3, numberOfIterations=100, relaxationFactor=0.6
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([shrink for shrink, _ in levels])
    method.SetSmoothingSigmasPerLevel([sigma for _, sigma in levels])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    method.SetInitialTransform(start, inPlace=False)
    with suppress(RuntimeError):  # nothing in common
        return method.Execute(target, atlas)
    return start


def _centered(target: sitk.Image, atlas: sitk.Image) -> sitk.Transform:
    """Return the shift that brings the centers of both grids together, as an affine transform."""
    center = sitk.CenteredTransformInitializerFilter.GEOMETRY
    return sitk.CenteredTransformInitializer(target, atlas, sitk.AffineTransform(3), center)


def _deform(
    target: sitk.Image, atlas: sitk.Image, affine: sitk.Transform, settings: AtlasSettings
) -> sitk.Transform:
    """Return the displacement that follows an affine transform."""
    demons = sitk.DiffeomorphicDemonsRegistrationFilter()
    demons.SetNumberOfThreads(1)
    demons.SetNumberOfIterations(settings.demons)
    demons.SetSmoothDisplacementField(True)
    demons.SetStandardDeviations(settings.smoothing)
    lowest = float(sitk.GetArrayViewFromImage(atlas).min())
    field = demons.Execute(target, _resampled(atlas, target, affine, lowest))
    return sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))


def _resampled(
    image: sitk.Image, grid: sitk.Image, transform: sitk.Transform, outside: float
) -> sitk.Image:
    resample = sitk.ResampleImageFilter()
    resample.SetNumberOfThreads(1)
    resample.SetReferenceImage(grid)
    resample.SetTransform(transform)
    resample.SetInterpolator(sitk.sitkLinear)
    resample.SetDefaultPixelValue(outside)
    resample.SetOutputPixelType(sitk.sitkFloat32)
    return resample.Execute(image)
