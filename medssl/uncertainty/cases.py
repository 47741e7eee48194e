"""Which cases a run may be calibrated on, and which may check the result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medssl.data.datasets.case import Case, Dataset
from medssl.data.datasets.contents import Contents
from medssl.data.datasets.selection import Pool, named_cases
from medssl.data.datasets.split import Splits
from medssl.data.datasets.split_file import load_splits
from medssl.data.opened import known_files, open_dataset
from medssl.errors import MedSSLError, located
from medssl.models.loaded_run import LoadedRun
from medssl.runs.folder import RunFolder
from medssl.runs.lineage import read_lineage
from medssl.runs.resume import check_same_labels
from medssl.runs.seen import refuse_seen, who_was_seen


def read_case_ids(text: str) -> list[str]:
    """Read ids separated by commas, or the lines of a text file.

    Raises:
        MedSSLError: the file cannot be read or names nothing.
    """
    path = Path(text)
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else text.split(",")
    except (OSError, UnicodeDecodeError) as error:
        raise MedSSLError(
            f"the list of cases cannot be read: {error}", where=path, fix="write one id per line"
        ) from None
    ids = [line.strip() for line in lines if line.strip()]
    if not ids:
        raise MedSSLError("names no case", where=text or "--cases", fix="write one id per line")
    return ids


def choose_cases(
    loaded: LoadedRun, *, split: str, named: Sequence[str], check: str | None
) -> tuple[list[Case], list[Case]]:
    """Return the cases to calibrate on and those to check the result on.

    Args:
        loaded: the run.
        split: ``validation``; unless cases are ``named``.
        named: ids of cases or patients.
        check: ``test``, ``validation``, or None for no check.

    Raises:
        MedSSLError: there are none, they were trained or are tested on, they are of fewer than two
            patients, or both sets share a patient.
    """
    dataset = open_dataset(loaded.recipe.data, loaded.recipe.spec)
    check_same_labels(loaded.folder, dataset)
    splits = load_splits(loaded.folder.splits, dataset)
    if named:
        chosen = _named(named, loaded, dataset, splits)
    else:
        chosen = _split(splits, split, loaded, ("validation",))
    held_out = _split(splits, check, loaded, ("test", "validation")) if check else []
    refuse_seen_by(loaded, dataset, chosen, "calibration", chosen=True)
    refuse_seen_by(loaded, dataset, held_out, "held-out")
    patients = {c.patient for c in chosen}
    if patients & {c.patient for c in held_out}:
        raise MedSSLError(
            f"{check} cases cannot check what is fitted on them",
            where=loaded.folder.splits,
            fix="use --check test, or calibrate on other cases",
        )
    if len(patients) < 2:
        raise MedSSLError(
            "calibration needs the cases of at least two patients, better twenty or more",
            where=loaded.folder.splits,
            fix="name more with --cases",
        )
    return chosen, held_out


def refuse_seen_by(
    loaded: LoadedRun, dataset: Dataset, cases: Sequence[Case], what: str, *, chosen: bool = False
) -> None:
    """Refuse patients whose label one of the runs that predict, or an ancestor, saw.

    Args:
        loaded: the runs.
        dataset: of the cases.
        cases: what is to be scored.
        what: the cases in a word, such as ``held-out``.
        chosen: whether they may have chosen the checkpoint, as validation cases do.

    Raises:
        MedSSLError: there are such patients.
    """
    contents = Contents(known_files(loaded.recipe.data), dataset.spatial_unit)
    for weights in loaded.weights:
        run = RunFolder(weights.parent.parent)  # RUN/checkpoints/last.pt
        seen = who_was_seen(
            read_lineage(run), cases, dataset.name, contents=contents, chosen=chosen
        )
        refuse_seen(seen, what, where=run.path)


def _split(splits: Splits, name: str, loaded: LoadedRun, allowed: Sequence[str]) -> list[Case]:
    if name not in allowed:
        raise MedSSLError(
            f"{name!r} is no split to use here",
            fix=f"use {' or '.join(allowed)}, or name cases with --cases",
        )
    found = sorted(getattr(splits, name), key=lambda c: c.id)
    if not found:
        raise MedSSLError(
            f"the run has no {name} cases",
            where=loaded.folder.splits,
            fix="name labeled cases that it was neither trained nor tested on with --cases"
            if name == "validation"
            else f"leave out --check {name}",
        )
    return found


def _named(names: Sequence[str], loaded: LoadedRun, dataset: Dataset, splits: Splits) -> list[Case]:
    """Find the named cases, and refuse those that would flatter or spoil the test."""
    pool = Pool.of(dataset, loaded.recipe.data.split_seed)
    with located("--cases"):
        found = named_cases(list(names), "validation", dataset, pool) or []
    for role, why in (
        ("labeled", "the run learned from its label, so it is too sure of it"),
        ("test", "test cases decide nothing"),
    ):
        patients = {c.patient for c in getattr(splits, role)}
        wrong = [c.id for c in found if c.patient in patients]
        if wrong:
            raise MedSSLError(
                f"case '{wrong[0]}' cannot calibrate: {why} ({len(wrong)} such cases)",
                where=loaded.folder.splits,
                fix="name other labeled cases with --cases",
            )
    return sorted(found, key=lambda c: c.id)
