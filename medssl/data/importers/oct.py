"""Import OCT volumes in micrometers: vendors' files, DICOM OPT, and the RETOUCH and Duke data.

Vendors' files name people; as in the format ``dicom``, patients become ``p001``, ``p002``, ... and
neither names nor dates are written. Boundaries that a device or a grader drew are kept beside the
image: ``sidecar/ID.npz`` with ``boundary_names``, ``boundaries_um (N, A-scan, B-scan)`` (depth
below the center of the first voxel) and, if known, ``positions_mm``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field

from medssl.data.dicom.series import dicom_candidates
from medssl.data.images.names import safe_id
from medssl.data.importers.importer import (
    ImportedCase,
    Importer,
    ImportPlan,
    Names,
    Positive,
    register,
)
from medssl.data.importers.oct_dicom import is_opt, read_opt
from medssl.data.importers.oct_heidelberg import (
    EXTRA,
    e2e_series,
    read_e2e,
    read_vol,
    require_e2e_spacing,
    vol_pattern,
)
from medssl.data.importers.oct_raw import read_bioptigen, read_zeiss, zeiss_size
from medssl.data.importers.oct_scan import (
    IGNORE,
    OctScan,
    layer_labels,
    layer_names,
    nominal_affine,
    three,
)
from medssl.data.importers.oct_sets import (
    DUKE_BOUNDARIES,
    RETOUCH_LABELS,
    read_duke,
    read_retouch,
)
from medssl.data.importers.oct_topcon import read_fda
from medssl.data.importers.pseudonyms import PatientSettings, known_patient
from medssl.errors import MedSSLError
from medssl.progress import looking_at

SETS = ("retouch", "duke")
"""Kinds of source that bring labels, and ids that name nobody."""


def _split_sizes(value: Any) -> Any:
    return value.replace("x", ",").split(",") if isinstance(value, str) else value


class OctSettings(PatientSettings):
    """Options of the format ``oct``."""

    lateral_um: Positive | None = Field(None, description="distance of A-scans; none: the file's")
    bscan_um: Positive | None = Field(None, description="distance of B-scans; none: the file's")
    axial_um: Positive | None = Field(None, description="depth of a voxel; none: the file's")
    first_bscan: Literal["inferior", "superior"] | None = Field(
        None, description="which B-scan comes first; none: what the device is known to do"
    )
    size: Annotated[tuple[int, int, int], BeforeValidator(_split_sizes)] | None = Field(
        None, description="A-scans, B-scans and depth of Zeiss .img files of another size"
    )
    layers: Names | None = Field(
        None, description="boundaries of vendors' files, from the top down, to make a label of"
    )
    target: Literal["fluid", "layers"] = Field("fluid", description="Duke: which annotation")
    grader: Literal[1, 2] = Field(1, description="Duke: whose annotation")


@dataclass(frozen=True)
class _Task:
    """One volume to read."""

    kind: str
    path: Path
    read: Callable[[], OctScan]
    test: bool = False


@dataclass
class _Names:
    """Gives ids to scans in the order they are read."""

    settings: OctSettings
    numbers: Counter[str] = field(default_factory=Counter)

    def of(self, scan: OctScan, path: Path) -> tuple[str, str]:
        """Return the case id and the patient."""
        if scan.group:
            return safe_id(scan.group), safe_id(scan.group)
        if self.settings.keep_patient_id:
            patient = safe_id(known_patient(scan.patient, otherwise=path.stem))
        else:
            patient = self.settings.patient(scan.patient, otherwise=path.stem)
        stem = f"{patient}_{scan.laterality.lower()}" if scan.laterality else patient
        self.numbers[stem] += 1
        return f"{stem}_{self.numbers[stem]:02d}", patient


@register("oct")
class OctImporter(Importer):
    """Import OCT volumes."""

    summary = "OCT: .vol, .e2e, .fda, .img, Bioptigen .OCT, DICOM OPT, RETOUCH, Duke DME"
    extra = EXTRA
    Settings = OctSettings

    def plan(self, source: Path, settings: OctSettings) -> ImportPlan:
        """Find the volumes by the names, sizes and headers of the files."""
        notes: list[str] = []
        tasks = _find(source, settings, notes)
        kinds = {task.kind for task in tasks}
        if len(kinds & set(SETS)) and len(kinds) > 1:
            raise MedSSLError(
                f"files of several data sets lie together: {', '.join(sorted(kinds))}",
                where=source,
                fix="import each data set from its own folder",
            )
        labels, ignore = _labels(kinds, settings)
        notes += _assumptions(kinds, settings)
        names = _Names(settings)
        return ImportPlan(
            {"retouch": "RETOUCH", "duke": "Duke DME"}.get(next(iter(kinds), ""), "OCT"),
            ("OCT",),
            labels,
            [_reader(task, settings, names) for task in tasks],
            ignore_value=ignore,
            spatial_unit="um",
            notes=tuple(notes),
            sform_code=2,
            anonymous=not settings.keep_patient_id and not kinds & set(SETS),
        )


def _find(source: Path, settings: OctSettings, notes: list[str]) -> list[_Task]:
    spacing = (settings.lateral_um, settings.bscan_um, settings.axial_um)
    tasks: list[_Task] = []

    def add(kind: str, path: Path, read: Callable[..., OctScan], *arguments: Any) -> None:
        tasks.append(_Task(kind, path, partial(read, path, *arguments)))

    for path in _files(source):
        ending = path.suffix.lower()
        if ending == ".vol":
            problem = vol_pattern(path)
            if problem is None:
                add("vol", path, read_vol)
            else:
                notes.append(f"left out {path.name}: {problem}")
        elif ending == ".e2e":
            numbers, left_out = e2e_series(path)
            notes += left_out
            if numbers:
                require_e2e_spacing(path, settings.lateral_um, settings.bscan_um)
            for number in numbers:
                add("e2e", path, read_e2e, number, settings.lateral_um, settings.bscan_um)
        elif ending == ".fda":
            add("fda", path, read_fda)
        elif ending == ".img":
            if _is_cube(path):
                zeiss_size(path, settings.size)
                add("zeiss", path, read_zeiss, settings.size)
        elif ending == ".oct":
            add("bioptigen", path, read_bioptigen, spacing)
        elif ending == ".mat":
            add("duke", path, read_duke, settings.target, settings.grader)
        elif path.name.lower() == "oct.mhd":
            folder = path.relative_to(source.parent).parent.as_posix().lower()
            tasks.append(_Task("retouch", path, partial(read_retouch, path), "test" in folder))
    other = [p for p in dicom_candidates(source) if p.suffix.lower() in (".dcm", ".dicom", "")]
    for path in looking_at(other, "looking for DICOM OPT"):
        if is_opt(path):
            add("opt", path, read_opt, settings.bscan_um)
    return tasks


def _files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    return sorted(p for p in source.rglob("*") if p.is_file() and not p.name.startswith("."))


def _is_cube(path: Path) -> bool:
    """Leave out a Cirrus export's pictures of the eye, and raw cubes that are there processed."""
    name = path.name
    if re.search("lslo|iris", name, re.IGNORECASE):
        return False
    processed = re.sub("cube_raw", "cube_z", name, flags=re.IGNORECASE)
    return processed == name or not path.with_name(processed).exists()


def _labels(kinds: set[str], settings: OctSettings) -> tuple[dict[int, str] | None, int | None]:
    if "retouch" in kinds:
        return RETOUCH_LABELS, None
    if "duke" in kinds:
        fluid = settings.target == "fluid"
        return ({1: "fluid"} if fluid else layer_names(DUKE_BOUNDARIES)), IGNORE
    if settings.layers:
        return layer_names(settings.layers), IGNORE
    return None, None


def _assumptions(kinds: set[str], settings: OctSettings) -> list[str]:
    notes = []
    if "zeiss" in kinds and None in (settings.lateral_um, settings.bscan_um, settings.axial_um):
        notes.append("Zeiss .img files hold no spacing: a field of 6 x 6 mm, 2 mm deep, is assumed")
    if "duke" in kinds:
        notes.append(
            "Duke files hold no spacing: the paper's mean, 11.33 x 123 x 3.87 um, is assumed; "
            "B-scans and columns that the grader left out are 'ignore'"
        )
    unknown = sorted(kinds & {"zeiss", "bioptigen", "retouch", "e2e", "duke"})
    if unknown and settings.first_bscan is None:
        notes.append(
            f"{', '.join(unknown)}: the order of the B-scans is what such devices usually do "
            "(Heidelberg from below, others from above); --option first_bscan=inferior|superior "
            "sets it"
        )
    return notes


def _reader(task: _Task, settings: OctSettings, names: _Names) -> Callable[[], ImportedCase]:
    def read() -> ImportedCase:
        scan = task.read()
        given = (settings.lateral_um, settings.bscan_um, settings.axial_um)
        spacing = three(g or s for g, s in zip(given, scan.spacing_um, strict=True))
        if not all(0.5 < s < 1000 for s in spacing):
            raise MedSSLError(
                "a voxel of {:g} x {:g} x {:g} um cannot be right".format(*spacing),
                where=task.path,
                fix="give --option lateral_um=, bscan_um= and axial_um=",
            )
        upward = scan.upward
        if settings.first_bscan is not None:
            upward = settings.first_bscan == "inferior"
        scan = replace(scan, spacing_um=spacing, upward=upward)
        label = scan.label
        if settings.layers and task.kind not in SETS:
            label = _layer_label(scan, settings.layers, task.path)
        case_id, patient = names.of(scan, task.path)
        meta = {"device": scan.device, "laterality": scan.laterality, "pattern": "raster"}
        sources = [task.path]
        if task.kind == "retouch" and label is not None:
            sources.append(task.path.with_name("reference.mhd"))
        return ImportedCase(
            case_id,
            np.ascontiguousarray(scan.image),
            nominal_affine(scan.image.shape, scan.spacing_um, upward=scan.upward),
            label,
            patient=patient,
            split="test" if task.test and label is None else "training",
            meta={k: v for k, v in meta.items() if v},
            sources=tuple(sources),
            sidecar=_sidecar(scan),
        )

    return read


def _layer_label(scan: OctScan, layers: Sequence[str], path: Path) -> np.ndarray:
    missing = [name for name in layers if name not in scan.boundaries]
    if missing:
        raise MedSSLError(
            f"the file has no boundary '{missing[0]}'",
            where=path,
            fix="its boundaries are: " + (", ".join(scan.boundaries) or "none at all"),
        )
    return layer_labels(np.stack([scan.boundaries[n] for n in layers]), scan.image.shape[2])


def _sidecar(scan: OctScan) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    if scan.boundaries:
        depths = np.stack(list(scan.boundaries.values()))
        arrays["boundary_names"] = np.array(list(scan.boundaries))
        arrays["boundaries_um"] = (depths * scan.spacing_um[2]).astype(np.float32)
    if scan.positions_mm is not None:
        arrays["positions_mm"] = scan.positions_mm.astype(np.float32)
    return arrays
