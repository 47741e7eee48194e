"""Import DICOM series: volumes placed by their slices' positions, labels from DICOM-SEG or files.

Nothing that names a person or a day is written: patients become ``p001``, ``p002``, ... in the
order of the source's folders, and the provenance holds hashes of the files but no file names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field

from medssl.data.dicom.pixels import read_series
from medssl.data.dicom.series import EXTRA, DicomHeader, Series, describe_series, find_series
from medssl.data.images.names import same_name
from medssl.data.importers.dicom_labels import (
    fits,
    label_files,
    paint_segmentations,
    read_series_label,
    referenced_series,
    segment_names,
    stated_names,
)
from medssl.data.importers.importer import (
    ImportedCase,
    Importer,
    ImportPlan,
    LabelNames,
    register,
)
from medssl.data.importers.partners import LABEL_WORDS
from medssl.data.importers.pseudonyms import PatientSettings
from medssl.data.importers.segments import values_by_name
from medssl.errors import MedSSLError

MODALITIES = {"MR": "MRI", "PT": "PET"}
"""DICOM's codes where the Decathlon uses another word."""

_LABEL_NAME = re.compile("|".join(LABEL_WORDS), re.IGNORECASE)


class DicomSettings(PatientSettings):
    """Options of the format ``dicom``."""

    series: str | None = Field(
        None,
        description="import only series whose description matches this regular expression, or "
        "whose number it is",
    )
    modality: str | None = Field(None, description="import only this modality, such as CT or MR")
    min_slices: int = Field(5, ge=2, description="leave out series with fewer slices (scouts)")
    labels: LabelNames | None = Field(
        None,
        description="VALUE:NAME pairs: values of the named segments of DICOM-SEG objects (the "
        "later wins where two overlap), or names of the values in label files",
    )


@dataclass(frozen=True)
class _Labels:
    """Where a series' label comes from: segmentations, or one image file, or neither."""

    segmentations: tuple[DicomHeader, ...] = ()
    file: Path | None = None


@register("dicom")
class DicomImporter(Importer):
    """Import DICOM series."""

    summary = "folders of DICOM series; labels from DICOM-SEG, or NIfTI beside the slices"
    extra = EXTRA
    Settings = DicomSettings

    def plan(self, source: Path, settings: DicomSettings) -> ImportPlan:
        """Read all headers, group them into volumes, and say what was left out and why."""
        found = find_series(source, min_slices=settings.min_slices)
        notes = list(found.notes)
        series = _chosen(found.series, settings)
        if not series:
            raise _nothing(source, found.series, notes)
        modality = _one_modality(series, source)
        labels = _match_labels(series, found.segmentations, source, notes)
        values = _segment_values(labels, settings, source)
        notes += _repeated_names(labels)
        if len(series) > 1:
            notes.append(f"{len(series)} series, each a case of its own")
        ids = _case_ids(series, settings)
        cases = [
            _reader(one, origin, values, case_id, patient, settings)
            for one, origin, (case_id, patient) in zip(series, labels, ids, strict=True)
        ]
        names = settings.labels or ({v: n for n, v in values.items()} if values else None)
        return ImportPlan(
            "DICOM",
            (MODALITIES.get(modality, modality),),
            names,
            cases,
            notes=tuple(notes),
            anonymous=not settings.keep_patient_id,
        )


def _chosen(series: Sequence[Series], settings: DicomSettings) -> list[Series]:
    try:
        pattern = re.compile(settings.series or "", re.IGNORECASE)
    except re.error as error:
        raise MedSSLError(
            f"{settings.series!r} is not a regular expression: {error}",
            where="--option series",
            fix="give a part of the series description, or the series number",
        ) from error
    return [
        one
        for one in series
        if (settings.modality or one.text("Modality")).upper() == one.text("Modality").upper()
        and (
            settings.series is None
            or settings.series == one.text("SeriesNumber")
            or pattern.search(one.text("SeriesDescription"))
        )
    ]


def _nothing(source: Path, series: Sequence[Series], notes: Sequence[str]) -> MedSSLError:
    if series:
        there = ", ".join(
            f"{describe_series(s.headers[0])} ({s.text('Modality')})" for s in series[:4]
        )
        return MedSSLError(
            f"none of the {len(series)} series is the one asked for; there are: {there}",
            where=source,
            fix="correct --option series or --option modality",
        )
    return MedSSLError(
        "no DICOM series here can become a volume" + "".join(f"\n  {n}" for n in notes[:3]),
        where=source,
        fix="check the folder; --option min_slices=2 lets short series in",
    )


def _one_modality(series: Sequence[Series], source: Path) -> str:
    counts = Counter(s.text("Modality") or "unknown" for s in series)
    if len(counts) > 1:
        listed = ", ".join(f"{n} {name}" for name, n in counts.most_common())
        raise MedSSLError(
            f"the series are of different modalities: {listed}",
            where=source,
            fix=f"choose one, for instance --option modality={counts.most_common(1)[0][0]}",
        )
    return next(iter(counts))


def _case_ids(series: Sequence[Series], settings: DicomSettings) -> list[tuple[str, str]]:
    """Return the case id and the patient of each series."""
    numbers: Counter[str] = Counter()
    out = []
    for one in series:
        study = one.text("StudyInstanceUID") or str(one.folder)
        patient = settings.patient(one.text("PatientID"), otherwise=study)
        numbers[patient] += 1
        out.append((f"{patient}_s{numbers[patient]:02d}", patient))
    return out


def _match_labels(
    series: Sequence[Series], segmentations: Sequence[DicomHeader], source: Path, notes: list[str]
) -> list[_Labels]:
    by_series: dict[int, list[DicomHeader]] = {n: [] for n in range(len(series))}
    for header in segmentations:
        uids, frame = referenced_series(header), header.text("FrameOfReferenceUID")
        owners = [n for n, s in enumerate(series) if s.text("SeriesInstanceUID") in uids]
        # Anonymizers give the series of every patient one UID, and of two with the same one the
        # other may be left out.
        patient = header.text("PatientID")
        stated = [n for n in owners if patient and series[n].text("PatientID")]
        if len(owners) > 1 or stated:
            owners = [n for n in owners if series[n].text("PatientID") == patient]
        if stated and not owners:
            notes.append(
                f"segmentation {header.path.name} names a series of another patient (PatientID): "
                "left out"
            )
            continue
        if not owners and not uids and frame:
            owners = [n for n, s in enumerate(series) if s.text("FrameOfReferenceUID") == frame]
        if len(owners) == 1:
            by_series[owners[0]].append(header)
        else:
            which = "several series" if owners else "no series that is imported"
            notes.append(f"segmentation {header.path.name} belongs to {which}: left out")
    out = []
    for n, one in enumerate(series):
        if by_series[n]:
            out.append(_Labels(tuple(by_series[n])))
            continue
        files = label_files(one, source)
        fitting = [p for p in files if fits(p, one)]
        if len(fitting) > 1:
            # A converted copy of the image often lies beside its label.
            fitting = [p for p in fitting if _LABEL_NAME.search(p.name)] or fitting
        if len(fitting) > 1:
            raise MedSSLError(
                f"{len(fitting)} files could be the label of {describe_series(one.headers[0])}: "
                + ", ".join(p.name for p in fitting[:4]),
                where=fitting[0].parent,
                fix="leave one of them there",
            )
        if files and not fitting:
            notes.append(
                f"no file in folder {files[0].parent.name} lies on the grid of "
                f"{describe_series(one.headers[0])}: it stays unlabeled"
            )
        out.append(_Labels(file=fitting[0] if fitting else None))
    return out


def _segment_values(
    labels: Sequence[_Labels], settings: DicomSettings, source: Path
) -> dict[str, int]:
    """Give every segment name a label value: as asked for, or by alphabet."""
    names = sorted(
        {name for one in labels for n in segment_names(one.segmentations) for name in n.values()}
    )
    return values_by_name(
        names,
        settings.labels,
        whole=source if any(one.file for one in labels) else None,
        unknown="no segmentation has a segment named",
        mixed="some series have DICOM-SEG labels and others label files",
    )


def _repeated_names(labels: Sequence[_Labels]) -> list[str]:
    """Say which segments were told apart, and which are called nearly alike."""
    notes = []
    spellings: dict[str, str] = {}
    for one in labels:
        stated = [n for header in one.segmentations for n in stated_names(header).values()]
        for name, count in Counter(stated).items():
            if count > 1:
                notes.append(
                    f"{count} segments of one series are called '{name}': they are told apart as "
                    f"'{name}', '{name} 2', ..."
                )
            other = spellings.setdefault(same_name(name), name)
            if other != name:
                notes.append(f"the segments '{other}' and '{name}' are taken for two structures")
    return list(dict.fromkeys(notes))


def _reader(
    series: Series,
    labels: _Labels,
    values: Mapping[str, int],
    case_id: str,
    patient: str,
    settings: DicomSettings,
) -> Callable[[], ImportedCase]:
    def read() -> ImportedCase:
        image = read_series(series)
        label: np.ndarray | None = None
        warnings: tuple[str, ...] = ()
        sources = [h.path for h in series.headers]
        if labels.segmentations:
            ordered = settings.labels is not None
            label = paint_segmentations(labels.segmentations, series, values, ordered=ordered)
            sources += [h.path for h in labels.segmentations]
        elif labels.file is not None:
            label = read_series_label(labels.file, series)
            if np.array_equal(label, image):
                label = None
                warnings = (f"{labels.file.name} is the image itself, not its label",)
            sources.append(labels.file)
        meta = {"series_number": series.text("SeriesNumber")}
        if settings.keep_patient_id:
            meta["series"] = series.text("SeriesDescription")
        return ImportedCase(
            case_id,
            image,
            series.affine,
            label,
            patient=patient,
            meta={k: v for k, v in meta.items() if v},
            sources=tuple(sources),
            warnings=warnings,
        )

    return read
