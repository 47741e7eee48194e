"""OCT challenge data: RETOUCH (MetaImage) and Duke DME (MATLAB)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy.io
import SimpleITK as sitk  # noqa: N813

from medssl.data.images.itk import read_itk
from medssl.data.images.limits import check_claim
from medssl.data.importers.oct_scan import IGNORE, OctScan, layer_labels
from medssl.errors import MedSSLError

RETOUCH_LABELS = {1: "IRF", 2: "SRF", 3: "PED"}

DUKE_BOUNDARIES = [
    "ILM",
    "NFL/GCL",
    "IPL/INL",
    "INL/OPL",
    "OPL/ONL",
    "ISM/ISE",
    "OS/RPE",
    "BM",
]
"""The eight boundaries of Chiu et al. (2015), from the vitreous down."""

DUKE_SPACING_UM = (11.33, 123.0, 3.87)
"""Mean of the ranges that the paper gives; the files hold none."""


_MATLAB_BYTES = {"uint8": 1, "int8": 1, "uint16": 2, "int16": 2, "single": 4, "logical": 1}


def retouch_device(depth: int) -> str:
    """Tell the device of a RETOUCH volume from its samples per A-scan."""
    known = {1024: "Zeiss Cirrus", 496: "Heidelberg Spectralis", 885: "Topcon", 650: "Topcon"}
    return known.get(depth, "")


def read_retouch(path: Path) -> OctScan:
    """Read ``oct.mhd`` and, where it is there, ``reference.mhd`` of one volume's folder.

    The headers give millimeters; x is the A-scan, y the depth, z the B-scan.

    Raises:
        MedSSLError: a file is damaged, or the two differ in size.
    """
    image, spacing = _read_mhd(path)
    label = None
    reference = path.with_name("reference.mhd")
    if reference.is_file():
        label, _ = _read_mhd(reference)
        if label.shape != image.shape:
            raise MedSSLError(
                f"the reference has the size {label.shape}, but the volume {image.shape}",
                where=reference,
                fix="copy both files again from the challenge's archive",
            )
    device = retouch_device(image.shape[2])
    return OctScan(
        image=image,
        spacing_um=spacing,
        upward="Heidelberg" in device,
        device=device,
        label=label,
        group=path.parent.name,
    )


def _read_mhd(path: Path) -> tuple[np.ndarray, tuple[float, float, float]]:
    try:
        image = read_itk(path)
    except RuntimeError as error:
        raise MedSSLError(
            f"the file cannot be read ({' '.join(str(error).split())[-120:]})",
            where=path,
            fix="check that its .raw file lies beside it",
        ) from error
    lateral, axial, across = (1000 * v for v in image.GetSpacing())
    return sitk.GetArrayFromImage(image).transpose(2, 0, 1), (lateral, across, axial)


def read_duke(path: Path, target: Literal["fluid", "layers"], grader: int) -> OctScan:
    """Read a Duke DME file: voxels, and one grader's fluid or layers as the label.

    Only some B-scans, and of these only some columns, were annotated: all other voxels become
    ``IGNORE``.

    Raises:
        MedSSLError: the file has not the variables of this data set.
    """
    keys = ("images", f"manualLayers{grader}", f"manualFluid{grader}")
    try:
        for name, shape, kind in scipy.io.whosmat(path):
            if name in keys:
                check_claim(shape, _MATLAB_BYTES.get(kind, 8), path=path)
        content: dict[str, Any] = scipy.io.loadmat(path, variable_names=keys)
        volume, layers, fluid = (np.asarray(content[key]) for key in keys)
        depth, width, count = volume.shape
        if layers.shape != (8, width, count) or fluid.shape != volume.shape:
            raise ValueError(f"layers {layers.shape} and fluid {fluid.shape} do not fit {depth}")
    except (KeyError, ValueError, NotImplementedError, OSError, TypeError) as error:
        raise MedSSLError(
            f"this is no file of the Duke DME data (Chiu 2015): {error}",
            where=path,
            fix="it must hold images, manualLayers1, manualFluid1, ...; "
            "leave others out with --option skip_broken=true",
        ) from error
    # MATLAB counts rows from 1.
    boundaries = layers.astype(np.float32) - 1
    boundaries[boundaries < 0] = np.nan
    if target == "layers":
        label = layer_labels(boundaries, depth)
    else:
        wet = np.nan_to_num(fluid).transpose(1, 2, 0) > 0
        seen = np.asarray(np.isfinite(boundaries).any(axis=0))  # A-scan, B-scan
        label = np.where(wet, 1, np.where(seen[..., None], 0, IGNORE)).astype(np.uint8)
    return OctScan(
        image=volume.transpose(1, 2, 0),
        spacing_um=DUKE_SPACING_UM,
        upward=True,
        device="Heidelberg Spectralis",
        label=label,
        boundaries=dict(zip(DUKE_BOUNDARIES, boundaries, strict=True)),
        group=path.stem,
    )
