"""Labels of DICOM series: segmentation objects (DICOM-SEG) and image files beside the slices."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nibabel import orientations

from medssl.data.dicom.files import pixel_array, read_dicom
from medssl.data.dicom.geometry import frame_values
from medssl.data.dicom.series import EXTRA, DicomHeader, Series, describe_series
from medssl.data.images.geometry import LPS, turn_onto
from medssl.data.images.names import list_images
from medssl.data.images.volume import read_header, read_image
from medssl.errors import MedSSLError

TOLERANCE = 0.1
"""How far a segmentation's voxel may lie off the image's, in voxels."""


def stated_names(segmentation: DicomHeader) -> dict[int, str]:
    """Return what a segmentation calls each segment number; one without a label by its number.

    The background of label maps is left out.
    """
    names = {}
    for segment in segmentation.data.get("SegmentSequence") or []:
        number = int(segment.get("SegmentNumber") or 0)
        if number:
            label = " ".join(str(segment.get("SegmentLabel") or "").split())
            names[number] = unicodedata.normalize("NFC", label) or f"segment {number}"
    return names


def segment_names(segmentations: Sequence[DicomHeader]) -> list[dict[int, str]]:
    """Return, for each segmentation of one series, a name of its own for each segment number.

    Of several with one name, in one object or in two, the second is called ``NAME 2`` and so on:
    they may be two lesions, or the work of two readers.
    """
    used: set[str] = set()
    out = []
    for header in segmentations:
        names = {}
        for number, stated in stated_names(header).items():
            name, count = stated, 1
            while name in used:
                count += 1
                name = f"{stated} {count}"
            used.add(name)
            names[number] = name
        out.append(names)
    return out


def referenced_series(segmentation: DicomHeader) -> set[str]:
    """Return the SeriesInstanceUIDs that a segmentation says it was drawn on."""
    references = segmentation.data.get("ReferencedSeriesSequence") or []
    return {str(r.SeriesInstanceUID) for r in references if "SeriesInstanceUID" in r}


def paint_segmentations(
    segmentations: Sequence[DicomHeader],
    series: Series,
    values: Mapping[str, int],
    *,
    ordered: bool,
) -> np.ndarray:
    """Return the label map ``(columns, rows, slices)`` of all segments named in ``values``.

    Args:
        segmentations: DICOM-SEG files of this series.
        series: the image.
        values: label value by segment name.
        ordered: where segments overlap the one named later in ``values`` wins; otherwise overlap
            is an error.

    Raises:
        MedSSLError: a segmentation is off the grid, is a probability map, or segments overlap.
    """
    voxels: dict[str, list[np.ndarray]] = {name: [] for name in values}
    for header, names in zip(segmentations, segment_names(segmentations), strict=True):
        for name, index in _segment_voxels(header, names, series):
            if name in voxels:
                voxels[name].append(index)
    label = np.zeros(series.shape, np.uint8 if max(values.values(), default=0) < 256 else np.uint16)
    for name, parts in voxels.items():
        where: tuple[Any, ...] = tuple(np.concatenate(parts, axis=1)) if parts else ((), (), ())
        taken = label[where][label[where] > 0]
        if taken.size and not ordered:
            other = next(n for n, v in values.items() if v == taken[0])
            raise MedSSLError(
                f"segments '{other}' and '{name}' overlap in {taken.size} voxels",
                where=segmentations[0].path,
                fix="name them in order, --option labels=1:NAME,2:NAME; the later one wins",
            )
        label[where] = values[name]
    return label


def _segment_voxels(
    header: DicomHeader, names: Mapping[int, str], series: Series
) -> list[tuple[str, np.ndarray]]:
    """Return, frame by frame, a segment's name and its voxels' indices ``(3, N)``."""
    data = read_dicom(header.path, EXTRA)
    kind = str(data.get("SegmentationType", "BINARY"))
    if kind not in ("BINARY", "LABELMAP"):
        raise MedSSLError(
            f"the segmentation is of type {kind}: probabilities, not labels",
            where=header.path,
            fix="export it as a binary segmentation",
        )
    try:
        frames = np.atleast_3d(pixel_array(data, header.path))
        frames = frames.reshape(int(data.NumberOfFrames), data.Rows, data.Columns)
        positions = frame_values(data, "PlanePositionSequence", "ImagePositionPatient")
        directions = frame_values(data, "PlaneOrientationSequence", "ImageOrientationPatient")
        spacings = frame_values(data, "PixelMeasuresSequence", "PixelSpacing")
        numbers = np.zeros(len(frames), int)
        if kind == "BINARY":
            macro, key = "SegmentIdentificationSequence", "ReferencedSegmentNumber"
            numbers = frame_values(data, macro, key).astype(int)
    except MedSSLError:
        raise
    except Exception as error:  # pydicom and its decoders raise many kinds
        raise MedSSLError(
            f"the segmentation cannot be read ({type(error).__name__}: {error})",
            where=header.path,
            fix="export it again, uncompressed, or remove it",
        ) from error
    out = []
    for frame, position, direction, spacing, number in zip(
        frames, positions, directions, spacings, numbers, strict=True
    ):
        for value in np.unique(frame[frame > 0]):
            j, i = np.nonzero(frame == value)
            segment = int(number if kind == "BINARY" else value)
            if segment not in names:
                raise MedSSLError(
                    f"a frame belongs to segment {segment}, which the file does not describe",
                    where=header.path,
                    fix="export the segmentation again, or remove it",
                )
            index = _on_grid(i, j, position, direction, spacing, series, header.path)
            out.append((names[segment], index))
    return out


def _on_grid(
    i: np.ndarray,
    j: np.ndarray,
    position: np.ndarray,
    direction: np.ndarray,
    spacing: np.ndarray,
    series: Series,
    path: Path,
) -> np.ndarray:
    """Return the image's voxels at columns ``i`` and rows ``j`` of a segmentation's frame."""
    plane = np.stack([direction[:3] * spacing[1], direction[3:] * spacing[0], position], axis=1)
    to_voxel = np.linalg.inv(LPS @ series.affine)
    exact = to_voxel[:3, :3] @ plane @ np.stack([i, j, np.ones_like(i)]) + to_voxel[:3, 3:]
    index = np.rint(exact).astype(int)
    apart = float(np.abs(exact - index).max())
    steps = to_voxel[:3, :3] @ plane[:, :2]
    apart = max(apart, float(np.abs(steps - np.rint(steps)).max() * max(series.shape)))
    image = describe_series(series.headers[0])
    if apart > TOLERANCE:
        raise MedSSLError(
            f"the segmentation lies {apart:.2g} voxels off the grid of {image}",
            where=path,
            fix="resample the segmentation to the image's grid in the program that wrote it",
        )
    if index.min() < 0 or (index >= np.array(series.shape)[:, None]).any():
        raise MedSSLError(
            f"the segmentation reaches outside {image}",
            where=path,
            fix="look for missing slices of the series, or crop the segmentation to it",
        )
    return index


def label_files(series: Series, source: Path) -> list[Path]:
    """Return the image files in the nearest folder, from the slices' own upward, that has any."""
    folder = series.folder
    root = source if source.is_dir() else source.parent
    while True:
        files = list_images(folder)
        if files or folder == root or folder == folder.parent:
            return files
        folder = folder.parent


def fits(path: Path, series: Series) -> bool:
    """Tell whether an image file lies on the grid of a series, perhaps stored in another order.

    Programs that convert DICOM often flip rows or slices and adapt the header.

    Raises:
        MedSSLError: it cannot be read.
    """
    header = read_header(path)
    own, onto = (header.shape, header.affine), (series.shape, series.affine)
    return header.channels == 1 and turn_onto(own, onto) is not None


def read_series_label(path: Path, series: Series) -> np.ndarray:
    """Read a label file that :func:`fits`, on the grid of its series.

    Raises:
        MedSSLError: it is damaged.
    """
    volume = read_image(path)
    turn = turn_onto(volume.grid, (series.shape, series.affine))
    return orientations.apply_orientation(volume.values(), turn)
