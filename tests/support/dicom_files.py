"""Small DICOM series for tests, written element by element."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")

from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.sequence import Sequence as Items  # noqa: E402
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian  # noqa: E402

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
PATIENT = "Surname^Given"
PATIENT_ID = "MRN-4711"
DATE = "19560823"


def uid(*parts: object) -> str:
    """Return a valid UID that the parts determine."""
    return pydicom.uid.generate_uid(entropy_srcs=[str(p) for p in parts])


def header(sop_class: str, **elements: Any) -> Dataset:
    """Return a dataset with a patient, a study and a file header."""
    data = Dataset()
    data.SOPClassUID = sop_class
    data.PatientName, data.PatientID, data.PatientBirthDate = PATIENT, PATIENT_ID, DATE
    data.StudyDate = data.SeriesDate = data.ContentDate = DATE
    data.StudyTime = data.ContentTime = "101112"
    data.PatientSex, data.AccessionNumber, data.StudyID, data.ReferringPhysicianName = (
        "O",
        "",
        "",
        "",
    )
    data.StudyInstanceUID, data.FrameOfReferenceUID = uid("study"), uid("frame")
    data.PositionReferenceIndicator, data.Manufacturer = "", "none"
    data.Modality, data.SeriesNumber = "CT", 1
    data.SeriesInstanceUID, data.SOPInstanceUID = uid("series"), uid(sorted(elements.items()))
    for keyword, value in elements.items():
        setattr(data, keyword, value)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = sop_class
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    return data


def add_pixels(data: Dataset, stored: np.ndarray) -> None:
    """Add ``(rows, columns)`` or ``(frames, rows, columns)`` of 8 or 16 bits."""
    data.Rows, data.Columns = stored.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 8 * stored.dtype.itemsize
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(stored.dtype.kind == "i")
    data.PixelData = stored.tobytes()
    data["PixelData"].VR = "OW" if stored.dtype.itemsize > 1 else "OB"


def write_series(
    folder: Path,
    stored: np.ndarray,
    *,
    series: str = "a",
    orientation: Sequence[float] = AXIAL,
    origin: Sequence[float] = (-10.0, -20.0, 30.0),
    spacing: Sequence[float] = (0.8, 0.6),
    step: Sequence[float] | np.ndarray = (0.0, 0.0, 2.0),
    offsets: Sequence[float] | None = None,
    names: Sequence[str] | None = None,
    rescale: tuple[float, float] = (1.0, -1024.0),
    **elements: Any,
) -> list[Dataset]:
    """Write ``(slices, rows, columns)`` as one file per slice; slice k is at origin + k * step.

    Args:
        offsets: multiples of ``step`` instead of 0, 1, 2, ...
        names: file names; the default is the order of the slices.
    """
    folder.mkdir(parents=True, exist_ok=True)
    out = []
    for k, pixels in enumerate(stored):
        place = np.add(origin, np.multiply(step, k if offsets is None else offsets[k]))
        values = {
            "SOPInstanceUID": uid(series, k),
            "SeriesInstanceUID": uid(series),
            "SeriesDescription": f"series {series}",
            "InstanceNumber": len(stored) - k,
            "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
            "ImagePositionPatient": [round(float(v), 8) for v in place],
            "ImageOrientationPatient": [round(float(v), 10) for v in orientation],
            "PixelSpacing": list(spacing),
            "SliceThickness": 5.0,
            "RescaleSlope": rescale[0],
            "RescaleIntercept": rescale[1],
        }
        data = header(CTImageStorage, **values | elements)
        add_pixels(data, pixels)
        name = names[k] if names else f"{series}{k:03d}.dcm"
        data.save_as(folder / name, enforce_file_format=True)
        out.append(data)
    return out


def item(**elements: Any) -> Items:
    """Return a sequence of one item."""
    data = Dataset()
    for keyword, value in elements.items():
        setattr(data, keyword, value)
    return Items([data])


def frame_group(
    position: Sequence[float], orientation: Sequence[float] | None, spacing: Sequence[float] | None
) -> Dataset:
    """Return a frame's functional groups; None leaves a group to the shared ones."""
    group = Dataset()
    group.PlanePositionSequence = item(ImagePositionPatient=[float(v) for v in position])
    if orientation is not None:
        group.PlaneOrientationSequence = item(ImageOrientationPatient=list(orientation))
    if spacing is not None:
        group.PixelMeasuresSequence = item(PixelSpacing=list(spacing), SliceThickness=2.0)
    return group


def write_enhanced(
    path: Path, stored: np.ndarray, positions: np.ndarray, slopes: np.ndarray
) -> None:
    """Write a multi-frame CT with a slope of its own for each frame and shared plane groups."""
    data = header(EnhancedCTImageStorage, NumberOfFrames=len(stored))
    add_pixels(data, stored)
    shared = Dataset()
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=list(AXIAL))
    shared.PixelMeasuresSequence = item(PixelSpacing=[0.8, 0.6], SliceThickness=2.0)
    data.SharedFunctionalGroupsSequence = Items([shared])
    frames = []
    for position, slope in zip(positions, slopes, strict=True):
        group = frame_group(position, None, None)
        group.PixelValueTransformationSequence = item(
            RescaleSlope=float(slope), RescaleIntercept=-5.0, RescaleType="HU"
        )
        frames.append(group)
    data.PerFrameFunctionalGroupsSequence = Items(frames)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)


def write_segmentation(
    path: Path,
    images: list[Dataset],
    masks: Mapping[str, np.ndarray] | Sequence[tuple[str, np.ndarray]],
    kind: str = "BINARY",
) -> None:
    """Write a DICOM-SEG with highdicom, which leaves empty frames out.

    Args:
        masks: ``(slices, rows, columns)`` by name, or pairs where names are repeated.
    """
    hd = pytest.importorskip("highdicom")
    from pydicom.sr.codedict import codes

    pairs = list(masks.items()) if isinstance(masks, Mapping) else list(masks)
    described = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Liver,
            algorithm_type="MANUAL",
        )
        for number, (name, _) in enumerate(pairs, start=1)
    ]
    segmentation = hd.seg.Segmentation(
        source_images=images,
        pixel_array=np.stack([mask for _, mask in pairs], axis=-1),
        segmentation_type=kind,
        segment_descriptions=described,
        series_instance_uid=uid("seg"),
        series_number=9,
        sop_instance_uid=uid("seg", path),
        instance_number=1,
        manufacturer="none",
        manufacturer_model_name="none",
        software_versions="1",
        device_serial_number="1",
    )
    segmentation.save_as(path)
