"""Find the image series in a tree of DICOM files, and work out where their voxels are."""

from __future__ import annotations

import filecmp
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medssl.data.dicom.files import read_dicom
from medssl.data.dicom.geometry import UnusableError, frame_grid, slice_grid
from medssl.data.images.names import is_file
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

_PLACE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")

SCOUTS = 0.25
"""Images of another orientation are scouts of a series if there are fewer, as a share of it."""

_OTHER_PIXELS: dict[str, Callable[[DicomHeader], bool]] = {
    "its images are in color": lambda h: h.data.get("SamplesPerPixel", 1) != 1,
    "its gray scale is inverted (MONOCHROME1)": lambda h: (
        h.text("PhotometricInterpretation") == "MONOCHROME1"
    ),
}

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""SOP classes Segmentation Storage and Label Map Segmentation Storage."""


@dataclass(frozen=True)
class DicomHeader:
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
        note: what had to be assumed of where it lies; empty for most.
    """

    headers: tuple[DicomHeader, ...]
    affine: np.ndarray
    shape: tuple[int, int, int]
    frames: tuple[int, ...] = ()
    note: str = ""

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
    segmentations: list[DicomHeader]
    notes: list[str]


class _Tree:
    """Files sorted into series as they are found."""

    def __init__(self) -> None:
        self.groups: dict[tuple[str, ...], list[DicomHeader]] = defaultdict(list)
        self.segmentations: list[DicomHeader] = []
        self.copies = self.other = self.reused = 0
        self.misnamed: list[Path] = []
        self.closed: list[Path] = []
        self._seen: dict[str, list[DicomHeader]] = defaultdict(list)

    def add(self, header: DicomHeader) -> None:
        """Take a file, unless it is a copy of one that was taken."""
        twins = self._seen[header.text("SOPInstanceUID") or str(header.path)]
        if any(_is_copy(header, twin) for twin in twins):
            self.copies += 1
            return
        twins.append(header)
        self.reused += len(twins) > 1
        if header.text("SOPClassUID") in SEGMENTATIONS:
            self.segmentations.append(header)
        elif header.data.get("Rows"):
            # Without a series UID the folder has to tell which slices belong together.
            series = header.text("SeriesInstanceUID") or str(header.path.parent)
            uids = header.text("StudyInstanceUID"), series
            self.groups[header.text("PatientID"), *uids].append(header)
        else:
            self.other += 1

    def notes(self) -> list[str]:
        """Say what was left out."""
        counts = {
            "files are copies of others (same SOPInstanceUID and content) and were ignored": (
                self.copies
            ),
            "files have the SOPInstanceUID of another image or patient: each is taken for itself": (
                self.reused
            ),
            "DICOM files hold no image (reports, contours, plans)": self.other,
        }
        lists = {
            "files are called DICOM but are not": self.misnamed,
            "files cannot be opened, or are links that lead nowhere": self.closed,
        }
        notes = [f"{n} {what}" for what, n in counts.items() if n]
        return notes + [f"{len(p)} {w} (first: {p[0].name})" for w, p in lists.items() if p]


def find_series(source: Path, *, min_slices: int) -> Found:
    """Read the headers of all files below ``source`` and group them into volumes.

    Args:
        source: a folder, or one file.
        min_slices: series with fewer slices are left out (localizers).
    """
    pydicom = optional_module("pydicom", EXTRA)
    tree = _Tree()
    for path in looking_at(dicom_candidates(source), "reading DICOM headers"):
        try:
            data = read_dicom(path, EXTRA, stop_before_pixels=True, specific_tags=TAGS)
        except OSError:
            tree.closed.append(path)
            continue
        except pydicom.errors.InvalidDicomError:
            if path.suffix.lower() in (".dcm", ".dicom", ".ima"):
                tree.misnamed.append(path)
            continue
        tree.add(DicomHeader(path, data))
    found, notes = [], tree.notes()
    for headers in (one for group in tree.groups.values() for one in _apart(group)):
        try:
            series, strays = _build(headers, min_slices)
        except UnusableError as error:
            notes.append(f"left out {describe_series(headers[0])}: {error}")
            continue
        found.append(series)
        if strays:
            notes.append(
                f"left out {strays} of the {len(headers)} images of "
                f"{describe_series(headers[0])}: scouts, or of another size or orientation"
            )
        if series.note:
            notes.append(f"{describe_series(headers[0])}: {series.note}")
    return Found(found, tree.segmentations, notes)


def _apart(headers: list[DicomHeader]) -> list[list[DicomHeader]]:
    """Divide images of one patient and series where two have one UID.

    Some anonymizers give the files of every patient the same UIDs: then folders tell whose they
    are. Those of one folder cannot be told apart, see :func:`_build`.
    """
    if not _reuses(headers):
        return [headers]
    depth, parts = 0, [headers]
    while len(parts) == 1 and depth < max(len(h.path.parent.parts) for h in headers):
        depth += 1
        folders: dict[tuple[str, ...], list[DicomHeader]] = defaultdict(list)
        for header in headers:
            folders[header.path.parent.parts[:depth]].append(header)
        parts = list(folders.values())
    return parts if len(parts) == 1 else [one for part in parts for one in _apart(part)]


def _reuses(headers: list[DicomHeader]) -> bool:
    uids = [uid for h in headers if (uid := h.text("SOPInstanceUID"))]
    return len(set(uids)) < len(uids)


def _is_copy(header: DicomHeader, other: DicomHeader) -> bool:
    """Tell whether two files of one UID show one image of one patient in one place."""
    if filecmp.cmp(header.path, other.path, shallow=False):
        return True
    for keyword in ("PatientID", "ImagePositionPatient", "Rows", "Columns"):
        if header.data.get(keyword) != other.data.get(keyword):
            return False
    try:
        pixels = [read_dicom(h.path, EXTRA).get("PixelData") for h in (header, other)]
    except Exception:  # pydicom raises many kinds; reading the series will name the file
        return False
    return bool(pixels[0] == pixels[1])


def dicom_candidates(source: Path) -> list[Path]:
    """Return the files that may be DICOM: all but hidden ones and those of other known kinds."""
    if source.is_file():
        return [source]
    other = (".gz", ".nii", ".nrrd", ".mha", ".mhd", ".raw", ".json", ".txt", ".csv", ".png")
    return sorted(
        path
        for path in source.rglob("*")
        if is_file(path)
        and path.name != "DICOMDIR"
        and not path.name.lower().endswith(other)
        and not any(part.startswith(".") for part in path.relative_to(source).parts)
    )


def describe_series(header: DicomHeader) -> str:
    """Name a series for a message by what its own console calls it."""
    number = header.text("SeriesNumber")
    title = header.text("SeriesDescription")
    text = " ".join(v for v in ("series", number, f"'{title}'" if title else "") if v)
    return f"{text} in folder {header.path.parent.name}"


def _build(headers: list[DicomHeader], min_slices: int) -> tuple[Series, int]:
    """Make a volume of the images of a series; also count those that are none of its slices."""
    slices = [h for h in headers if "LOCALIZER" not in h.text("ImageType").upper()]
    if not slices:
        raise UnusableError("it is a localizer")
    slices = _gray(slices)
    if _reuses(slices):
        raise UnusableError(
            "several of its images have one SOPInstanceUID, perhaps of different patients: put "
            "each scan into a folder of its own"
        )
    first = slices[0]
    if first.text("Modality") in ("OPT", "OP"):
        raise UnusableError("it is an OCT or a photograph of the eye; use `medssl import oct`")
    if any((h.data.get("NumberOfFrames") or 1) > 1 for h in slices):
        if len(slices) > 1:
            raise UnusableError(f"it is {len(slices)} multi-frame files, not one volume")
        return _multi_frame(first, min_slices), len(headers) - 1
    kept = _largest_stack(slices, min_slices)
    if len(kept) < min_slices:
        raise UnusableError(f"it has {len(kept)} slices (min_slices is {min_slices})")
    positions = np.array([h.data.ImagePositionPatient for h in kept], float)
    data = kept[0].data
    order, affine = slice_grid(positions, data.ImageOrientationPatient, data.PixelSpacing)
    shape = (int(data.Columns), int(data.Rows), len(kept))
    return Series(tuple(kept[i] for i in order), affine, shape), len(headers) - len(kept)


def _gray(headers: list[DicomHeader]) -> list[DicomHeader]:
    """Return the images but for a few in color or of inverted gray, such as a dose report.

    Raises:
        UnusableError: these are not few.
    """
    for what, is_other in _OTHER_PIXELS.items():
        others = [h for h in headers if is_other(h)]
        if len(others) >= SCOUTS * len(headers):
            raise UnusableError(what)
        headers = [h for h in headers if not is_other(h)]
    return headers


def _largest_stack(headers: list[DicomHeader], min_slices: int) -> list[DicomHeader]:
    """Return the images of one size, spacing and orientation that make up a series.

    Raises:
        UnusableError: there are several such stacks, or most images do not say where they lie.
    """
    stacks: list[list[DicomHeader]] = []
    placeless: dict[str, int] = defaultdict(int)
    for header in headers:
        missing = next((key for key in _PLACE if not header.data.get(key)), None)
        if missing is not None:
            placeless[missing] += 1
            continue
        stack = next((s for s in stacks if _is_parallel(s[0].data, header.data)), None)
        if stack is None:
            stacks.append([header])
        else:
            stack.append(header)
    stacks.sort(key=len, reverse=True)
    most = len(stacks[0]) if stacks else 0
    few = max(min_slices, most * SCOUTS)
    if placeless and max(placeless.values()) >= min(few, max(most, 1)):
        key = max(placeless, key=lambda k: placeless[k])
        raise UnusableError(f"{placeless[key]} of its {len(headers)} files have no {key}")
    if len(stacks) > 1 and len(stacks[1]) >= few:
        sizes = {(s[0].data.Rows, s[0].data.Columns) for s in stacks}
        what = "sizes" if len(sizes) > 1 else "orientations or spacings"
        raise UnusableError(f"its images have different {what}: more than one volume")
    return stacks[0]


def _is_parallel(one: Any, other: Any) -> bool:
    sizes = (one.Rows, one.Columns) == (other.Rows, other.Columns)
    spacing, direction = (
        np.array([data[key].value for data in (one, other)], float)
        for key in ("PixelSpacing", "ImageOrientationPatient")
    )
    # Some writers round either of them in some slices only.
    alike = np.allclose(spacing[0], spacing[1], rtol=1e-4, atol=0)
    return bool(sizes and alike and np.abs(direction[0] - direction[1]).max() <= 1e-3)


def _multi_frame(header: DicomHeader, min_slices: int) -> Series:
    data = read_dicom(header.path, EXTRA, stop_before_pixels=True)
    count = int(data.NumberOfFrames)
    if count < min_slices:
        raise UnusableError(f"it has {count} frames (min_slices is {min_slices})")
    order, affine, note = frame_grid(data)
    shape = (int(data.Columns), int(data.Rows), count)
    return Series((header,), affine, shape, tuple(int(i) for i in order), note)
