"""Bring a raw nnU-Net folder back that medssl exported: as the dataset that it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from medssl.data.datasets.case import Dataset, LabelMap
from medssl.data.datasets.decathlon_header import read_json
from medssl.data.images.names import list_images, split_extension
from medssl.data.importers.importer import ImportedCase, ImportPlan
from medssl.errors import MedSSLError

RECORD, RECORD_FORMAT = "medssl.json", 1
"""Beside dataset.json: ``labels`` (values, names, ignore_value of the dataset), and ``cases``: by
nnU-Net's name the ``case``, its ``patient``, its ``role`` (labeled, pseudo, unlabeled, test)."""


@dataclass(frozen=True)
class _Entry:
    """What the record says of a case."""

    case: str
    patient: str
    role: str
    meta: Mapping[str, str] = field(default_factory=dict)


def plan_exported(dataset: Dataset, read: Callable[..., ImportedCase]) -> ImportPlan:
    """Return the plan of an exported folder: pseudo-labels are left, label values are as before.

    Args:
        dataset: the raw folder.
        read: reads a case as nnU-Net's importer does.

    Raises:
        MedSSLError: the record is damaged, or lacks a case.
    """
    path = dataset.root / RECORD
    record, _ = read_json(path)
    try:
        if record["format"] != RECORD_FORMAT:
            raise ValueError(f"format {record['format']}")
        labels = LabelMap.from_dict(record["labels"])
        names = dict(zip(labels.values, labels.names, strict=True))
        cases = {str(name): _Entry(**entry) for name, entry in record["cases"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MedSSLError(
            f"the record of the export is damaged: {error!r}",
            where=path,
            fix="export the dataset again, or take the file away: pseudo-labels are then labels",
        ) from None
    ignore = labels.ignore_value
    table = np.array([*labels.values, *([] if ignore is None else [ignore])], np.uint16)
    of_tests = {split_extension(p.name)[0]: p for p in list_images(dataset.root / "labelsTs")}
    reads: dict[str, Callable[[], ImportedCase]] = {}
    pseudo = set()
    for case in (*dataset.training, *dataset.unlabeled, *dataset.test):
        entry = cases.get(case.id)
        if entry is None:
            raise MedSSLError(
                f"the record of the export does not know case '{case.id}'",
                where=path,
                fix="take the case out of the folder, or the file away",
            )
        if entry.role == "pseudo":
            pseudo.add(entry.case)
        split = "test" if entry.role == "test" else "training"
        label = of_tests.get(case.id) if split == "test" else case.label
        kept = label if entry.role in ("labeled", "test") else None
        one = partial(read, case, dataset, kept, split)
        reads.setdefault(entry.case, partial(_as_before, one, entry, table))
    notes = [f"{len(pseudo)} scans with pseudo-labels are unlabeled, as they were"] * bool(pseudo)
    return ImportPlan(
        name=dataset.name,
        modality=dataset.modality,
        labels=names,
        ignore_value=ignore,
        regions=labels.regions,
        spatial_unit=dataset.spatial_unit,
        notes=tuple(notes),
        cases=list(reads.values()),
        splits=_folds(dataset.root / "splits_final.json", cases),
    )


def _as_before(read: Callable[[], ImportedCase], entry: _Entry, table: np.ndarray) -> ImportedCase:
    case = read()
    label = case.label
    if label is not None:
        if label.max(initial=0) >= len(table):
            raise MedSSLError(
                f"case '{case.id}': its label has the value {label.max()}, which none had",
                where=case.sources[-1],
                fix="export the dataset again",
            )
        label = table[label]
    return replace(case, id=entry.case, label=label, patient=entry.patient, meta=entry.meta)


def _folds(path: Path, cases: Mapping[str, _Entry]) -> dict[str, list[str]]:
    """Return the true labels of each fold, under their own names."""
    if not path.is_file():
        return {}
    try:
        folds = json.loads(path.read_text(encoding="utf-8"))
        return {
            f"fold_{n}_{role}": [
                cases[name].case for name in fold[role] if cases[name].role == "labeled"
            ]
            for n, fold in enumerate(folds)
            for role in ("train", "val")
        }
    except (OSError, ValueError, TypeError, KeyError):
        raise MedSSLError(
            "does not list the folds that medssl wrote",
            where=path,
            fix="take the file away, or export the dataset again",
        ) from None
