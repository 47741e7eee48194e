"""Faults of dataset.json: who is listed where."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from medssl.data.datasets.case import Case, Dataset
from medssl.data.datasets.origins import chosen_patients
from medssl.data.datasets.problem import Problem
from medssl.data.images.names import EXTENSIONS, group_channels, list_images, split_extension


def list_problems(dataset: Dataset) -> list[Problem]:
    """Check the lists of a dataset against each other and against the folders."""
    return [
        *_patients(dataset),
        *_guess(dataset),
        *_label_names(dataset),
        *_unlisted(dataset),
        *_origins(dataset),
        *_deviations(dataset),
    ]


def _origins(dataset: Dataset) -> Iterator[Problem]:
    chosen = chosen_patients(dataset.training)
    if chosen:
        yield Problem(
            "note",
            dataset.root / "dataset.json",
            f"{len(chosen)} of {len({c.patient for c in dataset.training})} labeled patients were "
            f"chosen by a rule (medssl next; first: '{min(chosen)}')",
            "nothing to do: medssl crossval judges on the others and reports these apart",
            "label_origin",
        )


def _patients(dataset: Dataset) -> Iterator[Problem]:
    roles = {"labeled": dataset.training, "unlabeled": dataset.unlabeled, "test": dataset.test}
    patients: dict[str, dict[str, list[Case]]] = defaultdict(lambda: defaultdict(list))
    for role, cases in roles.items():
        for case in cases:
            patients[case.patient][role].append(case)
    shared = []
    for patient, lists in patients.items():
        trained = [c for role in ("labeled", "unlabeled") for c in lists.get(role, [])]
        if lists.get("test") and trained:
            test, first = lists["test"][0], trained[0]
            role = "labeled" if lists.get("labeled") else "unlabeled"
            if first.images == test.images:
                continue  # one image in two lists by intention; nothing is hidden
            yield Problem(
                "warning",
                test.images[0],
                f"patient '{patient}' is in test (case '{test.id}') and {role} ('{first.id}')",
                "take the patient out of one list; if these are two people, give the items "
                'different "patient" values in dataset.json',
                "patient",
                test.id,
            )
        elif lists.get("labeled") and lists.get("unlabeled"):
            shared.append(lists["unlabeled"][0])
    if shared:
        yield Problem(
            "note",
            shared[0].images[0],
            f"{len(shared)} patients have labeled and unlabeled scans (first: '{shared[0].id}')",
            "nothing to do: scans of validation and test patients are kept out of training",
            "patient",
            shared[0].id,
        )


def _guess(dataset: Dataset) -> Iterator[Problem]:
    if dataset.guess is not None:
        yield Problem(
            "warning",
            dataset.root / "dataset.json",
            dataset.guess.sentence,
            dataset.guess.fix,
            "patient_guess",
        )


def _label_names(dataset: Dataset) -> Iterator[Problem]:
    """Find labels that by their file name belong to another case."""
    stems = {split_extension(c.images[0].name)[0]: c.id for c in dataset.training}
    ids = set(stems.values())
    used: dict[Path, str] = {}
    for case in dataset.training:
        assert case.label is not None
        stem = split_extension(case.label.name)[0]
        owner = stems.get(stem, stem if stem in ids else case.id)
        if case.label in used:
            yield Problem(
                "warning",
                case.label,
                f"the label is listed for '{used[case.label]}' and for '{case.id}'",
                "mend the items in dataset.json",
                "label_name",
                case.id,
            )
        elif owner != case.id:
            yield Problem(
                "warning",
                case.label,
                f"the label of case '{case.id}' carries the name of case '{owner}'",
                "mend the items in dataset.json, or rename the file if it is the right one",
                "label_name",
                case.id,
            )
        used.setdefault(case.label, case.id)


def _unlisted(dataset: Dataset) -> Iterator[Problem]:
    """Find images in the dataset's folders that no list names."""
    cases = [*dataset.training, *dataset.unlabeled, *dataset.test]
    known = {p.resolve() for c in cases for p in c.images}
    known |= {c.label.resolve() for c in dataset.training if c.label is not None}
    for name in ("imagesTr", "labelsTr"):
        folder = dataset.root / name
        scans = group_channels(list_images(folder, EXTENSIONS), len(dataset.modality))
        extra = [files[0] for _, files in scans if files[0].resolve() not in known]
        if extra:
            yield Problem(
                "note",
                extra[0],
                f"{len(extra)} files of {name} are in no list of dataset.json and are not used "
                f"(first: {extra[0].name})",
                'list them under "training" with their label, or under "unlabeled"',
                "unlisted",
            )


def _deviations(dataset: Dataset) -> Iterator[Problem]:
    for text in dataset.deviations:
        yield Problem(
            "note",
            dataset.root / "dataset.json",
            text,
            "nothing to do: it is read all the same; --repair writes it the usual way",
            "format",
        )
