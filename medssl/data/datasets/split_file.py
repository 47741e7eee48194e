"""splits.json: which case is labeled, unlabeled, for validation or for the test, with a hash."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from medssl.data.datasets.case import Case, Dataset
from medssl.data.datasets.decathlon_header import read_json
from medssl.data.datasets.split import ROLES, Splits
from medssl.errors import MedSSLError
from medssl.files import write_json

PATIENTS = "patients"
"""Key of ``splits.json``: the patient of each case that is not called as its patient."""


def split_hash(splits: Splits) -> str:
    """Return the SHA-256 of the case ids of each role, whatever their order."""
    return _hash({role: [c.id for c in getattr(splits, role)] for role in ROLES})


def _hash(ids: dict[str, list[str]]) -> str:
    text = json.dumps({role: sorted(ids[role]) for role in ROLES}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def save_splits(splits: Splits, path: Path) -> None:
    """Write ``splits.json``: the case ids per role, hash, notes, copies left out, and patients that
    are not called as their case; atomic.

    Each list can itself be named by a recipe: ``data.labeled: {file: splits.json, key: labeled}``.
    """
    cases = {role: getattr(splits, role) for role in ROLES}
    content = {
        "hash": split_hash(splits),
        **{role: [c.id for c in found] for role, found in cases.items()},
        PATIENTS: {c.id: c.patient for found in cases.values() for c in found if c.patient != c.id},
        "notes": list(splits.notes),
        "left_out": [asdict(found) for found in splits.left_out],
    }
    write_json(path, content)


def load_splits(path: Path, dataset: Dataset) -> Splits:
    """Read splits written by :func:`save_splits` and find their cases in a dataset.

    Raises:
        MedSSLError: the file is not one of splits, was edited, or names cases that are not there.
    """
    content, _ = read_json(path)
    ids: dict[str, list[str]] = {}
    for role in ROLES:
        value = content.get(role)
        if not isinstance(value, list) or not all(isinstance(i, str) for i in value):
            raise MedSSLError(
                f"has no list '{role}' of case ids",
                where=path,
                fix="name a splits.json that medssl wrote",
            )
        ids[role] = value
    if content.get("hash") != _hash(ids):
        raise MedSSLError(
            "was changed after it was written: its hash does not fit its ids",
            where=path,
            fix="restore the file, or name its lists in a recipe and split anew",
        )
    cases = {c.id: c for c in [*dataset.test, *dataset.unlabeled, *dataset.training]}
    missing = [i for role in ROLES for i in ids[role] if i not in cases]
    missing += [
        i for role in ROLES if role != "unlabeled" for i in ids[role] if not _label(cases.get(i))
    ]
    if missing:
        raise MedSSLError(
            f"names {len(set(missing))} cases that dataset '{dataset.name}' lacks or has no label "
            f"for (first: '{missing[0]}')",
            where=path,
            fix=f"use the dataset these splits were made for, not {dataset.root}",
        )
    found = {role: tuple(cases[i] for i in ids[role]) for role in ROLES}
    notes = content.get("notes")
    return Splits(
        labeled=found["labeled"],
        unlabeled=tuple(c.without_label() for c in found["unlabeled"]),
        validation=found["validation"],
        test=found["test"],
        notes=tuple(notes) if isinstance(notes, list) else (),
    )


def _label(case: Case | None) -> bool:
    # A case that is missing altogether is already counted.
    return case is None or case.label is not None
