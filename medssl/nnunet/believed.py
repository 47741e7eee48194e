"""Which pseudo-labels of a run or folder are believed, in which voxels, and for which fold.

Of a self-training what its members agreed on: each fold has labels of its own, made by members that
saw none of its patients. Of other predictions all voxels, but those of which the network was unsure
where maps of its uncertainty were written, and no scan of weight 0 in ``unlabeled.csv``.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from medssl.data.datasets.case import IGNORE_INDEX, LabelMap
from medssl.data.datasets.decathlon import read_dataset
from medssl.data.images.labels import read_label
from medssl.data.images.names import list_images, split_extension
from medssl.data.images.volume import read_image
from medssl.errors import MedSSLError
from medssl.inference.record_file import recorded_predictions
from medssl.pseudo_labels.labels import LABELS
from medssl.pseudo_labels.plan import WHOLE
from medssl.pseudo_labels.selftrain import RECORD
from medssl.runs.folder import RunFolder
from medssl.runs.lineage import PREDICTIONS
from medssl.runs.unlabeled_csv import FILE
from medssl.workflows.atlas import UNLABELED

UNSURE = 0.5
"""Normalized entropy from which on a voxel is not believed: half of that of a mere guess."""


@dataclass(frozen=True)
class PseudoLabels:
    """Label maps that one set of models made.

    Attributes:
        maps: file by case id; left-out scans are not among them.
        labels: what their values mean; None: as in the dataset.
        uncertainty: map of normalized entropy by case id, where there is one.
        validates: patients of the fold that these labels are for; None: they are for any.
        note: what was measured against them; empty if nothing.
        truth: patients and cases whose true labels the run was given; None: nobody says.
    """

    maps: Mapping[str, Path]
    labels: LabelMap | None = None
    uncertainty: Mapping[str, Path] = field(default_factory=dict)
    validates: tuple[str, ...] | None = None
    note: str = ""
    truth: frozenset[str] | None = None

    def believed(self, case: str, labels: LabelMap) -> tuple[np.ndarray, np.ndarray]:
        """Return classes ``(X, Y, Z)`` of a case, `IGNORE_INDEX` where unbelieved, and the affine.

        Args:
            case: id of one of `maps`.
            labels: of the dataset.

        Raises:
            MedSSLError: a file cannot be read, or has values that the dataset does not declare.
        """
        path = self.maps[case]
        values, affine = read_label(path)
        try:
            classes = (self.labels or labels).to_classes(values)
        except ValueError as error:
            raise MedSSLError(
                str(error), where=path, fix="give pseudo-labels of this dataset's structures"
            ) from None
        entropy = self.uncertainty.get(case)
        if entropy is not None:
            unsure = read_image(entropy).values()
            if unsure.shape != classes.shape:
                raise MedSSLError(
                    f"a map of shape {unsure.shape} beside a label of shape {classes.shape}",
                    where=entropy,
                    fix="predict this image again",
                )
            classes[unsure >= UNSURE] = IGNORE_INDEX
        return classes, affine


def find_pseudo_labels(source: Path, round_number: int | None = None) -> list[PseudoLabels]:
    """Return the pseudo-labels of a self-training, of a run, or of a folder of predictions.

    Args:
        source: the folder.
        round_number: of a self-training; by default the round it took, or else its first.

    Returns:
        One set, or one for each fold of a self-training.

    Raises:
        MedSSLError: there are none, or they are no pseudo-labels.
    """
    if not source.is_dir():
        raise MedSSLError("there is no such folder", where=source, fix="check the path")
    if (source / RECORD).is_file():
        return _of_selftrain(source, round_number)
    if round_number is not None:
        raise MedSSLError("only a self-training has rounds", where="--round", fix="leave it out")
    if (source / LABELS / PREDICTIONS).is_file():
        return [_of_round(source, None)]
    run = RunFolder(source)
    folder = run.predictions(UNLABELED) if run.recipe.is_file() else source
    recorded = recorded_predictions(folder)
    files = {split_extension(p.name)[0]: p for p in list_images(folder)}
    maps = {case: path for case, path in files.items() if case in recorded}
    if not maps:
        raise MedSSLError(
            "there are no predictions of medssl here",
            where=folder,
            fix="give the folder of `medssl selftrain`, or that of `medssl predict RUN IMAGES "
            "--output DIR`",
        )
    left = _left_out(source / FILE)
    entropy = {split_extension(p.name)[0]: p for p in list_images(folder / "uncertainty")}
    return [PseudoLabels({c: p for c, p in maps.items() if c not in left}, uncertainty=entropy)]


def _of_selftrain(source: Path, number: int | None) -> list[PseudoLabels]:
    record = _read(source / RECORD)
    rounds = [int(entry["round"]) for entry in record.get("rounds", ())]
    chosen = number or int(record.get("result") or 0) or 1
    place = source / f"round_{chosen}" / "labels"
    if chosen not in rounds or not place.is_dir():
        raise MedSSLError(
            f"the self-training has no finished round {chosen}",
            where=source,
            fix="run the same `medssl selftrain` command again: it goes on where it stopped",
        )
    if (place / WHOLE).is_dir():
        return [_of_round(place / WHOLE, None)]
    note = "" if record.get("result") else "no round of the self-training helped out of fold"
    folds = [tuple(map(str, fold)) for fold in record["folds"]]
    return [
        replace(_of_round(place / f"fold_{k}", patients), note=note)
        for k, patients in enumerate(folds)
    ]


def _of_round(folder: Path, validates: tuple[str, ...] | None) -> PseudoLabels:
    """Return the labels of one fold of a round: a Decathlon folder of truth and pseudo-labels."""
    dataset = read_dataset(folder, allow_outside=True)
    own = (folder / LABELS).resolve()
    maps, truth = {}, set(validates or ())
    for case in dataset.training:
        if case.label is None:
            continue
        if case.label.parent.resolve() == own:
            maps[case.id] = case.label
        else:
            truth |= {case.id, case.patient}
    left = _left_out(folder / FILE)
    maps = {case: path for case, path in maps.items() if case not in left}
    return PseudoLabels(maps, labels=dataset.labels, validates=validates, truth=frozenset(truth))


def _left_out(table: Path) -> set[str]:
    """Return the scans that ``unlabeled.csv`` leaves out; none without such a file."""
    if not table.is_file():
        return set()
    with table.open(encoding="utf-8", newline="") as file:
        rows: Iterable[dict[str, str]] = list(csv.DictReader(file))
    return {row["case"] for row in rows if not float(row.get("weight") or 0) > 0}


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return dict(content)
    except (OSError, ValueError, TypeError) as error:
        raise MedSSLError(
            f"the record of the self-training cannot be read: {error}",
            where=path,
            fix="run the same `medssl selftrain` command again",
        ) from None
