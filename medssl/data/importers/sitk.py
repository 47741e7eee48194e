"""Import folders of MetaImage, NRRD or NIfTI files, with labels by name where there are any."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from medssl.data.importers.base import (
    ImportedCase,
    Importer,
    ImportSettings,
    LabelNames,
    Names,
    Plan,
    register,
)
from medssl.data.importers.pairing import Pair, find_pairs
from medssl.data.importers.segments import segment_names
from medssl.data.importers.volumes import (
    count_channels,
    ignore_unannotated,
    read_label,
    read_volume,
    refuse_format,
)

IGNORE = 255


class SITKSettings(ImportSettings):
    """Options of ``sitk``."""

    labels: LabelNames | None = Field(None, description="names of the label values, 1:a,2:b")
    modality: Names | None = Field(None, description="modality, one per channel, such as CT")
    label_suffix: str | None = Field(
        None, description="how names of labels end, if not _seg, -label, _mask or the like"
    )
    ignore_value: int | None = Field(
        None, ge=1, lt=2**16, description="label value of voxels that nobody annotated"
    )
    sparse_axis: Literal["x", "y", "z"] | None = Field(
        None, description="slices across this axis without any label were not annotated: ignored"
    )


@register("sitk")
class SITK(Importer):
    """Image files that SimpleITK or nibabel read, paired with their labels by name."""

    summary = (
        "folder or list of .mha .mhd .nrrd .nii files; labels by folder or name (_seg, -label)"
    )
    Settings = SITKSettings

    def plan(self, source: Path, settings: SITKSettings) -> Plan:
        """See :class:`Importer`."""
        pairs = find_pairs(source, label_suffix=settings.label_suffix)
        if not pairs:
            raise refuse_format(source, "sitk", self.summary)
        channels = count_channels(pairs[0].image)
        modality = tuple(settings.modality or ["unknown"] * channels)
        names = settings.labels or segment_names([p.label for p in pairs if p.label is not None])
        ignore = settings.ignore_value
        if ignore is None and settings.sparse_axis is not None:
            ignore = IGNORE
        notes = held_back_note(pairs)
        if settings.sparse_axis is not None:
            notes.append(
                f"slices across {settings.sparse_axis} without any label get the ignore value "
                f"{ignore}"
            )
        if settings.modality is None:
            notes.append("the modality is not in the files: name it with --option modality=CT")
        if names is None:
            notes.append(
                "label values are named by their number: name them with --option labels=1:liver"
            )
        return Plan(
            name=source.stem if source.is_file() else source.name,
            modality=modality,
            labels=None if names is None else {0: "background", **names},
            ignore_value=ignore,
            notes=tuple(notes),
            cases=[partial(read_pair, p, ignore, settings.sparse_axis) for p in pairs],
        )


def held_back_note(pairs: Sequence[Pair]) -> list[str]:
    """Say which images become test images because of their name, if any do."""
    held = [p.id for p in pairs if p.held_back]
    if not held:
        return []
    return [
        f"{len(held)} images (first: {held[0]}) go to imagesTs: their folder or name says test or "
        "validation"
    ]


def read_pair(pair: Pair, ignore: int | None, sparse_axis: str | None) -> ImportedCase:
    """Read an image and, if it has one, its label on the image's grid.

    Args:
        ignore: value to give voxels that nobody annotated.
        sparse_axis: ``x``, ``y`` or ``z``: slices across it without label become ``ignore``.
    """
    image = read_volume(pair.image, pair.id)
    label: np.ndarray | None = None
    warnings: tuple[str, ...] = ()
    if pair.label is not None:
        label, warnings = read_label(pair.label, pair.id, image)
        if sparse_axis is not None and ignore is not None:
            label = ignore_unannotated(label, "xyz".index(sparse_axis), ignore)
    return ImportedCase(
        id=pair.id,
        image=image.data,
        affine=image.affine,
        note=image.note,
        label=label,
        patient=pair.patient,
        split="test" if pair.held_back else "training",
        sources=(pair.image, *([] if pair.label is None else [pair.label])),
        warnings=warnings,
    )
