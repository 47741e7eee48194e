"""Import the h5 volumes on which the semi-supervised literature reports, and their split lists."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from medssl.data.images.limits import check_claim
from medssl.data.images.names import safe_id
from medssl.data.importers.acdc import LABELS as ACDC_LABELS
from medssl.data.importers.importer import (
    ImportedCase,
    Importer,
    ImportPlan,
    ImportSettings,
    LabelNames,
    Spacing,
    register,
)
from medssl.data.importers.volumes import affine_of_spacing, need_spacing, refuse_format
from medssl.errors import MedSSLError
from medssl.optional import optional_module

_SLICE = re.compile(r"^(?P<volume>.+)_slice_(?P<number>\d+)$")


@dataclass(frozen=True)
class Layout:
    """One of the literature's h5 layouts.

    Attributes:
        pattern: matches the path of a volume below the source; its group ``id`` names the case.
        axes: order of the axes in the files, None if unknown.
        patient: pattern whose first group is the patient of a case id, if several cases share one.
        example: a spacing to show in the message that asks for it.
    """

    name: str
    pattern: str
    axes: Literal["xyz", "zyx"] | None
    modality: str
    labels: Mapping[int, str] | None
    example: str
    patient: str | None = None


LAYOUTS = (
    Layout(
        "left atrium 2018",
        r"(?:.*/)?(?P<id>[^/]+)/mri_norm2\.h5",
        "xyz",
        "MRI",
        {0: "background", 1: "left atrium"},
        "0.625,0.625,0.625",
    ),
    Layout(
        "ACDC",
        r"(?:.*/)?(?P<id>(?:patient\d+)_frame\d+)(?:_slice_\d+)?\.h5",
        "zyx",
        "MRI",
        ACDC_LABELS,
        "1.5,1.5,10",
        patient=r"(patient\d+)_",
    ),
    Layout(
        "NIH pancreas",
        r"(?:.*/)?(?P<id>image\d+)_norm\.h5",
        "xyz",
        "CT",
        {0: "background", 1: "pancreas"},
        "1,1,1",
    ),
    Layout("other h5", r"(?:.*/)?(?P<id>[^/]+)\.h5", None, "image", None, "1,1,1"),
)
"""In order: the first whose pattern matches a file describes the source."""


class SSL4MISSettings(ImportSettings):
    """Options of ``ssl4mis``."""

    spacing: Spacing | None = Field(
        None, description="voxel size in mm along x, y, z; the files do not hold it (required)"
    )
    axes: Literal["xyz", "zyx"] | None = Field(
        None, description="order of the axes in the files; known for LA, ACDC and pancreas"
    )
    labels: LabelNames | None = Field(None, description="names of the label values, 1:a,2:b")
    modality: str | None = Field(None, description="modality, such as MRI")


@register("ssl4mis")
class SSL4MIS(Importer):
    """Volumes with the keys ``image`` and ``label`` and the lists beside them.

    ``*.list`` files become splits.json, so that a recipe can name them. Slices of a volume that is
    not there itself are stacked.
    """

    summary = "h5 files of the semi-supervised literature (LA, ACDC, pancreas) with their lists"
    extra = "h5"
    Settings = SSL4MISSettings

    def plan(self, source: Path, settings: SSL4MISSettings) -> ImportPlan:
        """See :class:`Importer`."""
        optional_module("h5py", "h5")
        base = source if source.is_dir() else source.parent
        files = sorted(source.rglob("*.h5")) if source.is_dir() else [source]
        files = [p for p in files if not p.name.startswith(".")]
        if not files or any(p.suffix != ".h5" for p in files):
            raise refuse_format(source, "ssl4mis", "a folder with .h5 files (keys image, label)")
        layout = _layout([p.relative_to(base).as_posix() for p in files], base)
        axes = settings.axes or layout.axes
        if axes is None:
            raise MedSSLError(
                "the order of the axes is not in the files, and this layout is not known",
                where=files[0],
                fix="look at a volume: --option axes=zyx if slices come first, else axes=xyz",
            )
        why = "these h5 files hold voxels alone, and distances and volumes depend on it"
        spacing = need_spacing(settings.spacing, files[0], why, layout.example)
        volumes = _volumes(files, base, layout)
        affine = affine_of_spacing(spacing)
        return ImportPlan(
            name=layout.name if layout.labels else source.name,
            modality=(settings.modality or layout.modality,),
            labels={0: "background", **settings.labels} if settings.labels else layout.labels,
            notes=(
                f"read as {layout.name}, axes {axes}, {len(volumes)} volumes",
                "the files hold no orientation: their axes are written as R, A, S without knowing",
            ),
            cases=[
                partial(_read, case_id, parts, axes, affine, layout.patient)
                for case_id, parts in volumes.items()
            ],
            splits=_lists(base, set(volumes)),
            sform_code=2,
        )


def _layout(names: Sequence[str], base: Path) -> Layout:
    """Return the first layout that describes any file; it must describe all of them."""
    layout = next(x for x in LAYOUTS if any(re.fullmatch(x.pattern, n) for n in names))
    strange = [n for n in names if not re.fullmatch(layout.pattern, n)]
    if strange:
        raise MedSSLError(
            f"the source looks like {layout.name}, but {len(strange)} do not (first: {strange[0]})",
            where=base / strange[0],
            fix="take those files away, or name a folder with files of one kind",
        )
    return layout


def _volumes(files: Sequence[Path], base: Path, layout: Layout) -> dict[str, list[Path]]:
    """Return the file of each volume, or its slices in order where there is no such file."""
    whole: dict[str, list[Path]] = {}
    slices: dict[str, list[tuple[int, Path]]] = {}
    for path in files:
        match = re.fullmatch(layout.pattern, path.relative_to(base).as_posix())
        assert match is not None
        part = _SLICE.match(path.stem)
        if part is not None:
            case_id = safe_id(part["volume"])
            slices.setdefault(case_id, []).append((int(part["number"]), path))
            continue
        case_id = safe_id(match["id"])
        if case_id in whole:
            raise MedSSLError(
                f"two volumes are called '{case_id}': {whole[case_id][0]} is the other",
                where=path,
                fix="name a source folder that holds one copy of the data",
            )
        whole[case_id] = [path]
    for case_id, parts in slices.items():
        if case_id not in whole:
            whole[case_id] = [path for _, path in _consecutive(case_id, parts)]
    return dict(sorted(whole.items()))


def _consecutive(case_id: str, parts: Sequence[tuple[int, Path]]) -> list[tuple[int, Path]]:
    parts = sorted(parts)
    numbers = [n for n, _ in parts]
    expected = list(range(numbers[0], numbers[0] + len(numbers)))
    if numbers != expected:
        gap = next(n for n, m in zip(expected, numbers, strict=True) if n != m)
        raise MedSSLError(
            f"slice {gap} of volume '{case_id}' is missing or there twice",
            where=parts[0][1],
            fix="complete the slices, or take those of this volume away",
        )
    return parts


def _read(
    case_id: str, parts: Sequence[Path], axes: str, affine: np.ndarray, patient: str | None
) -> ImportedCase:
    arrays = [_read_file(path, case_id) for path in parts]
    image = _join([a for a, _ in arrays], axes, case_id, parts[0])
    labels = [a for _, a in arrays if a is not None]
    label = None
    if len(labels) == len(arrays):
        label = _join(labels, axes, case_id, parts[0])
    match = re.match(patient, case_id) if patient else None
    return ImportedCase(
        id=case_id,
        image=image,
        affine=affine,
        label=label,
        patient=match[1] if match else None,
        sources=tuple(parts),
    )


def _join(arrays: Sequence[np.ndarray], axes: str, case_id: str, where: Path) -> np.ndarray:
    """Return a volume ``(X, Y, Z)`` from one array, or from slices ``(Y, X)`` or ``(X, Y)``."""
    if len({a.shape for a in arrays}) > 1:
        raise _broken(case_id, where, "its slices have different shapes")
    data = arrays[0]
    if data.ndim == 2:
        data = np.stack(arrays, axis=0 if axes == "zyx" else -1)
    return data.transpose(2, 1, 0) if axes == "zyx" and data.ndim == 3 else data


def _broken(case_id: str, path: Path, why: str) -> MedSSLError:
    return MedSSLError(
        f"case '{case_id}': {why}",
        where=path,
        fix="copy or download it again, or leave it out with --option skip_broken=true",
    )


def _read_key(file: Any, key: str, path: Path) -> np.ndarray | None:
    if key not in file:
        return None
    # A few bytes of HDF5 can claim any shape: what is not stored counts as zeros.
    check_claim(file[key].shape, file[key].dtype.itemsize, path=path)
    return np.asarray(file[key])


def _read_file(path: Path, case_id: str) -> tuple[np.ndarray, np.ndarray | None]:
    h5py: Any = optional_module("h5py", "h5")
    try:
        with h5py.File(path, "r") as file:
            keys = list(file)
            image, label = (_read_key(file, key, path) for key in ("image", "label"))
    except MedSSLError:
        raise
    except Exception as error:  # the library raises anything at all for a damaged file
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise _broken(case_id, path, f"the file cannot be read ({reason})") from None
    if image is None:
        raise _broken(case_id, path, f"the file has no key 'image' (its keys: {', '.join(keys)})")
    return image, label


def _lists(base: Path, ids: set[str]) -> dict[str, list[str]]:
    """Read the ``*.list`` files as lists of case ids; lists of slices become lists of volumes."""
    found: dict[str, list[str]] = {}
    for path in sorted(base.rglob("*.list")):
        if path.name.startswith("."):
            continue
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        names = [_case_of(line.strip(), ids) for line in lines if line.strip()]
        key = path.stem if path.stem not in found else f"{path.parent.name}_{path.stem}"
        found[key] = list(dict.fromkeys(names))
    return found


def _case_of(line: str, ids: set[str]) -> str:
    """Return the id that a line of a list means: a name, a file, or a slice."""
    parts = [p for p in line.replace("\\", "/").split("/") if p]
    candidates = []
    for part in reversed(parts):
        stem = part.removesuffix(".h5")
        match = _SLICE.match(stem)
        candidates += [match["volume"] if match else stem, stem.removesuffix("_norm")]
    return next((safe_id(c) for c in candidates if safe_id(c) in ids), safe_id(candidates[0]))
