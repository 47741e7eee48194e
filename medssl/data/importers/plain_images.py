"""Let a folder of images without labels join a dataset as unlabeled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field

from medssl.data.datasets.case import Case, Dataset
from medssl.data.datasets.change import alone_in
from medssl.data.datasets.decathlon import read_dataset
from medssl.data.datasets.decathlon_header import read_json
from medssl.data.images.geometry import Unit
from medssl.data.importers.case_writer import CaseWriter, ImportResult
from medssl.data.importers.checked import stored_hash, stored_image
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
from medssl.data.importers.volumes import (
    count_channels,
    read_case_volume,
    read_channels,
    refuse_format,
)
from medssl.errors import MedSSLError
from medssl.files import move_in, scratch_folder, write_json
from medssl.progress import Display, Done

NO_LABELS = (
    "no case has a label yet: the dataset cannot train until labeled cases are in imagesTr, "
    "labelsTr and the list 'training'"
)


class ImagesSettings(ImportSettings):
    """Options of ``images``."""

    labels: LabelNames | None = Field(
        None, description="for a new dataset: the structures it is for, 1:liver,2:tumor"
    )
    modality: Names | None = Field(
        None, description="for a new dataset: modality, one per channel, such as CT"
    )


@register("images")
class Images(Importer):
    """Images without labels, for a dataset that exists (they join it) or a new one."""

    summary = "folder of images without labels; joins an existing dataset as unlabeled"
    Settings = ImagesSettings

    def plan(self, source: Path, settings: ImagesSettings) -> ImportPlan:
        """See :class:`Importer`; this is the plan of a new dataset."""
        pairs = _find(source)
        if settings.labels is None:
            raise MedSSLError(
                "there is no dataset yet that the images could join, and one without any label "
                "cannot train",
                where=source,
                fix="import the labeled cases first and name their folder; or declare what will be "
                "labeled, --option labels=1:liver; or list this folder in a recipe: data.unlabeled",
            )
        channels = count_channels(pairs[0].image)
        return ImportPlan(
            name=source.name,
            modality=tuple(settings.modality or ["unknown"] * channels),
            labels={0: "background", **settings.labels},
            notes=(NO_LABELS,),
            cases=[partial(_read, pair, "mm") for pair in pairs],
        )


def _find(source: Path) -> list[Pair]:
    pairs, _ = find_pairs(source)
    labeled = next((p for p in pairs if p.label is not None), None)
    if labeled is not None and labeled.label is not None:
        raise MedSSLError(
            f"{labeled.label.name} looks like a label of {labeled.image.name}",
            where=labeled.label,
            fix="import images with labels as format sitk, or move the labels away",
        )
    if not pairs:
        raise refuse_format(source, "images", "a folder with .nii.gz, .nii, .nrrd, .mha or .mhd")
    return pairs


def _read(pair: Pair, unit: Unit) -> ImportedCase:
    image = read_case_volume(pair.image, pair.id, unit=unit)
    return ImportedCase(
        pair.id,
        image.data,
        image.affine,
        None,
        patient=pair.patient,
        sources=(pair.image,),
        note=image.note,
    )


def join_dataset(
    source: Path,
    dataset: Path,
    settings: ImagesSettings,
    *,
    origin: Mapping[str, Any],
    display: Display,
) -> ImportResult:
    """Add images to imagesUn and to the list ``unlabeled`` of a dataset that exists.

    The images are written beside the dataset first; only when all are sound do they move in and
    dataset.json is replaced. Images that the dataset already holds, by name or by voxels, are
    refused by name.

    Args:
        display: where to show progress.

    Raises:
        MedSSLError: the dataset cannot be read, an image is broken or there already. The dataset
            is then as it was.
    """
    for name in ("labels", "modality", "name", "licence"):
        if getattr(settings, name) is not None:
            raise MedSSLError(
                f"the dataset exists and keeps its own {name}",
                where=dataset / "dataset.json",
                fix=f"leave out --option {name}, or name a new folder",
            )

    with alone_in(dataset):
        return _join(source, dataset, settings, origin, display)


def _join(
    source: Path,
    dataset: Path,
    settings: ImagesSettings,
    origin: Mapping[str, Any],
    display: Display,
) -> ImportResult:
    """Join a dataset that nobody else writes to."""
    existing = read_dataset(dataset)
    unit = existing.spatial_unit
    pairs = _find(source)
    plan = ImportPlan(
        name=existing.name,
        modality=existing.modality,
        labels=None,
        spatial_unit=unit,
        cases=[partial(_read, pair, unit) for pair in pairs],
    )
    known = [*existing.training, *existing.unlabeled, *existing.test]
    _refuse_names(pairs, known, dataset)
    total = len(known) + len(pairs)
    counting = display.counting("importing images", total)
    with counting as done, scratch_folder(dataset) as building:
        writer = CaseWriter(building, source, plan, settings)
        writer.by_voxels.update(_voxels(known, unit, done))
        writer.write_all(done)
        _refuse_duplicates(writer, known, dataset)
        result = replace(writer.result(dataset), notes=_notes(existing, len(writer.records)))
        _move_in(building, dataset, existing, writer, origin)
    return result


def _notes(existing: Dataset, count: int) -> tuple[str, ...]:
    joined = f"{count} images joined '{existing.name}' as unlabeled"
    return (joined,) if existing.training else (joined, NO_LABELS)


def _refuse_names(pairs: list[Pair], known: list[Case], dataset: Path) -> None:
    taken = {c.id.lower() for c in known}
    twice = [p for p in pairs if p.id.lower() in taken]
    if twice:
        more = f" (and {len(twice) - 1} more such)" if len(twice) > 1 else ""
        raise MedSSLError(
            f"the dataset already has a case '{twice[0].id}'{more}",
            where=twice[0].image,
            fix=f"rename the images, or take away what is already in {dataset.name}",
        )


def _voxels(known: list[Case], unit: Unit, done: Done) -> dict[str, str]:
    """Hash the images that the dataset holds; broken ones are left for the check to report."""
    hashes = {}
    for case in known:
        try:
            image = stored_image(read_channels(case.images, case.id, unit=unit).data)
            hashes[stored_hash(image)] = case.id
        except MedSSLError:
            pass
        done(case.id)
    return hashes


def _refuse_duplicates(writer: CaseWriter, known: list[Case], dataset: Path) -> None:
    of_dataset = {c.id for c in known}
    for case_id, record in writer.records.items():
        twin = writer.by_voxels[record["voxels_sha256"]]
        if twin in of_dataset:
            raise MedSSLError(
                f"the image '{case_id}' is an exact duplicate of the dataset's case '{twin}'",
                where=writer.source,
                fix=f"take it out of the source; it is already in {dataset.name}",
            )


def _move_in(
    building: Path, dataset: Path, existing: Dataset, writer: CaseWriter, origin: Mapping[str, Any]
) -> None:
    """Move the new images into place, then replace dataset.json; undo the moves if that fails."""
    info, _ = read_json(dataset / "dataset.json")
    info["unlabeled"] = [*(info.get("unlabeled") or []), *writer.items["unlabeled"]]
    provenance = dataset / "provenance.json"
    record = read_json(provenance)[0] if provenance.is_file() else {}
    record["joined"] = [*record.get("joined", []), writer.provenance(origin)]
    write_json(building / "dataset.json", info)
    write_json(building / "provenance.json", record)
    replaced = ("provenance.json", "dataset.json")
    move_in(building, dataset, replaced=replaced, fix="rename the image in the source")
