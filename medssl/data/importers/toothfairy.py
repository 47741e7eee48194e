"""Import ToothFairy 1 (canal, .npy), 2 (42 structures, .mha) and 3 (77 structures, .nii.gz)."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from medssl.data.datasets.decathlon_header import read_json
from medssl.data.images.limits import SizeError, check_claim
from medssl.data.images.names import safe_id
from medssl.data.importers.fdi import (
    PULP_NAMES,
    TOOTH_NAMES,
    TeethSettings,
    check_teeth,
    mirror_case,
)
from medssl.data.importers.importer import ImportedCase, Importer, ImportPlan, Spacing, register
from medssl.data.importers.pairing import Pair, find_pairs
from medssl.data.importers.sitk import read_pair
from medssl.data.importers.volumes import (
    affine_of_spacing,
    ignore_unannotated,
    need_spacing,
    refuse_format,
)
from medssl.errors import MedSSLError

IGNORE = 255
CANAL = {0: "background", 1: "inferior alveolar canal"}
VERSION_2 = {
    0: "background",
    1: "lower jawbone",
    2: "upper jawbone",
    3: "left inferior alveolar canal",
    4: "right inferior alveolar canal",
    5: "left maxillary sinus",
    6: "right maxillary sinus",
    7: "pharynx",
    8: "bridge",
    9: "crown",
    10: "implant",
    **TOOTH_NAMES,
}
VERSION_3 = {
    **VERSION_2,
    103: "left incisive canal",
    104: "right incisive canal",
    105: "lingual canal",
    **PULP_NAMES,
}
_GROUP = re.compile(r"ToothFairy\d(?P<group>[FPS])_", re.I)


class ToothFairySettings(TeethSettings):
    """Options of ``toothfairy``."""

    version: Literal["1", "2", "3"] | None = Field(None, description="none: found by the files")
    spacing: Spacing | None = Field(
        None, description="version 1: voxel size in mm along x, y, z (required there)"
    )
    axes: Literal["xyz", "zyx"] | None = Field(
        None, description="version 1: order of the axes in the .npy files (required there)"
    )
    sparse: Literal["ignore", "unlabeled"] = Field(
        "ignore",
        description="version 1, sparse annotation: slices without any become the ignore label, or "
        "the scan counts as unlabeled",
    )


@register("toothfairy")
class ToothFairy(Importer):
    """Dental CBCT with FDI codes, which are kept, so that predictions carry them too."""

    summary = "ToothFairy 1 (.npy folders), 2 (.mha) or 3 (.nii.gz), dental CBCT"
    Settings = ToothFairySettings

    def plan(self, source: Path, settings: ToothFairySettings) -> ImportPlan:
        """See :class:`Importer`."""
        version = settings.version or _version(source)
        if version == "1":
            return _plan_1(source, settings)
        pairs, left_out = find_pairs(source)
        names = VERSION_2 if version == "2" else VERSION_3
        return ImportPlan(
            name=f"ToothFairy{version}",
            modality=("CBCT",),
            labels=names,
            licence="CC BY-SA 4.0",
            notes=(
                f"read as ToothFairy{version}: {len(names) - 1} structures, FDI codes kept",
                *left_out,
            ),
            cases=[partial(_read_fdi, p, settings) for p in pairs],
        )


def _version(source: Path) -> str:
    if source.is_dir():
        if next(source.rglob("data.npy"), None) is not None:
            return "1"
        for ending, version in ((".mha", "2"), (".nii.gz", "3")):
            if next(source.rglob(f"*{ending}"), None) is not None:
                return version
    expected = "patient folders with data.npy, or imagesTr and labelsTr with .mha or .nii.gz"
    raise refuse_format(source, "ToothFairy", expected)


def _read_fdi(pair: Pair, settings: ToothFairySettings) -> ImportedCase:
    case = mirror_case(read_pair(pair, None, None), settings.mirror)
    check_teeth(case, pair, anatomy=settings.check_anatomy)
    group = _GROUP.match(pair.id)
    return replace(case, meta={"group": group["group"].upper()} if group else {})


def _plan_1(source: Path, settings: ToothFairySettings) -> ImportPlan:
    folders = sorted({p.parent for p in source.rglob("data.npy")})
    if not folders:
        raise refuse_format(source, "ToothFairy 1", "patient folders with data.npy")
    why = ".npy files hold voxels alone (the data set's page gives 0.3 mm)"
    spacing = need_spacing(settings.spacing, folders[0] / "data.npy", why, "0.3,0.3,0.3")
    if settings.axes is None:
        raise MedSSLError(
            "the order of the axes is not in the .npy files",
            where=folders[0] / "data.npy",
            fix="look at a volume: --option axes=zyx if axial slices come first, else axes=xyz",
        )
    notes = [
        "the files hold no orientation: their axes are written as R, A, S without knowing, and a "
        "single canal label does not show which way they run",
    ]
    sparse = [f for f in folders if not _dense(f) and (f / "gt_sparse.npy").is_file()]
    if sparse:
        done = (
            f"slices without annotation get the ignore value {IGNORE}; the annotated ones are weak"
            if settings.sparse == "ignore"
            else "taken as unlabeled"
        )
        notes.append(f"{len(sparse)} of {len(folders)} scans are annotated sparsely: {done}")
    affine = affine_of_spacing(spacing)
    return ImportPlan(
        name="ToothFairy1",
        modality=("CBCT",),
        labels=CANAL,
        ignore_value=IGNORE if sparse and settings.sparse == "ignore" else None,
        notes=tuple(notes),
        cases=[partial(_read_1, f, affine, settings) for f in folders],
        splits=_splits_1(source),
        sform_code=2,
    )


def _dense(folder: Path) -> bool:
    return (folder / "gt_alpha.npy").is_file()


def _splits_1(source: Path) -> dict[str, list[str]]:
    path = next(iter(sorted(source.rglob("splits.json"))), None)
    if path is None:
        return {}
    info: dict[str, Any] = read_json(path)[0]
    lists = {k: v for k, v in info.items() if isinstance(v, list)}
    return {k: [safe_id(str(i)) for i in v] for k, v in lists.items() if v}


def _read_1(folder: Path, affine: np.ndarray, settings: ToothFairySettings) -> ImportedCase:
    case_id = safe_id(folder.name)
    files = [folder / "data.npy"]
    image = _load(files[0], case_id)
    name = "gt_alpha.npy" if _dense(folder) else "gt_sparse.npy"
    sparse = not _dense(folder)
    label: np.ndarray | None = None
    if (folder / name).is_file() and not (sparse and settings.sparse == "unlabeled"):
        files.append(folder / name)
        label = _load(files[1], case_id)
    if settings.axes == "zyx":
        image, label = image.transpose(), None if label is None else label.transpose()
    if label is not None and sparse:
        label = ignore_unannotated(label, 2, IGNORE)
    return ImportedCase(
        id=case_id,
        image=image,
        affine=affine,
        label=label,
        meta={} if label is None else {"annotation": "sparse" if sparse else "dense"},
        sources=tuple(files),
    )


def _load(path: Path, case_id: str) -> np.ndarray:
    try:
        # Mapped first: then a header that claims more than the file holds allocates nothing.
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        check_claim(mapped.shape, mapped.dtype.itemsize, path=path)
        return np.array(mapped)
    except SizeError:
        raise
    except (OSError, ValueError, EOFError) as error:
        raise MedSSLError(
            f"case '{case_id}': {path.name} cannot be read ({str(error).splitlines()[0][:100]})",
            where=path,
            fix="copy or download it again, or leave it out with --option skip_broken=true",
        ) from None
