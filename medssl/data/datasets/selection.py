"""Find the cases that a recipe names, by case id, by patient, or in a JSON file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medssl.data.datasets.case import Case, Dataset
from medssl.data.datasets.decathlon_header import read_json
from medssl.errors import MedSSLError, did_you_mean
from medssl.settings.recipe import Selection, SplitFile

SELECTION_FIX = (
    "give a number of patients, a list of ids, or {file: splits.json, key: NAME}; "
    "without data.labeled all cases with labels are used"
)


@dataclass(frozen=True)
class Pool:
    """The cases with labels, and their patients in the order of a seeded shuffle."""

    cases: tuple[Case, ...]
    order: tuple[str, ...]

    @classmethod
    def of(cls, dataset: Dataset, seed: int, *, needs_labels: bool = True) -> Pool:
        """Shuffle the patients of a dataset's labeled cases.

        Raises:
            MedSSLError: no case has a label, though one is needed.
        """
        if needs_labels and not dataset.training:
            raise MedSSLError(
                "no training case has a label",
                where=dataset.root / "dataset.json",
                fix='list labels: {"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}',
            )
        patients = np.array(sorted({c.patient for c in dataset.training}), dtype=object)
        order = np.random.default_rng(seed).permutation(patients)
        return cls(dataset.training, tuple(str(p) for p in order))

    def cases_of(self, patients: Iterable[str]) -> list[Case]:
        """Return all cases of some patients, in the order of ``patients``."""
        by_patient: dict[str, list[Case]] = {}
        for case in self.cases:
            by_patient.setdefault(case.patient, []).append(case)
        return [case for patient in patients for case in by_patient[patient]]


def named_cases(selection: Selection, role: str, dataset: Dataset, pool: Pool) -> list[Case] | None:
    """Return the cases that a list or a file names, in its order; None for a number or nothing.

    ``test`` may also name ``imagesTs`` cases that carry a label.

    Raises:
        MedSSLError: the file or its key is missing, or an id is unknown (names the nearest).
    """
    if selection is None or isinstance(selection, int):
        return None
    where: str | Path = f"data.{role}"
    ids: list[str]
    if isinstance(selection, list):
        ids = selection
    else:
        ids, where = _read_ids(selection, role, dataset.root)
    choices = list(pool.cases)
    if role == "test":
        choices += [c for c in dataset.test if c.label is not None]
    found: dict[str, Case] = {}
    unknown = []
    for name in ids:
        matches = [c for c in choices if name in (c.id, c.patient)]
        # An id names one case even where it is also the name of a patient.
        matches = [c for c in matches if c.id == name] or matches
        found.update({c.id: c for c in matches})
        if not matches:
            unknown.append(name)
    if unknown:
        raise _unknown(unknown, where, choices, dataset)
    return list(found.values())


def named_patients(names: Iterable[str], role: str, dataset: Dataset) -> set[str]:
    """Return the patients of ids of cases or patients, with a label or without.

    Raises:
        MedSSLError: an id is unknown (names the nearest).
    """
    everyone = [*dataset.training, *dataset.unlabeled, *dataset.test]
    owners: dict[str, set[str]] = {}
    for case in everyone:
        for name in (case.id, case.patient):
            owners.setdefault(name, set()).add(case.patient)
    for name in names:
        if name not in owners:
            raise MedSSLError(
                f"'{name}' is neither a case nor a patient of this dataset",
                where=f"data.{role}",
                fix=did_you_mean(name, sorted(owners), most=3),
            )
    return set().union(*(owners[name] for name in names))


def _unknown(
    names: list[str], where: str | Path, choices: list[Case], dataset: Dataset
) -> MedSSLError:
    first = names[0]
    more = f" (and {len(names) - 1} more such ids)" if len(names) > 1 else ""
    if first in {c.id for c in dataset.test}:
        return MedSSLError(
            f"case '{first}' is a test image of the dataset{more}",
            where=where,
            fix="only data.test may name it, and only if dataset.json gives it a label",
        )
    if first in {c.id for c in dataset.unlabeled}:
        return MedSSLError(
            f"case '{first}' has no label{more}",
            where=where,
            fix="name cases that have a label, or add the label to dataset.json",
        )
    ids = sorted({c.id for c in choices} | {c.patient for c in choices})
    return MedSSLError(
        f"'{first}' is neither a case nor a patient of this dataset{more}",
        where=where,
        fix=did_you_mean(first, ids, most=3),
    )


def _read_ids(selection: SplitFile, role: str, root: Path) -> tuple[list[str], Path]:
    """Read the ids under the key of a JSON file, looked up in the dataset, then here."""
    name = Path(selection.file).expanduser()
    path = next((p for p in (root / name, Path.cwd() / name) if p.is_file()), None)
    if path is None:
        raise MedSSLError(
            f"data.{role} names the file {selection.file}, which is neither in the dataset's "
            "folder nor in the current one",
            where=root / name,
            fix="write the file, or give data." + role + " as a number or a list of ids",
        )
    content, _ = read_json(path)
    if selection.key not in content:
        keys = [k for k, v in content.items() if isinstance(v, list)]
        raise MedSSLError(
            f"data.{role} names the key '{selection.key}', which the file has not",
            where=path,
            fix=did_you_mean(selection.key, keys, most=12),
        )
    ids = content[selection.key]
    if not isinstance(ids, list) or not all(isinstance(i, str) for i in ids):
        raise MedSSLError(
            f"'{selection.key}' is not a list of ids", where=path, fix='write ["id", "id", ...]'
        )
    return ids, path
