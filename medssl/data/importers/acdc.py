"""Import the official folders of ACDC (cardiac cine MRI, Bernard et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from medssl.data.images.volume import Volume, read_header, read_image
from medssl.data.importers.importer import (
    ImportedCase,
    Importer,
    ImportPlan,
    ImportSettings,
    register,
)
from medssl.data.importers.volumes import read_case_label, read_case_volume, refuse_format
from medssl.errors import MedSSLError

LABELS = {0: "background", 1: "right ventricle", 2: "myocardium", 3: "left ventricle"}
EXPECTED = (
    "training/patient001/ with Info.cfg and patient001_frame01.nii.gz (the official download)"
)


class ACDCSettings(ImportSettings):
    """Options of ``acdc``."""

    other_frames: bool = Field(
        False, description="also take all frames but ED and ES from the 4D file, as unlabeled"
    )


@dataclass(frozen=True)
class Info:
    """What Info.cfg says of a patient.

    Attributes:
        phases: ``ED`` and ``ES`` by frame number, counted from 1.
        meta: diagnostic group, height (cm) and weight (kg), as written.
    """

    phases: dict[int, str]
    meta: dict[str, str]


@register("acdc")
class ACDC(Importer):
    """ED and ES of each patient with their labels; the true spacing is kept."""

    summary = "official ACDC folders (patient001/Info.cfg, patient001_frame01.nii.gz, ..._gt)"
    Settings = ACDCSettings

    def plan(self, source: Path, settings: ACDCSettings) -> ImportPlan:
        """See :class:`Importer`."""
        reads = []
        for folder, split in _patients(source):
            info = read_info(folder / "Info.cfg")
            for frame in sorted(info.phases):
                reads.append(partial(_read_frame, folder, frame, info, split))
            if settings.other_frames:
                others = _other_frames(folder, info)
                reads += [partial(_read_other, folder, n, info, split) for n in others]
        if not reads:
            raise refuse_format(source, "ACDC", EXPECTED)
        return ImportPlan(
            name="ACDC",
            modality=("MRI",),
            labels=LABELS,
            licence="research use (ACDC challenge, Bernard et al. 2018)",
            cases=reads,
        )


def _patients(source: Path) -> list[tuple[Path, Literal["training", "test"]]]:
    """Return the patients' folders and what they are for; a folder of patients is training."""
    found: list[tuple[Path, Literal["training", "test"]]] = []
    for base in (source, source / "training", source / "testing"):
        split: Literal["training", "test"] = "test" if base.name == "testing" else "training"
        for folder in sorted(base.glob("*/")):
            if (folder / "Info.cfg").is_file():
                found.append((folder, split))
            elif folder.name.startswith("patient"):
                raise MedSSLError(
                    f"patient '{folder.name}' has no Info.cfg, which tells ED and ES",
                    where=folder,
                    fix="copy the file from the download, or take the folder away",
                )
    return found


def read_info(path: Path) -> Info:
    """Read Info.cfg: lines ``KEY: VALUE``, of which ED and ES are frame numbers.

    Raises:
        MedSSLError: ED or ES is missing or is no number.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    values = {k.strip(): v.strip() for k, sep, v in (x.partition(":") for x in lines) if sep}
    phases = {}
    for phase in ("ED", "ES"):
        if not values.get(phase, "").isdigit():
            raise MedSSLError(
                f"has no frame number of {phase}",
                where=path,
                fix=f"write a line such as '{phase}: 1', or take the patient's folder away",
            )
        phases[int(values[phase])] = phase
    meta = {k.lower(): values[k] for k in ("Group", "Height", "Weight") if k in values}
    return Info(phases, meta)


def _nifti(folder: Path, stem: str) -> Path:
    """Return the file of a stem, compressed or not; the compressed name if there is neither."""
    return next(
        (p for e in (".nii", ".nii.gz") if (p := folder / f"{stem}{e}").is_file()), None
    ) or (folder / f"{stem}.nii.gz")


def _read_frame(
    folder: Path, frame: int, info: Info, split: Literal["training", "test"]
) -> ImportedCase:
    name = f"{folder.name}_frame{frame:02d}"
    path, label_path = _nifti(folder, name), _nifti(folder, f"{name}_gt")
    image = read_case_volume(path, name)
    label: np.ndarray | None = None
    warnings: tuple[str, ...] = ()
    if label_path.is_file():
        label, warnings = read_case_label(label_path, name, image)
    return ImportedCase(
        id=name,
        image=image.data,
        affine=image.affine,
        note=image.note,
        label=label,
        patient=folder.name,
        split=split,
        meta={"phase": info.phases[frame], **info.meta},
        sources=(path, *([] if label is None else [label_path]), folder / "Info.cfg"),
        warnings=warnings,
    )


def _other_frames(folder: Path, info: Info) -> list[int]:
    """Return the frames of the 4D file that are neither ED nor ES; only its header is read."""
    try:
        channels = read_header(_nifti(folder, f"{folder.name}_4d")).channels
    except MedSSLError as error:
        raise _no_frames(folder, error) from None
    return [n for n in range(1, channels + 1) if n not in info.phases and channels > 1]


@lru_cache(maxsize=1)  # frames of one heart come one after the other
def _all_frames(path: Path) -> Volume:
    return read_image(path)


def _no_frames(folder: Path, error: MedSSLError) -> MedSSLError:
    return MedSSLError(
        f"patient '{folder.name}' has no readable 4D file, which other_frames=true needs: "
        f"{error.what}",
        where=error.where,
        fix=f"{error.fix}, or import without --option other_frames=true",
    )


def _read_other(
    folder: Path, frame: int, info: Info, split: Literal["training", "test"]
) -> ImportedCase:
    name = f"{folder.name}_frame{frame:02d}"
    path = _nifti(folder, f"{folder.name}_4d")
    try:
        frames = _all_frames(path)
    except MedSSLError as error:
        raise _no_frames(folder, error) from None
    data = replace(frames, data=frames.data[..., frame - 1]).values()
    # One header decides for all frames of a heart, so that they lie in one place.
    reference = read_case_volume(_nifti(folder, f"{folder.name}_frame{min(info.phases):02d}"), name)
    affine = reference.affine if reference.data.shape == data.shape else frames.affine
    return ImportedCase(
        id=name,
        image=data,
        affine=affine,
        label=None,
        patient=folder.name,
        split=split,
        meta=info.meta,
        sources=(path, folder / "Info.cfg"),
    )
