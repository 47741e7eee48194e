"""DICOM Ophthalmic Tomography (OPT): a multi-frame file, one B-scan per frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medssl.data.dicom.files import pixel_array, read_dicom
from medssl.data.dicom.geometry import frame_values
from medssl.data.importers.oct_scan import OctScan, check_raster
from medssl.errors import MedSSLError
from medssl.optional import optional_module

OPT = "1.2.840.10008.5.1.4.1.1.77.1.5.4"
"""SOP class Ophthalmic Tomography Image Storage."""


def is_opt(path: Path) -> bool:
    """Tell whether a file is a DICOM OPT image."""
    pydicom = optional_module("pydicom", "oct")
    try:
        data = read_dicom(
            path, "oct", stop_before_pixels=True, specific_tags=["SOPClassUID", "Modality"]
        )
    except (pydicom.errors.InvalidDicomError, OSError):
        return False
    return data.get("SOPClassUID") == OPT or data.get("Modality") == "OPT"


def read_opt(path: Path, bscan_um: float | None) -> OctScan:
    """Read an OPT file with the spacing of its functional groups.

    Args:
        bscan_um: distance of the B-scans where the user knows better than the file.

    Raises:
        MedSSLError: radial or single scans, unreadable (vendor-private) pixels, no spacing.
    """
    data = read_dicom(path, "oct")
    if int(data.get("NumberOfFrames") or 1) < 2 or data.get("SamplesPerPixel", 1) != 1:
        raise _refuse(path, "it is no volume of B-scans")
    try:
        frames = pixel_array(data, path)
    except MedSSLError:
        raise
    except Exception as error:  # pydicom and its decoders raise many kinds
        reason = " ".join(str(error).split())[:120]
        raise _refuse(path, f"its pixels cannot be read ({reason})") from error
    try:
        axial, lateral = frame_values(data, "PixelMeasuresSequence", "PixelSpacing")[0]
    except KeyError as error:
        raise _refuse(path, f"it has no {error.args[0]}: its spacing is unknown") from None
    lines = _scan_lines(data, path)
    places = _places(data)
    if places is not None:
        check_raster(places, path)  # whatever else says how far apart they are would close a gap
    across = bscan_um / 1000 if bscan_um else _distance(data, places, path)
    side = data.get("ImageLaterality") or data.get("Laterality") or ""
    maker = f"{data.get('Manufacturer') or ''} {data.get('ManufacturerModelName') or ''}"
    heidelberg = "heidelberg" in maker.lower()
    # Rows of the en-face picture count from the superior edge down.
    upward = bool(lines[0, 0] > lines[-1, 0]) if lines is not None else heidelberg
    return OctScan(
        image=frames.transpose(2, 0, 1),
        spacing_um=(1000 * lateral, 1000 * across, 1000 * axial),
        upward=upward,
        laterality={"R": "OD", "L": "OS"}.get(str(side), ""),
        device=" ".join(maker.split()),
        patient=str(data.get("PatientID") or ""),
    )


def _scan_lines(data: Any, path: Path) -> np.ndarray | None:
    """Return where each frame starts and ends on the en-face picture (row, column, row, column).

    Raises:
        MedSSLError: the lines are not parallel and horizontal.
    """
    key = "OphthalmicFrameLocationSequence"
    try:
        lines = frame_values(data, key, "ReferenceCoordinates")
    except KeyError:
        return None
    if lines.ndim != 2 or lines.shape[1] != 4:
        raise _refuse(path, "its B-scans are circles or curves on the retina")
    along = lines[:, 2:] - lines[:, :2]
    angles = np.degrees(np.arctan2(along[:, 0], along[:, 1]))
    if np.ptp(angles) > 2:
        raise _refuse(path, f"a radial scan: its B-scans turn by {np.ptp(angles):.0f} degrees")
    if abs(angles[0]) > 45:
        raise _refuse(path, "its B-scans stand upright or run backwards (not a horizontal raster)")
    check_raster(lines[:, :2], path)
    return lines


def _places(data: Any) -> np.ndarray | None:
    """Return the position of each frame, ``(frames, 3)`` in mm, None where there is none."""
    try:
        return frame_values(data, "PlanePositionSequence", "ImagePositionPatient")
    except KeyError:
        return None


def _distance(data: Any, places: np.ndarray | None, path: Path) -> float:
    """Return the distance of neighboring B-scans in mm, from the best source there is."""
    if places is not None:
        steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
        if steps.min() > 0 and np.ptp(steps) < 0.05 * steps.mean():
            return float(steps.mean())
    for key in ("SpacingBetweenSlices", "SliceThickness"):
        try:
            value = float(frame_values(data, "PixelMeasuresSequence", key)[0])
        except KeyError:
            continue
        if value > 0:
            return value
    raise MedSSLError(
        "it does not say how far apart its B-scans are",
        where=path,
        fix="take it from the viewer: --option bscan_um=120",
    )


def _refuse(path: Path, what: str) -> MedSSLError:
    return MedSSLError(what, where=path, fix="leave it out with --option skip_broken=true")
