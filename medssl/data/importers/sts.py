"""Import the STS challenges (teeth in CBCT): few labeled and many unlabeled scans."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from medssl.data.importers.fdi import TOOTH_NAMES, TeethSettings, check_teeth, mirror_case
from medssl.data.importers.importer import ImportedCase, Importer, ImportPlan, register
from medssl.data.importers.pairing import Pair, find_pairs
from medssl.data.importers.sitk import held_back_note, read_pair
from medssl.data.importers.volumes import refuse_format

IGNORE = 255
TASKS = {
    "binary": {0: "background", 1: "tooth"},
    "fdi": {0: "background", **TOOTH_NAMES},
    "roots": {
        0: "background",
        1: "tooth",
        2: "pulp",
        **{value: f"root canal {value - 2}" for value in range(3, 13)},
    },
}


class STSSettings(TeethSettings):
    """Options of ``sts``."""

    task: Literal["binary", "fdi", "roots"] | None = Field(
        None,
        description="binary (STS 2023: tooth), fdi (STS 2024: numbered teeth), roots (STSR 2025); "
        "none: by the files' names",
    )
    value_1: Literal["refuse", "background", "ignore"] = Field(
        "refuse", description="fdi: what to do with the stray value 1 of some scans"
    )


@register("sts")
class STS(Importer):
    """Folders ``Images`` and ``Masks`` (``NAME_Mask.nii.gz``) and folders of unlabeled scans."""

    summary = "STS 2023/2024 and STSR 2025 (Images, Masks, unlabeled scans), teeth in CBCT"
    Settings = STSSettings

    def plan(self, source: Path, settings: STSSettings) -> ImportPlan:
        """See :class:`Importer`."""
        pairs, left_out = find_pairs(source)
        if not pairs:
            expected = "Images and Masks with STS24_Train_Labeled_0001.nii.gz, ..._Mask.nii.gz"
            raise refuse_format(source, "STS", expected)
        task = settings.task or _task(pairs)
        notes = [f"read as task '{task}'" + ("" if settings.task else " by the files' names")]
        notes += [*left_out, *held_back_note(pairs)]
        if task == "fdi" and settings.value_1 != "refuse":
            notes.append(f"label value 1 becomes {settings.value_1}")
        ignore = IGNORE if task == "fdi" and settings.value_1 == "ignore" else None
        return ImportPlan(
            name="STS",
            modality=("CBCT",),
            labels=TASKS[task],
            ignore_value=ignore,
            notes=tuple(notes),
            cases=[partial(_read, p, task, settings) for p in pairs],
        )


def _task(pairs: list[Pair]) -> str:
    names = " ".join(p.image.name for p in pairs[:50]).lower()
    if "stsr" in names or "sts25" in names:
        return "roots"
    return "fdi" if "sts24" in names else "binary"


def _read(pair: Pair, task: str, settings: STSSettings) -> ImportedCase:
    case = mirror_case(read_pair(pair, None, None), settings.mirror)
    if task != "fdi" or case.label is None:
        return case
    if settings.value_1 != "refuse":
        new = IGNORE if settings.value_1 == "ignore" else 0
        case = replace(case, label=np.where(case.label == 1, new, case.label).astype(np.int32))
    check_teeth(case, pair, anatomy=settings.check_anatomy)
    return case
