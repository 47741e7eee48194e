"""Deal the labeled patients of a recipe into folds, and say how a fold's run uses each case."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medssl.data.checks.sketches import look
from medssl.data.datasets.case import Case
from medssl.data.datasets.contents import Contents
from medssl.data.datasets.copies import patient_groups
from medssl.data.datasets.folds import deal_folds, number_of_folds, untrained_structures
from medssl.data.datasets.known_files import KnownFiles
from medssl.data.datasets.resemblance import known_of
from medssl.data.datasets.split import Splits, make_splits
from medssl.data.images.labels import read_label
from medssl.data.opened import known_files, open_dataset
from medssl.errors import MedSSLError, located
from medssl.progress import Display
from medssl.recipe.load import LoadedRecipe
from medssl.runs.lineage import ANCESTORS, CROSSVAL, INIT, ROI, sources_of
from medssl.workflows.planned_runs import BASELINE

NO_BASELINE = "none"
Folds = tuple[tuple[str, ...], ...]
"""Patients of each fold."""


@dataclass(frozen=True)
class CrossvalSettings:
    """How patients are dealt and what is trained.

    Attributes:
        folds: a number, ``all`` for one patient a fold, or None for what suits their number.
        baseline: ``supervised``, or ``none``.
        repeats: how often the patients are dealt and everything is trained.
        transductive: whether the images of a fold's patients may serve as unlabeled ones.
    """

    folds: int | str | None = None
    baseline: str = BASELINE
    repeats: int = 1
    transductive: bool = False


@dataclass(frozen=True)
class Dealt:
    """The patients of a recipe, dealt into folds.

    Attributes:
        loaded: the recipe.
        cases: the cases with a label, by id; copies have one patient.
        divisions: patients of each fold, for every repeat.
        locked: ids of cases that no fold may use.
        notes: what is to be known of the folds.
    """

    loaded: LoadedRecipe
    cases: Mapping[str, Case]
    divisions: tuple[Folds, ...]
    locked: tuple[str, ...]
    notes: tuple[str, ...]

    def overrides(
        self,
        method: str,
        repeat: int,
        fold: int,
        *,
        labeled: int | None = None,
        transductive: bool = False,
    ) -> tuple[str, ...]:
        """Return the overrides that make a recipe that of one fold.

        The recipe's own test patients stay locked: they train nothing, and no fold is scored on
        them.

        Args:
            method: that is trained.
            repeat, fold: which fold.
            labeled: train on the labels of so many patients; the others' images are unlabeled.
            transductive: whether the images of its patients may serve as unlabeled ones.

        Raises:
            MedSSLError: the fold has fewer patients to train on, or cannot start from where the
                recipe says.
        """
        held_out = self.divisions[repeat][fold]
        tested = [c.id for c in self.cases.values() if c.patient in held_out]
        # In the order of the seeded shuffle of patients: fewer labels lie within more.
        rest = list(dict.fromkeys(c.patient for c in self.cases.values()))
        rest = [patient for patient in rest if patient not in held_out]
        if labeled is not None and labeled > len(rest):
            raise MedSSLError(
                f"{labeled} labeled patients are asked for but a fold trains on {len(rest)}",
                where="--labeled, --folds",
                fix="ask for fewer labels, or more folds",
            )
        taken = set(rest[:labeled])
        trained = [c.id for c in self.cases.values() if c.patient in taken]
        return (
            f"data.labeled={json.dumps(trained)}",
            "data.validation=0",
            f"data.test={json.dumps(tested)}",
            *([f"data.excluded={json.dumps(self.locked)}"] if self.locked else []),
            *(["data.transductive=true"] if transductive else []),
            *_own_fold(self.loaded, method, self.divisions, repeat, fold),
            "evaluation.checkpoint=last",
            "evaluation.splits=[test]",
        )


def deal(
    loaded: LoadedRecipe, folds: int | str | None, *, repeats: int = 1, display: Display
) -> Dealt:
    """Deal the labeled and validation patients of a recipe into folds.

    Args:
        loaded: the recipe.
        folds: a number, ``all``, or None for what suits the number of patients.
        repeats: how often they are dealt.
        display: shows progress.

    Raises:
        MedSSLError: too few patients, a number out of range, or a file that cannot be read.
    """
    data = loaded.recipe.data
    with located(loaded.source):
        dataset = open_dataset(data, loaded.recipe.spec, display)
        splits = make_splits(dataset, data, uses_unlabeled=False)
    files = known_files(data)
    everyone = (*splits.labeled, *splits.validation)
    contents = Contents(files, dataset.spatial_unit, look)
    structures, groups = _read(everyone, files, contents, display)
    cases = {c.id: replace(c, patient=groups[c.id]) for c in everyone}
    count = number_of_folds(len(structures), folds)
    divisions = tuple(
        deal_folds(structures, count, seed=(data.split_seed, repeat)) for repeat in range(repeats)
    )
    names = dict(zip(dataset.labels.values, dataset.labels.names, strict=True))
    notes = _notes(structures, divisions, names, splits)
    merged = sorted({c.patient for c in everyone} - structures.keys())
    if merged:
        notes = (*notes, f"{', '.join(merged)}: copies of scans of others, dealt with these")
    locked = (*data.excluded, *(c.id for c in splits.test))
    return Dealt(loaded, cases, divisions, locked, notes)


def _own_fold(
    loaded: LoadedRecipe, method: str, divisions: Sequence[Folds], repeat: int, fold: int
) -> list[str]:
    """Return overrides that start a fold from the same fold of another cross-validation.

    Raises:
        MedSSLError: that one has other folds.
    """
    changes, ancestors, found = [], [], False
    for key, source in sources_of(loaded.recipe):
        path = Path(source)
        is_crossval = (path / CROSSVAL).is_file()
        if is_crossval:
            source = str(_same_fold(key, path, divisions, repeat, fold))
        if key == ANCESTORS:
            ancestors.append(source)
            found |= is_crossval
        elif is_crossval and (key in (ROI, INIT) or method == loaded.recipe.method.name):
            changes.append(f"{'data.roi.run' if key == ROI else key}={json.dumps(source)}")
    return [*changes, *([f"{ANCESTORS}={json.dumps(ancestors)}"] if found else [])]


def _same_fold(key: str, path: Path, divisions: Sequence[Folds], repeat: int, fold: int) -> Path:
    """Return the run of another cross-validation that left out the patients of a fold.

    Raises:
        MedSSLError: it has none; ``key`` names it.
    """
    folder = path / f"repeat_{repeat}" if repeat else path
    there, count = len(list(folder.glob("fold_*"))), len(divisions[repeat])
    if there != count:
        times = f" in repeat {repeat}" if repeat else ""
        raise MedSSLError(
            f"{key} names a cross-validation of {there} folds{times}, and this one has {count}",
            where=path,
            fix=f"use --folds {there}" if there else "use fewer --repeats",
        )
    recorded = folds_of(path)
    if recorded is not None and list(map(sorted, recorded[repeat])) != list(
        map(sorted, divisions[repeat])
    ):
        raise MedSSLError(
            f"{key} names a cross-validation of other folds: its models saw labels of patients "
            "that are left out here",
            where=path / CROSSVAL,
            fix="cross-validate what it starts from anew, with the same patients, labels, --folds "
            "and data.split_seed",
        )
    return folder / f"fold_{fold}"


def folds_of(path: Path) -> list[list[list[str]]] | None:
    """Return the patients of each fold of a cross-validation, by repeat; None if it has no record.

    What is no such record says nothing; whose labels its runs saw is read from the runs.
    """
    try:
        found: list[list[list[str]]] = json.loads((path / CROSSVAL).read_text("utf-8"))["folds"]
        found[0][0][0]  # of one patient at least
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None
    return found


def _read(
    cases: Sequence[Case], files: KnownFiles, contents: Contents, display: Display
) -> tuple[dict[str, frozenset[int]], dict[str, str]]:
    """Return the label values that each patient shows, and the patient of each case.

    Patients of whom one scan is a copy are one patient: with the same voxels, in other intensities,
    cropped or padded. Each file is read once.

    Raises:
        MedSSLError: a file cannot be read.
    """
    values: dict[str, frozenset[int]] = {}
    with display.counting("reading labeled cases", len(cases)) as done:
        for case in cases:
            assert case.label is not None
            found = files.recall(case.label, "values")
            if not isinstance(found, list):
                found = [int(v) for v in np.unique(read_label(case.label)[0])]
                files.keep(case.label, "values", found)
            values[case.id] = frozenset(found) - {0}
            contents.all_of(case)  # learns all that is asked below
            done(case.id)
    known = known_of(cases, contents, values)
    groups = patient_groups(sorted(cases, key=lambda c: c.id), known)
    shown: dict[str, frozenset[int]] = {}
    for case in cases:
        patient = groups[case.id]
        shown[patient] = shown.get(patient, frozenset()) | values[case.id]
    return shown, groups


def _notes(
    structures: Mapping[str, frozenset[int]],
    divisions: Sequence[Folds],
    names: Mapping[int, str],
    splits: Splits,
) -> tuple[str, ...]:
    """Say what is to be known of the folds."""
    notes = []
    for value in dict.fromkeys(
        value for folds in divisions for _, value in untrained_structures(structures, folds)
    ):
        if value in names:
            shown = sum(value in own for own in structures.values())
            notes.append(
                f"{names[value]} is shown by {shown} of {len(structures)} patients: where they are "
                "held out, nothing of it is trained"
            )
    if splits.test:
        patients = len({c.patient for c in splits.test})
        notes.append(
            f"the recipe's {patients} test patients stay locked: they train nothing, and no fold "
            "is scored on them"
        )
    return tuple(notes)
