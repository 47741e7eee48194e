"""The voxels of a DICOM series, rescaled as its headers say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813

from medssl.data.dicom.files import pixel_array, read_dicom
from medssl.data.dicom.geometry import frame_values
from medssl.data.dicom.series import EXTRA, Series
from medssl.data.images.itk import read_itk
from medssl.data.images.limits import check_claim
from medssl.errors import MedSSLError


def read_series(series: Series) -> np.ndarray:
    """Return the voxels ``(columns, rows, slices)`` with RescaleSlope and -Intercept applied.

    Raises:
        MedSSLError: a file is damaged or its compression is not supported.
    """
    if series.frames:
        return _read_frames(series)
    check_claim(series.shape, 4, path=series.headers[0].path)
    slices = []
    for header in series.headers:
        try:
            array = sitk.GetArrayFromImage(read_itk(header.path))
        except RuntimeError as error:
            raise _unreadable(header.path, error) from error
        slices.append(array.reshape(series.shape[1], series.shape[0]).T)
    image = np.stack(slices, axis=-1)
    return image.astype(np.float32) if image.dtype == np.float64 else image


def _read_frames(series: Series) -> np.ndarray:
    path = series.headers[0].path
    data = read_dicom(path, EXTRA)
    try:
        frames = pixel_array(data, path)[list(series.frames)]
    except MedSSLError:
        raise
    except Exception as error:  # pydicom and its decoders raise many kinds
        raise _unreadable(path, error) from error
    try:
        macro = "PixelValueTransformationSequence"
        slope = frame_values(data, macro, "RescaleSlope")[list(series.frames)]
        intercept = frame_values(data, macro, "RescaleIntercept")[list(series.frames)]
    except KeyError:
        slope, intercept = np.ones(1), np.zeros(1)
    image = frames.transpose(2, 1, 0) * slope + intercept
    return image.astype(np.float32)


def _unreadable(path: Path, error: Exception) -> MedSSLError:
    reason = " ".join(str(error).split())[-160:]
    return MedSSLError(
        f"the pixels cannot be read ({reason})",
        where=path,
        fix="export the series again, uncompressed, or leave it out",
    )
