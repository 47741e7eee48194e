"""Write a prediction as a DICOM Segmentation object that refers to the series it was made from.

One binary segment per structure (DICOM PS3.3, A.51 and C.8.20); those of regions may overlap.
highdicom copies patient and study from the source, as the standard asks: the file identifies the
patient just as the images do.
"""

from __future__ import annotations

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

EXTRA = "dicom-seg"
SERIES_NUMBER = 1000
"""High enough not to be mistaken for one of the scanner's."""

# Elements that must be there but may be empty (type 2); anonymizers often delete them.
_MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)
# How a segmentation says which images it belongs to, and where it lies.
_REFERENCES = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"),
    "FrameOfReferenceUID",
)
_NOT_ABNORMAL = ("Background", "Normal")
_SYNONYMS = {"tumor": "neoplasm", "tumour": "neoplasm"}


def check_names(labels: LabelMap) -> None:
    """Refuse names of structures that DICOM cannot hold (PS3.5, value representation LO).

    Raises:
        MedSSLError: a name is too long or has a backslash.
    """
    for name in (structure.name for structure in labels.structures):
        if len(name) > 64 or "\\" in name:
            raise MedSSLError(
                f"DICOM cannot hold the structure name '{name}'",
                where="--format dicom-seg, --rtstruct",
                fix="rename it in dataset.json to at most 64 characters without a backslash, and "
                "train again; or choose another --format",
            )


def check_dicom_seg(series: Series, labels: LabelMap) -> None:
    """Try whether a segmentation of this series can be made, before one is predicted.

    Raises:
        MedSSLError: the series lacks what DICOM-SEG needs; says what.
    """
    _segmentation(series, np.zeros((*series.shape[:2], 0), np.uint8), labels)


def write_dicom_seg(values: np.ndarray, path: Path, *, series: Series, labels: LabelMap) -> Path:
    """Write label values on the grid of their series, whole or not at all.

    Segments are numbered in the order of the dataset's structures, label values stand in their
    descriptions. Frames without any voxel are left out. A prediction that is background everywhere
    is written too, with one empty frame per structure: it says that nothing was found.

    Args:
        values: label values ``(columns, rows, slices)``.
        path: ``.dcm``.
        series: the series that was segmented; its files are read for patient, study and geometry.
        labels: names and values of the structures.

    Returns:
        The path.

    Raises:
        MedSSLError: the shape is not the series', the series lacks what DICOM-SEG needs, or the
            disk refuses.
    """
    if values.shape != series.shape:
        raise MedSSLError(
            f"a map of shape {values.shape} does not fit a series of shape {series.shape}",
            where=path,
            fix="predict this series again; its files may have changed since",
        )
    segmentation = _segmentation(series, values, labels)
    write_atomically(path, path.suffix, segmentation.save_as)
    return path


def _frames(values: np.ndarray, labels: LabelMap) -> np.ndarray:
    """Return the number of the segment at each place, or of regions a mask per segment.

    Args:
        values: label values ``(columns, rows, slices)``.

    Returns:
        uint8 ``(slices, rows, columns)`` or ``(slices, rows, columns, segments)``.
    """
    values = values.transpose(2, 1, 0)  # DICOM counts rows first
    if labels.regions:
        return np.stack([r.mask(values) for r in labels.regions], axis=-1).astype(np.uint8)
    number = np.zeros(max(labels.values) + 1, np.uint8)
    number[list(labels.values)] = np.arange(labels.num_classes)
    return number[values]


def _segmentation(series: Series, values: np.ndarray, labels: LabelMap) -> Any:
    """Return the object for values ``(columns, rows, slices)``; nothing at all may be there."""
    hd = optional_module("highdicom", EXTRA)
    place: dict[str, Any] = {}
    frames = _frames(values, labels)
    if frames.any():
        if series.frames:  # of a multi-frame source, in its own order
            frames = frames[np.argsort(series.frames)]
    else:
        frames = np.zeros((1, *frames.shape[1:]), np.uint8)
        corner = (LPS @ series.affine)[:3, 3].tolist()
        place = {"plane_positions": [hd.PlanePositionSequence("PATIENT", corner)]}
    try:
        return hd.seg.Segmentation(
            source_images=_sources(series),
            pixel_array=np.ascontiguousarray(frames),
            segmentation_type="BINARY",
            segment_descriptions=_descriptions(hd, labels),
            series_instance_uid=hd.UID(),
            series_number=SERIES_NUMBER,
            series_description="medssl segmentation",
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="medssl",
            manufacturer_model_name="medssl",
            software_versions=__version__,
            device_serial_number="none",
            content_description="automatic segmentation, not reviewed",
            omit_empty_frames=not place,
            **place,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise MedSSLError(
            f"no DICOM-SEG can be made of {describe_series(series.headers[0])}: {reason}",
            where=series.headers[0].path,
            fix="mend this element, or choose another --format, such as nii.gz",
        ) from error


def _sources(series: Series) -> list[Any]:
    """Read the source's elements without its pixels, and add empty ones where DICOM allows it."""
    sources = [read_dicom(h.path, EXTRA, stop_before_pixels=True) for h in series.headers]
    gap = float(np.linalg.norm(series.affine[:3, 2]))
    for data in sources:
        missing = [keyword for keyword in _REFERENCES if not data.get(keyword)]
        if missing:
            raise MedSSLError(
                f"{describe_series(series.headers[0])} has no {', '.join(missing)}: a "
                "segmentation could not refer to it",
                where=data.filename,
                fix="export the series with its UIDs, or choose another --format, such as nii.gz",
            )
        if series.frames:
            _share_geometry(data)
        for keyword in _MAY_BE_EMPTY:
            if keyword not in data:
                setattr(data, keyword, "")
        if not series.frames:
            # highdicom compares exactly; find_series has made sure that they agree.
            data.ImageOrientationPatient = sources[0].ImageOrientationPatient
            data.SliceThickness = data.get("SliceThickness") or gap
    return sources


def _share_geometry(data: Any) -> None:
    """Say of all frames what each says of itself: highdicom looks only there.

    `find_series` has made sure that they agree.
    """
    shared, frames = (
        data.get(f"{kind}FunctionalGroupsSequence") for kind in ("Shared", "PerFrame")
    )
    for macro in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
        if shared and frames and macro in frames[0] and macro not in shared[0]:
            setattr(shared[0], macro, frames[0][macro].value)
            for frame in frames:
                del frame[macro]


def _descriptions(hd: Any, labels: LabelMap) -> list[Any]:
    codes = optional_module("pydicom.sr.codedict", EXTRA).codes
    algorithm = hd.AlgorithmIdentificationSequence(
        name="medssl", version=__version__, family=codes.DCM.ArtificialIntelligence
    )
    described = []
    for number, structure in enumerate(labels.structures, start=1):
        category, kind = _concepts(structure.name, hd, codes)
        segment = hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=structure.name,
            segmented_property_category=category,
            segmented_property_type=kind,
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
        )
        segment.SegmentDescription = f"label value {structure.label}"
        described.append(segment)
    return described


def _concepts(name: str, hd: Any, codes: Any) -> tuple[Any, Any]:
    """Return category and type of a structure: SNOMED CT's own for names DICOM lists, else general.

    The lists are those of PS3.16: CID 7192, anatomical structures, and CID 7194, morphologically
    abnormal ones.
    """
    wanted = "".join(c for c in name.lower() if c.isalnum())
    wanted = _SYNONYMS.get(wanted, wanted)
    for group, category in (
        (codes.cid7192, codes.SCT.AnatomicalStructure),
        (codes.cid7194, codes.SCT.MorphologicallyAbnormalStructure),
    ):
        for keyword in group.dir():
            if keyword.lower() == wanted and keyword not in _NOT_ABNORMAL:
                code = getattr(group, keyword)
                if code.scheme_designator == "SCT":
                    return category, code
    return codes.SCT.AnatomicalStructure, hd.sr.CodedConcept("123037004", "SCT", "Body structure")
