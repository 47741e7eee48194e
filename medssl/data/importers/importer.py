"""What every importer provides: a plan of the cases it found, each read when its turn comes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator, Field

from medssl import plugins
from medssl.data.datasets.label_regions import LabelRegion
from medssl.data.images.geometry import Unit
from medssl.strict import Strict


@dataclass(frozen=True)
class ImportedCase:
    """One scan as read from its source.

    Attributes:
        id: unique in the dataset and usable as a file name; see :func:`safe_id`.
        image: ``(X, Y, Z)`` or ``(X, Y, Z, C)``, the source's values in their own dtype.
        affine: ``(4, 4)``, voxel to RAS world coordinates in the plan's ``spatial_unit``.
        label: ``(X, Y, Z)`` whole numbers, or None for an unlabeled scan.
        patient: whose scan it is; None where the source does not tell.
        split: ``test`` scans go to imagesTs (and labelsTs), all others to training.
        meta: facts about the scan that dataset.json keeps (device, laterality, phase).
        sources: the files it was read from, for provenance.
        sidecar: arrays to keep beside the image in ``sidecar/ID.npz`` (layer boundaries).
        warnings: what the user should know about this scan.
        note: what of its header ITK reads in another way than other programs.
    """

    id: str
    image: np.ndarray
    affine: np.ndarray
    label: np.ndarray | None
    patient: str | None = None
    split: Literal["training", "test"] = "training"
    meta: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[Path, ...] = ()
    sidecar: Mapping[str, np.ndarray] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class ImportPlan:
    """What an importer found in its source before any image was read.

    Attributes:
        name: name of the dataset.
        modality: one name per channel.
        labels: name of each label value, background (0) included; None names each value found
            ``label N``.
        ignore_value: label value of voxels without annotation, if there are any.
        regions: structures that are unions of label values.
        spatial_unit: unit of the cases' affines.
        licence: the source's licence as text, empty if it states none.
        notes: what the user should know about how the source was read, one line each.
        cases: called one after the other, each reads one case; a problem with a single case is a
            MedSSLError raised there that names the case.
        splits: lists of case ids for splits.json.
        sform_code: what the affines mean: 1 scanner coordinates, 2 aligned to anatomy only.
        anonymous: the source's file and folder names may tell who the patients are: the
            provenance holds hashes of the files, and no name, note or reason.
    """

    name: str
    modality: tuple[str, ...]
    labels: Mapping[int, str] | None
    cases: Sequence[Callable[[], ImportedCase]]
    ignore_value: int | None = None
    regions: tuple[LabelRegion, ...] = ()
    spatial_unit: Unit = "mm"
    licence: str = ""
    notes: tuple[str, ...] = ()
    splits: Mapping[str, Sequence[str]] = field(default_factory=dict)
    sform_code: Literal[1, 2] = 1
    anonymous: bool = False


def _split_numbers(value: Any) -> Any:
    if isinstance(value, int | float):
        value = [value] * 3
    if isinstance(value, str):
        value = re.split(r"[,x ]+", value.strip("[]() "))
        value = value * 3 if len(value) == 1 else value
    return value


def _split_names(value: Any) -> Any:
    """Turn ``1:liver,2:tumor`` into a mapping."""
    if not isinstance(value, str):
        return value
    pairs = [part.partition(":") for part in value.split(",") if part.strip()]
    if not all(sep and number.strip().isdigit() for number, sep, _ in pairs):
        raise ValueError("write VALUE:NAME pairs, such as 1:liver,2:tumor")
    names = {int(number): name.strip() for number, _, name in pairs}
    if len(names) < len(pairs) or len(set(names.values())) < len(pairs):
        raise ValueError("give each value one name, and each name one value")
    return names


def _split_list(value: Any) -> Any:
    return [v.strip() for v in value.split(",") if v.strip()] if isinstance(value, str) else value


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Spacing = Annotated[tuple[Positive, Positive, Positive], BeforeValidator(_split_numbers)]
"""Voxel edge lengths along the axes of the image; on the command line ``0.5,0.5,1`` or ``0.3``."""

LabelNames = Annotated[dict[int, str], BeforeValidator(_split_names)]
"""Names of label values; on the command line ``1:liver,2:tumor``."""

Names = Annotated[list[str], BeforeValidator(_split_list)]
"""A list of names; on the command line separated by commas."""


class ImportSettings(Strict):
    """Options that every format has; a field is given as ``--option FIELD=VALUE``."""

    name: str | None = Field(None, description="name of the dataset; none: the source's own")
    licence: str | None = Field(None, description="licence to record; none: what the source states")
    patient_pattern: str | None = Field(
        None, description="regular expression; its first group is the patient of a case id"
    )
    skip_broken: bool = Field(
        False, description="leave broken cases out and list them, instead of stopping at the first"
    )


class Importer:
    """Base of all importers: a format's name, one line about it, its options, and its plan."""

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    extra: ClassVar[str | None] = None
    """Optional dependency group that the format needs (``pip install "medssl[EXTRA]"``)."""
    Settings: ClassVar[type[ImportSettings]] = ImportSettings

    def plan(self, source: Path, settings: Any) -> ImportPlan:
        """Look at the source, without reading images, and say what there is.

        Args:
            source: an existing file or folder.
            settings: an instance of ``Settings``.

        Raises:
            MedSSLError: the source is not of this format, or an option is missing.
        """
        raise NotImplementedError


REGISTRY: dict[str, Importer] = {}
"""All formats by name."""


def register(name: str) -> Callable[[type[Importer]], type[Importer]]:
    """Make an importer known under a name."""

    def add(importer: type[Importer]) -> type[Importer]:
        if name in REGISTRY:
            raise ValueError(f"two importers are called {name}")
        importer.name = name
        REGISTRY[name] = importer()
        plugins.note("importer", name)
        return importer

    return add
