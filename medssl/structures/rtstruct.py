"""Write a label map as a DICOM RT Structure Set that refers to the series it was made from.

One ROI per structure, its closed planar contours on the slices of the series (DICOM PS3.3, A.19 and
C.8.8.5 to C.8.8.8). Like DICOM-SEG it names patient and study as the images do.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from medssl._version import __version__
from medssl.data.datasets.case import LabelMap
from medssl.data.dicom.files import read_dicom
from medssl.data.dicom.series import Series, describe_series
from medssl.data.images.geometry import LPS
from medssl.data.images.write import write_atomically
from medssl.errors import MedSSLError
from medssl.optional import optional_module
from medssl.structures.contours import polygons_of

EXTRA = "outputs"
SOP_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"
STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
"""SOP classes RT Structure Set Storage, and that by which it refers to a study."""
SERIES_NUMBER = 1001
_COPIED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"),
    *("AccessionNumber", "ReferringPhysicianName", "StudyID"),
)
"""Elements of patient and study that must be there but may be empty (type 2)."""
_REFERENCES = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"),
    "FrameOfReferenceUID",
)
_COLORS = ((230, 60, 50), (60, 130, 220), (80, 180, 80), (240, 170, 40), (150, 90, 190))


def check_rtstruct(series: Series) -> None:
    """Say before anything is predicted whether contours can refer to a series.

    Raises:
        MedSSLError: elements are missing; says which.
    """
    _source(series)


def write_rtstruct(values: np.ndarray, path: Path, *, series: Series, labels: LabelMap) -> Path:
    """Write the structures of a label map as contours, whole or not at all.

    ROIs are numbered in the order of the dataset's structures. One that was not found is an ROI
    without contours.

    Args:
        values: label values ``(columns, rows, slices)``.
        path: ``.dcm``.
        series: the series that was segmented; its files are read for patient and study.
        labels: names and values of the structures.

    Raises:
        MedSSLError: the shape is not the series', the series lacks what is referred to, a package
            is missing, or the disk refuses.
    """
    if values.shape != series.shape:
        raise MedSSLError(
            f"a map of shape {values.shape} does not fit a series of shape {series.shape}",
            where=path,
            fix="predict this series again; its files may have changed since",
        )
    source = _source(series)
    data = _structure_set(source, series, labels)
    images = list(_image_references(series))
    for number, structure in enumerate(labels.structures, start=1):
        mask = structure.mask(values)
        contours = [
            _contour(polygon, index, series, images[index])
            for index in range(series.shape[2])
            for polygon in polygons_of(mask[:, :, index])
        ]
        roi = _item(
            ROIDisplayColor=list(_COLORS[(number - 1) % len(_COLORS)]),
            ReferencedROINumber=number,
        )
        if contours:
            for count, contour in enumerate(contours, start=1):
                contour.ContourNumber = count
            roi.ContourSequence = contours
        data.ROIContourSequence.append(roi)

    def save(temporary: str) -> None:
        data.save_as(temporary, enforce_file_format=True)

    write_atomically(path, path.suffix, save)
    return path


def _source(series: Series) -> Any:
    header = series.headers[0]
    data = read_dicom(header.path, EXTRA, stop_before_pixels=True)
    missing = [keyword for keyword in _REFERENCES if not data.get(keyword)]
    if missing:
        raise MedSSLError(
            f"{describe_series(header)} has no {', '.join(missing)}: contours could not refer to "
            "it",
            where=header.path,
            fix="export the series with its UIDs, or leave --rtstruct out",
        )
    return data


def _item(**elements: Any) -> Any:
    data = optional_module("pydicom", EXTRA).Dataset()
    for keyword, value in elements.items():
        setattr(data, keyword, value)
    return data


def _structure_set(source: Any, series: Series, labels: LabelMap) -> Any:
    """Return all of the object but its contours."""
    pydicom = optional_module("pydicom", EXTRA)
    now = datetime.datetime.now()
    instance = pydicom.uid.generate_uid(prefix=None)
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SOP_CLASS, instance
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    numbered = list(enumerate(labels.structures, start=1))
    frame = source.FrameOfReferenceUID
    data = _item(
        SpecificCharacterSet="ISO_IR 192",
        SOPClassUID=SOP_CLASS,
        SOPInstanceUID=instance,
        Modality="RTSTRUCT",
        StudyInstanceUID=source.StudyInstanceUID,
        SeriesInstanceUID=pydicom.uid.generate_uid(prefix=None),
        SeriesNumber=SERIES_NUMBER,
        SeriesDescription="medssl contours",
        InstanceNumber=1,
        OperatorsName="",
        Manufacturer="medssl",
        ManufacturerModelName="medssl",
        SoftwareVersions=__version__,
        FrameOfReferenceUID=frame,
        PositionReferenceIndicator="",
        StructureSetLabel="medssl",
        StructureSetDescription="automatic segmentation, not reviewed",
        StructureSetDate=now.strftime("%Y%m%d"),
        StructureSetTime=now.strftime("%H%M%S"),
        ReferencedFrameOfReferenceSequence=[_referenced(source, series)],
        StructureSetROISequence=[
            _item(
                ROINumber=number,
                ReferencedFrameOfReferenceUID=frame,
                ROIName=structure.name,
                ROIDescription=f"label value {structure.label}",
                ROIGenerationAlgorithm="AUTOMATIC",
            )
            for number, structure in numbered
        ],
        ROIContourSequence=[],
        RTROIObservationsSequence=[
            _item(
                ObservationNumber=number,
                ReferencedROINumber=number,
                RTROIInterpretedType="",
                ROIInterpreter="",
            )
            for number, _ in numbered
        ],
        ApprovalStatus="UNAPPROVED",
    )
    for keyword in _COPIED:
        setattr(data, keyword, source.get(keyword, ""))
    data.file_meta = meta
    return data


def _referenced(source: Any, series: Series) -> Any:
    images = list(_image_references(series))
    if series.frames:
        images = [_item(**{k: getattr(images[0], k) for k in _IMAGE})]
    of_series = _item(SeriesInstanceUID=source.SeriesInstanceUID, ContourImageSequence=images)
    study = _item(
        ReferencedSOPClassUID=STUDY_CLASS,
        ReferencedSOPInstanceUID=source.StudyInstanceUID,
        RTReferencedSeriesSequence=[of_series],
    )
    return _item(FrameOfReferenceUID=source.FrameOfReferenceUID, RTReferencedStudySequence=[study])


_IMAGE = ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID")


def _image_references(series: Series) -> Iterator[Any]:
    """Yield what refers to the image of each slice: a file, or a frame of one."""
    for index in range(series.shape[2]):
        header = series.headers[0 if series.frames else index].data
        uids = (header.SOPClassUID, header.SOPInstanceUID)
        item = _item(**dict(zip(_IMAGE, uids, strict=True)))
        if series.frames:
            item.ReferencedFrameNumber = series.frames[index] + 1
        yield item


def _contour(polygon: np.ndarray, index: int, series: Series, image: Any) -> Any:
    points = np.ones((len(polygon), 4))
    points[:, :2], points[:, 2] = polygon, index
    world = (points @ (LPS @ series.affine).T)[:, :3]
    return _item(
        ContourImageSequence=[image],
        ContourGeometricType="CLOSED_PLANAR",
        NumberOfContourPoints=len(polygon),
        ContourData=[f"{value:.6f}"[:16] for value in world.ravel()],
    )
