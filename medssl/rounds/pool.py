"""The scans that may be labeled next: those of a dataset or a folder that have no label."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medssl.data.checks.sketches import look
from medssl.data.datasets.case import Case, Dataset
from medssl.data.datasets.contents import Contents
from medssl.data.datasets.resemblance import in_words, known_of
from medssl.data.dicom.series import Series
from medssl.data.images.names import EXTENSIONS, image_suffix, same_name
from medssl.data.opened import known_files, open_dataset
from medssl.errors import MedSSLError
from medssl.inference.inputs import find_cases
from medssl.progress import Display
from medssl.recipe.load import load_recipe
from medssl.runs.folder import RunFolder
from medssl.runs.members import is_crossval, members_of

UNLABELED = "unlabeled"
"""Stands for the scans of the run's dataset that have no label."""


@dataclass(frozen=True)
class Known:
    """What a model was made of.

    Attributes:
        dataset: of its run or runs.
        labeled: scans whose labels it was trained on.
        locked: patients that nothing may be trained on, such as test patients.
        contents: knows scans by their voxels.
    """

    dataset: Dataset
    labeled: tuple[Case, ...]
    locked: frozenset[str]
    contents: Contents


@dataclass(frozen=True)
class PoolScan:
    """A scan that may be labeled.

    Attributes:
        case: its id, files and patient.
        voxels: hash of its voxels.
        of_dataset: whether it is an unlabeled scan of the dataset.
    """

    case: Case
    voxels: str
    of_dataset: bool


def what_is_known(source: Path, display: Display) -> Known:
    """Find the dataset of a run or cross-validation, and how its cases were used.

    Raises:
        MedSSLError: the dataset is not there any more, or a record is damaged.
    """
    members = [RunFolder(path) for path in members_of(source)]
    recipes = [load_recipe(member.recipe).recipe for member in members]
    dataset = open_dataset(recipes[0].data, recipes[0].spec, display)
    trained = (
        ("labeled", "validation", "test") if is_crossval(source) else ("labeled", "validation")
    )
    roles = [_roles(member.splits) for member in members]
    seen = {case for one in roles for role in trained for case in one.get(role, ())}
    left = set() if is_crossval(source) else {c for one in roles for c in one.get("test", ())}
    named = left | {name for recipe in recipes for name in recipe.data.excluded}
    everyone = (*dataset.training, *dataset.unlabeled, *dataset.test)
    locked = {c.patient for c in everyone if {c.id, c.patient} & named}
    return Known(
        dataset=dataset,
        labeled=tuple(c for c in dataset.training if c.id in seen),
        locked=frozenset(locked | {c.patient for c in dataset.test}),
        contents=Contents(known_files(recipes[0].data), dataset.spatial_unit, look),
    )


def _roles(path: Path) -> dict[str, list[str]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {role: list(ids) for role, ids in found.items() if isinstance(ids, list)}
    except (OSError, ValueError, AttributeError) as error:
        raise MedSSLError(
            f"the record of which case was used as what cannot be read: {error}",
            where=path,
            fix="restore splits.json, or train again",
        ) from None


def find_pool(
    pool: Sequence[str | Path], known: Known, display: Display
) -> tuple[list[PoolScan], list[str]]:
    """Return the scans that may be labeled, and what was left out and why, one line each.

    Left out are scans of locked patients, copies of scans that have a label or are locked (in other
    intensities, cropped or padded ones, too), copies of one another, DICOM series and detached
    headers, and what cannot be read.

    Args:
        pool: `UNLABELED`, folders or image files.
        known: what the model was made of.
        display: shows progress.

    Raises:
        MedSSLError: a folder holds no image, or nothing is left.
    """
    cases, notes = _listed(pool, known.dataset)
    dataset = known.dataset
    used = {c.id: c for c in (*dataset.training, *dataset.test)}
    files = {path.resolve(): c for c in used.values() for path in c.images}
    todo = [c for c in cases if c.images[0].resolve() not in files]
    notes += _counted(len(cases) - len(todo), "have a label or are test scans already")
    held = [c for c in todo if c.patient in known.locked]
    notes += _counted(len(held), "are of patients that are kept for a test")
    todo = [c for c in todo if c.patient not in known.locked]
    hidden = [c for c in dataset.unlabeled if c.patient in known.locked]
    own = {path.resolve(): c for c in dataset.unlabeled for path in c.images[:1]}
    seen: list[Case] = []
    fresh: list[Case] = []
    before = [*used.values(), *hidden]
    with display.counting("comparing scans", len(before) + len(todo)) as done:
        for number, case in enumerate((*before, *todo)):
            done(case.id)
            try:
                known.contents.all_of(case)
            except MedSSLError as error:
                if number >= len(before):  # of the others a check of the dataset reports it
                    notes.append(f"{case.id} is left out: {error.what}")
                continue
            (seen if number < len(before) else fresh).append(case)
    # By number, for scans from several folders may have one id.
    everyone = [replace(case, id=str(n)) for n, case in enumerate((*seen, *fresh))]
    bodies = known_of(everyone, known.contents, [case.id for case in everyone])
    met = {body: c.id for n, c in reversed([*enumerate(seen)]) for body in bodies[str(n)]}
    found: list[PoolScan] = []
    for number, case in enumerate(fresh, len(seen)):
        voxels, own_bodies = known.contents.of(case), bodies[str(number)]
        shared = next((body for body in own_bodies if body in met), None)
        if not voxels or shared is not None:
            why = f"it is {in_words(shared, met[shared])}" if shared else "its image is constant"
            notes.append(f"{case.id} is left out: {why}")
            continue
        met |= dict.fromkeys(own_bodies, case.id)
        mine = own.get(case.images[0].resolve())
        found.append(PoolScan(mine or case, voxels, mine is not None))
    if not found:
        raise MedSSLError(
            "no scan is left that could be labeled" + "".join(f"\n  {n}" for n in notes[:5]),
            where="--pool",
            fix="name a folder of images without labels, or add some to the dataset: "
            "medssl import images FOLDER DATASET",
        )
    return found, notes


def _counted(count: int, why: str) -> list[str]:
    return [f"{count} scans of the pool {why}"] if count else []


def _listed(pool: Sequence[str | Path], dataset: Dataset) -> tuple[list[Case], list[str]]:
    """Return the scans that a pool names; each id is free in the dataset or means that scan."""
    if [str(p) for p in pool] == [UNLABELED]:
        return list(dataset.unlabeled), []
    items, notes = find_cases([Path(p) for p in pool], channels=len(dataset.modality))
    everyone = (*dataset.training, *dataset.unlabeled, *dataset.test)
    known = {path.resolve(): c for c in everyone for path in c.images[:1]}
    taken = {same_name(c.id) for c in everyone}
    cases = []
    for name, source in items:
        if isinstance(source, Series) or not all(image_suffix(p, EXTENSIONS) for p in source):
            how = "import it first (medssl import dicom or sitk)"
            notes.append(f"{name} is left out: it is not one file with header and voxels; {how}")
            continue
        mine = known.get(source[0].resolve())
        if mine is not None:
            cases.append(mine.without_label())
            continue
        case = Case(name, source, None, name)
        if same_name(name) in taken:
            other = f"{source[0].resolve().parent.name}_{name}"
            case = replace(case, id=other, patient=other)
        cases.append(case)
    return cases, notes
