"""Import raw nnU-Net datasets: version 1 (cases listed) and version 2 (cases found by name)."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medssl.data.datasets.case import Case, Dataset
from medssl.data.datasets.decathlon import read_dataset
from medssl.data.datasets.decathlon_header import read_json
from medssl.data.images.names import CHANNEL, list_images, safe_id, split_extension
from medssl.data.importers.importer import (
    ImportedCase,
    Importer,
    ImportPlan,
    ImportSettings,
    register,
)
from medssl.data.importers.nnunet_exported import RECORD, plan_exported
from medssl.data.importers.volumes import read_case_label, read_channels
from medssl.errors import MedSSLError


@register("nnunet")
class NNUNet(Importer):
    """A raw nnU-Net folder; channels in files of their own become one image.

    A label named ``ignore`` stays the ignore label, and regions stay regions. A folder that medssl
    exported becomes the dataset it was: label values, patients, and no pseudo-label.
    """

    summary = "raw nnU-Net folder, version 1 or 2 (dataset.json, imagesTr, labelsTr, imagesTs)"

    def plan(self, source: Path, settings: ImportSettings) -> ImportPlan:
        """See :class:`Importer`."""
        dataset = read_dataset(source)
        if (dataset.root / RECORD).is_file():
            return plan_exported(dataset, _read)
        info, _ = read_json(dataset.root / "dataset.json")
        labels = dict(zip(dataset.labels.values, dataset.labels.names, strict=True))
        test_labels = {
            split_extension(p.name)[0]: p for p in list_images(dataset.root / "labelsTs")
        }
        training = [*dataset.training, *dataset.unlabeled]
        reads = [partial(_read, case, dataset, case.label, "training") for case in training]
        for case in dataset.test:
            channel = CHANNEL.match(split_extension(case.images[0].name)[0])
            stem = channel["case"] if channel else case.id
            label = case.label or test_labels.get(case.id) or test_labels.get(stem)
            reads.append(partial(_read, case, dataset, label, "test"))
        return ImportPlan(
            name=dataset.name,
            modality=dataset.modality,
            labels=labels,
            ignore_value=dataset.labels.ignore_value,
            regions=dataset.labels.regions,
            spatial_unit=dataset.spatial_unit,
            licence=str(info.get("licence") or info.get("license") or ""),
            notes=dataset.deviations,
            cases=reads,
            splits=_folds(dataset.root / "splits_final.json"),
        )


def _read(
    case: Case, dataset: Dataset, label: Path | None, split: Literal["training", "test"]
) -> ImportedCase:
    unit = dataset.spatial_unit
    image = read_channels(case.images, case.id, unit=unit)
    mask: np.ndarray | None = None
    warnings: tuple[str, ...] = ()
    if label is not None:
        mask, warnings = read_case_label(label, case.id, image, unit=unit)
    return ImportedCase(
        id=safe_id(case.id),
        image=image.data,
        affine=image.affine,
        note=image.note,
        label=mask,
        patient=case.patient if case.patient != case.id else None,
        split=split,
        meta=case.meta,
        sources=(*case.images, *([] if label is None else [label])),
        warnings=warnings,
    )


def _folds(path: Path) -> dict[str, list[str]]:
    """Read the folds of splits_final.json, if somebody put it beside dataset.json."""
    if not path.is_file():
        return {}
    try:
        folds: Any = json.loads(path.read_text(encoding="utf-8"))
        return {
            f"fold_{n}_{role}": [safe_id(str(i)) for i in fold[role]]
            for n, fold in enumerate(folds)
            for role in ("train", "val")
        }
    except (OSError, ValueError, TypeError, KeyError):
        raise MedSSLError(
            "does not list the folds as nnU-Net writes them",
            where=path,
            fix='write [{"train": [...], "val": [...]}, ...], or take the file away',
        ) from None
