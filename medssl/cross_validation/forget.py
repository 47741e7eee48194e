"""A patient taken out of a run or a cross-validation: what learned from the scans is trained again.

Nothing is unlearned by approximation. What never saw the patient keeps its weights bit for bit; all
else is trained again from its recipe, with the recorded cases and folds without the patient.
"""

from __future__ import annotations

import json
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medssl.cross_validation.crossval import train_folds
from medssl.cross_validation.deal import NO_BASELINE, CrossvalSettings, Folds
from medssl.cross_validation.forgetting import (
    Traces,
    clean_cache,
    descendants,
    learned_from,
    remaining,
    traces_of,
)
from medssl.cross_validation.kept_run import keep_run
from medssl.cross_validation.plan import CrossvalPlan, PlannedFold
from medssl.data.datasets.split import ROLES
from medssl.data.opened import cache_root, open_dataset
from medssl.errors import MedSSLError
from medssl.files import write_json
from medssl.files.folders import discard_folder
from medssl.jobs.launch import choose_launcher
from medssl.paths import AnyPath
from medssl.progress import Display
from medssl.recipe.load import load_recipe
from medssl.runs.folder import RunFolder, open_run
from medssl.runs.lineage import CROSSVAL
from medssl.runs.members import is_crossval
from medssl.workflows.planned_runs import BASELINE, jobs_of, only_one

RECORD = "forgotten.json"
FORMAT = 1
AGAIN, KEPT, GONE = (
    "trained again",
    "weights kept, measured again",
    "left out: nobody is left in it",
)


@dataclass(frozen=True)
class Forgotten:
    """What :func:`forget` leaves.

    Attributes:
        path: the new folder.
        parts: what became of each run, by its name within the folder.
        descendants: runs beside it that started from the old one, and still know the patient.
        out_of_reach: bundles that lie beside it.
        failures: run -> reason.
        deleted: whether the old folder is gone.
    """

    path: Path
    parts: dict[str, str]
    descendants: tuple[Path, ...]
    out_of_reach: tuple[Path, ...]
    failures: dict[str, str]
    deleted: bool


def forget(
    run: AnyPath,
    patients: Sequence[str],
    *,
    output: AnyPath | None = None,
    overrides: Sequence[str] = (),
    delete_old: bool = False,
    device: str = "auto",
    precision: str | None = None,
    display: Display | None = None,
) -> Forgotten:
    """Write a new folder in which nothing was learned from some patients; goes on if stopped.

    Their files and entries have to be out of the dataset already. Entries of the preprocessing
    cache that hold their scans are deleted.

    Args:
        run: a run folder, or that of a cross-validation.
        patients: the patients, or cases of them, as ``splits.json`` names them.
        output: the new folder; by default beside the old one.
        overrides: ``section.key=value``, such as another ``network.init`` that forgot them, too.
        delete_old: delete the old folder at the end.
        device, precision: as for `train`.

    Raises:
        MedSSLError: they are not known here, still in the dataset, or seen through an ancestor;
            or something of them is found in the new folder.

    Example:
        >>> try:
        ...     medssl.forget("runs/mine", ["nobody"])
        ... except medssl.MedSSLError as error:
        ...     error.what
        'no scan of nobody is recorded here'
    """
    display = display or Display(quiet=True)
    old = Path(run)
    folds = is_crossval(old)
    runs = [RunFolder(path) for path in _folds_of(old)] if folds else [open_run(old)]
    traces = traces_of(runs, patients)
    new = old.with_name(f"{old.name}-forgot") if output is None else Path(output)
    if new.resolve() == old.resolve():
        raise MedSSLError("that is the old folder", where=new, fix="choose another --output")
    _refuse_present(runs[0], traces)
    divisions = _divisions(old, traces) if folds else ()
    planned, parts = [], {}
    for one in runs:
        plan = _planned(one, old, new, traces, overrides, divisions)
        if plan is None:
            parts[one.path.relative_to(old).as_posix()] = GONE
            continue
        again = bool(overrides) or learned_from(one, traces)
        planned.append((one, plan))
        name = _name(plan)
        parts[name] = AGAIN if again else KEPT
        display.say(f"{name}: {parts[name]}")
    with _unnamed():
        for one, plan in planned:
            if parts[_name(plan)] == KEPT:
                keep_run(one, plan)
        work = _Work(old, new, traces, divisions, device, precision)
        failures = work.run(planned, display)
    if failures:
        return Forgotten(new, parts, (), (), failures, deleted=False)
    for root in {cache_root(plan.loaded.recipe.data) for _, plan in planned}:
        clean_cache(root, traces)
    if found := remaining(new, traces):
        raise MedSSLError(
            f"{len(found)} files of the new folder name the patient, such as {found[0].name}",
            where=new,
            fix="take the name out of the recipe (its name, paths or notes), and forget again "
            "into another --output",
        )
    later, bundles = descendants(old)
    write_json(
        new / RECORD,
        {
            "format": FORMAT,
            "token": secrets.token_hex(16),
            "date": time.strftime("%Y-%m-%d"),
            "parts": parts,
        },
    )
    if delete_old:
        discard_folder(old)
    return Forgotten(new, parts, tuple(later), tuple(bundles), {}, deleted=delete_old)


def _name(plan: PlannedFold) -> str:
    return "run" if plan.path == plan.folder else plan.name


def _folds_of(folder: Path) -> list[Path]:
    """Return all runs of a cross-validation, twins and repeats included."""
    found = {p.parent for p in folder.rglob("recipe.yaml") if p.parent.name.startswith("fold_")}
    return sorted(found, key=lambda p: (p.parent.as_posix(), int(p.name.removeprefix("fold_"))))


def _refuse_present(run: RunFolder, traces: Traces) -> None:
    recipe = load_recipe(run.recipe).recipe
    dataset = open_dataset(recipe.data, recipe.spec)
    cases = [*dataset.training, *dataset.unlabeled, *dataset.test]
    there = sum(bool({c.id, c.patient} & traces.names) for c in cases)
    if there:
        raise MedSSLError(
            f"the dataset still holds {there} scans of the patient",
            where=dataset.root,
            fix="take the files and their entries in dataset.json out first",
        )


def _divisions(folder: Path, traces: Traces) -> tuple[Folds, ...]:
    """Return the recorded folds without the patients; one that nobody is left in is empty.

    Raises:
        MedSSLError: fewer than two folds are left.
    """
    record = json.loads((folder / CROSSVAL).read_text(encoding="utf-8"))
    found = tuple(
        tuple(tuple(traces.without(fold)) for fold in division) for division in record["folds"]
    )
    if min(sum(map(bool, division)) for division in found) < 2:
        raise MedSSLError("fewer than two folds are left", where=folder, fix="cross-validate anew")
    return found


def _planned(
    one: RunFolder,
    old: Path,
    new: Path,
    traces: Traces,
    overrides: Sequence[str],
    divisions: Sequence[Folds],
) -> PlannedFold | None:
    """Return a run as it is to be without the patients: the recorded cases, by name.

    None for a fold that nobody is left in; those behind it move up.
    """
    part, number, repeat = one.path.relative_to(old), 0, 0
    if divisions:
        repeat = next((int(p[7:]) for p in part.parts if p.startswith("repeat_")), 0)
        fold = int(part.name.removeprefix("fold_"))
        if not divisions[repeat][fold]:
            return None
        number = sum(map(bool, divisions[repeat][:fold]))
        part = part.with_name(f"fold_{number}")
    recipe = load_recipe(one.recipe).recipe
    splits = json.loads(one.splits.read_text(encoding="utf-8"))
    roles = {role: traces.without(splits[role]) for role in ROLES}
    if not roles["labeled"]:
        raise MedSSLError(
            "nobody with a label is left", where=one.path, fix="delete the folder yourself"
        )
    dataset = open_dataset(recipe.data, recipe.spec)
    kept = {case for ids in roles.values() for case in ids}
    everyone = {c.id for c in (*dataset.training, *dataset.unlabeled)}
    excluded = dict.fromkeys(traces.without(recipe.data.excluded))
    if roles["unlabeled"]:  # what was not drawn then is not drawn now
        excluded |= dict.fromkeys(sorted(everyone - kept))
    changes = (
        *(f"data.{role}={json.dumps(roles[role])}" for role in ("labeled", "validation", "test")),
        f"data.excluded={json.dumps(list(excluded))}",
        *overrides,
    )
    loaded = load_recipe(one.recipe, changes)
    return PlannedFold(new / part, changes, loaded, recipe.method.name, repeat, number, new)


@contextmanager
def _unnamed() -> Iterator[None]:
    """Keep the command, which names patients, out of the records of what is trained."""
    before, sys.argv = sys.argv, [*sys.argv[:1], "forget"]
    try:
        yield
    finally:
        sys.argv = before


@dataclass(frozen=True)
class _Work:
    """What is left to train and to measure, see :func:`forget`."""

    old: Path
    new: Path
    traces: Traces
    divisions: tuple[Folds, ...]
    device: str
    precision: str | None

    def run(
        self, planned: Sequence[tuple[RunFolder, PlannedFold]], display: Display
    ) -> dict[str, str]:
        """Do it; return what failed."""
        where, jobs = choose_launcher("local", at_once=1), []
        for one, plan in planned:
            name = _name(plan)
            how = {"device": self.device, "precision": self.precision}
            jobs += jobs_of([plan], one.recipe, where, names=[name], **how)  # type: ignore[arg-type]
        if not self.divisions:
            for job in jobs:
                job.call(display)
            return {}
        whole = self._plan([plan for _, plan in planned])
        with only_one(self.new, "cross-validation"):
            return dict(train_folds(whole, jobs, where, display, pictures=True).failures)

    def _plan(self, runs: Sequence[PlannedFold]) -> CrossvalPlan:
        """Return the cross-validation as it is without the patients."""
        from medssl.training.cases import plan_cases

        record = json.loads((self.old / CROSSVAL).read_text(encoding="utf-8"))
        cases: dict[str, Any] = {}
        for run in runs:
            splits = plan_cases(run.loaded, Display(quiet=True)).splits
            cases |= {case.id: case for case in (*splits.labeled, *splits.test)}
        divisions = tuple(tuple(filter(None, division)) for division in self.divisions)
        methods = record["methods"]
        settings = CrossvalSettings(
            len(divisions[0]),
            BASELINE if len(methods) > 1 else NO_BASELINE,
            len(divisions),
            record["transductive"],
        )
        order = sorted(runs, key=lambda r: (r.repeat, r.fold, methods.index(r.method)))
        own = next(r for r in order if r.method == methods[0])
        notes = [n for n in record["notes"] if not any(name in n for name in self.traces.names)]
        return CrossvalPlan(
            self.new, own.loaded, settings, cases, divisions, tuple(order), tuple(notes)
        )
