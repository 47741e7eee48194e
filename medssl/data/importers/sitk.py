"""Import folders of MetaImage, NRRD or NIfTI files, with labels by name where there are any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from medssl.data.images.volume import Volume
from medssl.data.importers.importer import (
    ImportedCase,
    Importer,
    ImportPlan,
    ImportSettings,
    LabelNames,
    Names,
    register,
)
from medssl.data.importers.pairing import Pair, find_pairs
from medssl.data.importers.segments import segment_names, values_by_name
from medssl.data.importers.volumes import (
    count_channels,
    ignore_unannotated,
    read_case_label,
    read_case_volume,
    refuse_format,
)
from medssl.errors import MedSSLError

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

    def plan(self, source: Path, settings: SITKSettings) -> ImportPlan:
        """See :class:`Importer`."""
        pairs, left_out = find_pairs(source, label_suffix=settings.label_suffix, structures=True)
        if not pairs:
            raise refuse_format(source, "sitk", self.summary)
        channels = count_channels(pairs[0].image)
        modality = tuple(settings.modality or ["unknown"] * channels)
        single = structure_values(pairs, settings.labels)
        names = settings.labels or segment_names([p.label for p in pairs if p.label is not None])
        if single and settings.labels is None:
            names = {value: name for name, value in single.items()}
        ignore = settings.ignore_value
        if ignore is None and settings.sparse_axis is not None:
            ignore = IGNORE
        notes = [*left_out, *held_back_note(pairs)]
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
        return ImportPlan(
            name=source.stem if source.is_file() else source.name,
            modality=modality,
            labels=None if names is None else {0: "background", **names},
            ignore_value=ignore,
            notes=tuple(notes),
            cases=[
                partial(
                    read_pair,
                    p,
                    ignore,
                    settings.sparse_axis,
                    values=single,
                    ordered=settings.labels is not None,
                )
                for p in pairs
            ],
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


def structure_values(pairs: Sequence[Pair], labels: Mapping[int, str] | None) -> dict[str, int]:
    """Give every structure that has files of its own a value: as asked for, or by alphabet.

    Raises:
        MedSSLError: a name that is asked for is that of no file, or some cases have one file for
            all structures and nobody said which value is which.
    """
    names = sorted({name for pair in pairs for name in pair.structures})
    return values_by_name(
        names,
        labels,
        whole=next((pair.label for pair in pairs if pair.label is not None), None),
        unknown="no file shows a structure named",
        mixed="some cases have one file for all structures, others a file for each",
    )


def read_structures(
    pair: Pair, image: Volume, values: Mapping[str, int], *, ordered: bool
) -> np.ndarray:
    """Return the label map ``(X, Y, Z)`` of a case whose structures have files of their own.

    Args:
        pair: names the files.
        image: on whose grid they must lie.
        values: of the structures to take.
        ordered: where two overlap the one named later in ``values`` wins; otherwise that is an
            error.

    Raises:
        MedSSLError: a file cannot be read, holds several values, or structures overlap.
    """
    dtype = np.uint8 if max(values.values(), default=0) < 256 else np.uint16
    label = np.zeros(image.data.shape[:3], dtype)
    for name, value in values.items():
        path = pair.structures.get(name)
        if path is None:
            continue
        mask, _ = read_case_label(path, pair.id, image)
        found = np.unique(mask)
        if len(found[found != 0]) > 1:
            raise MedSSLError(
                f"case '{pair.id}': {path.name} holds {len(found)} values, not one structure",
                where=path,
                fix="give one label map with a value per structure, or a file for each",
            )
        taken = label[(mask != 0) & (label != 0)]
        if taken.size and not ordered:
            other = next(n for n, v in values.items() if v == taken[0])
            raise MedSSLError(
                f"case '{pair.id}': '{other}' and '{name}' overlap in {taken.size} voxels",
                where=path,
                fix="name them in order, --option labels=1:NAME,2:NAME; the later one wins",
            )
        label[mask != 0] = value
    return label


def read_pair(
    pair: Pair,
    ignore: int | None,
    sparse_axis: str | None,
    *,
    values: Mapping[str, int] | None = None,
    ordered: bool = False,
) -> ImportedCase:
    """Read an image and, if it has one, its label on the image's grid.

    Args:
        ignore: value to give voxels that nobody annotated.
        sparse_axis: ``x``, ``y`` or ``z``: slices across it without label become ``ignore``.
        values, ordered: of structures with files of their own, see :func:`read_structures`.
    """
    image = read_case_volume(pair.image, pair.id)
    label: np.ndarray | None = None
    warnings: tuple[str, ...] = ()
    if pair.label is not None:
        label, warnings = read_case_label(pair.label, pair.id, image)
    elif pair.structures:
        label = read_structures(pair, image, values or {}, ordered=ordered)
    if label is not None and sparse_axis is not None and ignore is not None:
        label = ignore_unannotated(label, "xyz".index(sparse_axis), ignore)
    return ImportedCase(
        id=pair.id,
        image=image.data,
        affine=image.affine,
        note=image.note,
        label=label,
        patient=pair.patient,
        split="test" if pair.held_back else "training",
        sources=(
            pair.image,
            *([] if pair.label is None else [pair.label]),
            *pair.structures.values(),
        ),
        warnings=warnings,
    )
