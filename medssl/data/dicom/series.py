"""Find the image series in a tree of DICOM files, and work out where their voxels are."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813

from medssl.data.dicom.files import pixel_array, read_dicom
from medssl.data.dicom.geometry import UnusableError, frame_values, slice_grid
from medssl.data.images.itk import read_itk
from medssl.data.images.limits import check_claim
from medssl.errors import MedSSLError
from medssl.optional import optional_module
from medssl.progress import looking_at

EXTRA = "dicom"
TAGS = [
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber"),
    *("SeriesDescription", "Modality", "ImageType", "PatientID", "FrameOfReferenceUID"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns"),
    *("NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("ReferencedSeriesSequence", "SegmentSequence", "SegmentationType"),
]

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""SOP classes Segmentation Storage and Label Map Segmentation Storage."""


@dataclass(frozen=True)
class Header:
    """A DICOM file's header (``TAGS`` only) and its path."""

    path: Path
    data: Any

    def text(self, keyword: str) -> str:
        """Return an element as text, empty where it is missing."""
        return str(self.data.get(keyword) or "").strip()


@dataclass(frozen=True)
class Series:
    """Slices of one volume in the order of their positions.

    Attributes:
        headers: one per slice, or the one of a multi-frame file.
        affine: ``(4, 4)``, voxel (column, row, slice) to RAS in mm.
        shape: columns, rows, slices.
        frames: of a multi-frame file: its frames in the order of their positions.
    """

    headers: tuple[Header, ...]
    affine: np.ndarray
    shape: tuple[int, int, int]
    frames: tuple[int, ...] = ()

    @property
    def folder(self) -> Path:
        """The folder of the first file."""
        return self.headers[0].path.parent

    def text(self, keyword: str) -> str:
        """Return an element of the first header as text."""
        return self.headers[0].text(keyword)


@dataclass(frozen=True)
class Found:
    """What a tree holds: volumes, segmentations, and notes on all that was left out."""

    series: list[Series]
    segmentations: list[Header]
    notes: list[str]


def find_series(source: Path, *, min_slices: int) -> Found:
    """Read the headers of all files below ``source`` and group them into volumes.

    Args:
        source: a folder, or one file.
        min_slices: series with fewer slices are left out (localizers).
    """
    pydicom = optional_module("pydicom", EXTRA)
    groups: dict[tuple[str, str], list[Header]] = defaultdict(list)
    segmentations, uids = [], set()
    copies = other = unreadable = 0
    for path in looking_at(dicom_candidates(source), "reading DICOM headers"):
        try:
            data = read_dicom(path, EXTRA, stop_before_pixels=True, specific_tags=TAGS)
        except (pydicom.errors.InvalidDicomError, OSError):
            unreadable += path.suffix.lower() in (".dcm", ".dicom", ".ima")
            continue
        header = Header(path, data)
        uid = header.text("SOPInstanceUID")
        if uid and uid in uids:
            copies += 1
        elif header.text("SOPClassUID") in SEGMENTATIONS:
            segmentations.append(header)
        elif data.get("Rows"):
            # Without a series UID the folder has to tell which slices belong together.
            series = header.text("SeriesInstanceUID") or str(path.parent)
            groups[header.text("StudyInstanceUID"), series].append(header)
        else:
            other += 1
        uids.add(uid)
    notes = []
    if copies:
        notes.append(f"{copies} files are copies of others (same SOPInstanceUID) and were ignored")
    if unreadable:
        notes.append(f"{unreadable} files are called DICOM but are not, or lack its file header")
    if other:
        notes.append(f"{other} DICOM files hold no image (reports, contours, plans)")
    found = []
    for headers in groups.values():
        try:
            found.append(_build(headers, min_slices))
        except UnusableError as error:
            notes.append(f"left out {describe(headers[0])}: {error}")
    return Found(found, segmentations, notes)


def dicom_candidates(source: Path) -> list[Path]:
    """Return the files that may be DICOM: all but hidden ones and those of other known kinds."""
    if source.is_file():
        return [source]
    other = (".gz", ".nii", ".nrrd", ".mha", ".mhd", ".raw", ".json", ".txt", ".csv", ".png")
    return sorted(
        path
        for path in source.rglob("*")
        if path.is_file()
        and path.name != "DICOMDIR"
        and not path.name.lower().endswith(other)
        and not any(part.startswith(".") for part in path.relative_to(source).parts)
    )


def describe(header: Header) -> str:
    """Name a series for a message by what its own console calls it."""
    number = header.text("SeriesNumber")
    title = header.text("SeriesDescription")
    text = " ".join(v for v in ("series", number, f"'{title}'" if title else "") if v)
    return f"{text} in folder {header.path.parent.name}"


def _build(headers: list[Header], min_slices: int) -> Series:
    first = headers[0].data
    if any("LOCALIZER" in h.text("ImageType").upper() for h in headers):
        raise UnusableError("it is a localizer")
    if first.get("SamplesPerPixel", 1) != 1:
        raise UnusableError("its images are in color")
    if headers[0].text("PhotometricInterpretation") == "MONOCHROME1":
        raise UnusableError("its gray scale is inverted (MONOCHROME1)")
    if headers[0].text("Modality") in ("OPT", "OP"):
        raise UnusableError("it is an OCT or a photograph of the eye; use `medssl import oct`")
    if any((h.data.get("NumberOfFrames") or 1) > 1 for h in headers):
        if len(headers) > 1:
            raise UnusableError(f"it is {len(headers)} multi-frame files, not one volume")
        return _multi_frame(headers[0], min_slices)
    if len(headers) < min_slices:
        raise UnusableError(f"it has {len(headers)} slices (min_slices is {min_slices})")
    keys = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
    for key in keys:
        missing = sum(not h.data.get(key) for h in headers)
        if missing:
            raise UnusableError(f"{missing} of its {len(headers)} files have no {key}")
    grids = {(h.data.Rows, h.data.Columns, *map(float, h.data.PixelSpacing)) for h in headers}
    directions = np.array([h.data.ImageOrientationPatient for h in headers], float)
    if len(grids) > 1 or np.abs(directions - directions[0]).max() > 1e-3:
        what = "sizes or spacings" if len(grids) > 1 else "orientations"
        raise UnusableError(f"its images have different {what}: more than one volume")
    positions = np.array([h.data.ImagePositionPatient for h in headers], float)
    order, affine = slice_grid(positions, directions[0], first.PixelSpacing)
    shape = (int(first.Columns), int(first.Rows), len(headers))
    return Series(tuple(headers[i] for i in order), affine, shape)


def _multi_frame(header: Header, min_slices: int) -> Series:
    data = read_dicom(header.path, EXTRA, stop_before_pixels=True)
    count = int(data.NumberOfFrames)
    if count < min_slices:
        raise UnusableError(f"it has {count} frames (min_slices is {min_slices})")
    try:
        positions = frame_values(data, "PlanePositionSequence", "ImagePositionPatient")
        directions = frame_values(data, "PlaneOrientationSequence", "ImageOrientationPatient")
        spacings = frame_values(data, "PixelMeasuresSequence", "PixelSpacing")
    except KeyError as error:
        raise UnusableError(f"its frames have no {error.args[0]}") from None
    if np.ptp(directions, axis=0).max() > 1e-3 or np.ptp(spacings, axis=0).max() > 1e-6:
        raise UnusableError("its frames have different orientations or spacings")
    order, affine = slice_grid(positions, directions[0], spacings[0])
    shape = (int(data.Columns), int(data.Rows), count)
    return Series((header,), affine, shape, tuple(int(i) for i in order))


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
        slope = np.float64(data.get("RescaleSlope", 1))
        intercept = np.float64(data.get("RescaleIntercept", 0))
    image = frames.transpose(2, 1, 0) * slope + intercept
    return image.astype(np.float32)


def _unreadable(path: Path, error: Exception) -> MedSSLError:
    reason = " ".join(str(error).split())[-160:]
    return MedSSLError(
        f"the pixels cannot be read ({reason})",
        where=path,
        fix="export the series again, uncompressed, or leave it out",
    )
