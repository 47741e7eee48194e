"""The folds of a cross-validation and their runs, checked before the first one is trained.

Folder of a cross-validation::

    NAME/fold_0/ fold_1/ ...              a run per fold, each a run folder like any other
    NAME/baseline/fold_0/ ...             the same folds with labels alone
    NAME/repeat_1/fold_0/ ... baseline/   the next division into folds, with the next seed
    NAME/evaluation/out_of_fold/          every patient by the run that never saw its label
    NAME/crossval.json  report.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medssl.cross_validation.deal import NO_BASELINE, CrossvalSettings, Folds, deal
from medssl.data.datasets.case import Case
from medssl.errors import MedSSLError
from medssl.paths import AnyPath
from medssl.progress import Display
from medssl.recipe.load import LoadedRecipe, load_recipe
from medssl.runs.folder import RunFolder
from medssl.workflows.planned_runs import BASELINE, PlannedRun, overrides_for


@dataclass(frozen=True)
class PlannedFold(PlannedRun):
    """The run of one fold, by the recipe's method or by its baseline."""

    method: str
    repeat: int
    fold: int
    folder: Path

    @property
    def name(self) -> str:
        """The folder of the run within that of the cross-validation."""
        return self.path.relative_to(self.folder).as_posix()


@dataclass(frozen=True)
class CrossvalPlan:
    """A cross-validation to be trained.

    Attributes:
        folder: of all of it.
        loaded: the recipe, as the folds' runs have it but for their cases.
        settings: as asked for.
        cases: the cases with a label, by id.
        divisions: patients of each fold, for every repeat.
        runs: of all folds, those of a fold beside each other.
        notes: what is to be known of the folds.
    """

    folder: Path
    loaded: LoadedRecipe
    settings: CrossvalSettings
    cases: Mapping[str, Case]
    divisions: tuple[Folds, ...]
    runs: tuple[PlannedFold, ...]
    notes: tuple[str, ...]

    @property
    def methods(self) -> tuple[str, ...]:
        """The recipe's method, and the baseline where it is another."""
        return tuple(dict.fromkeys(run.method for run in self.runs))

    def of(self, method: str, repeat: int) -> list[PlannedFold]:
        """Return the runs of one division into folds."""
        return [r for r in self.runs if (r.method, r.repeat) == (method, repeat)]

    def division_folder(self, method: str, repeat: int) -> Path:
        """Return the folder that holds the runs of one division, and their evaluation."""
        return self.of(method, repeat)[0].path.parent

    def described(self) -> dict[str, Any]:
        """Return what ``crossval.json`` says of the plan."""
        data = self.loaded.recipe.data
        return {
            "name": self.loaded.recipe.name,
            "methods": list(self.methods),
            "repeats": len(self.divisions),
            "folds": [[list(fold) for fold in folds] for folds in self.divisions],
            "transductive": self.settings.transductive,
            "split_seed": data.split_seed,
            "members": [run.name for run in self.of(self.methods[0], 0)],
            "notes": list(self.notes),
            "shared": list(SHARED),
        }


SHARED = (
    "data spec, patch, network, budget and all other settings stand in the recipe and are the same "
    "in every fold; where `medssl plan` or a person chose them with a look at these patients, the "
    "figures are that much too good",
    "intensities are normalized scan by scan or by numbers in the recipe: nothing is fitted to a "
    "fold's training patients",
)


def plan_crossval(
    recipe: AnyPath,
    settings: CrossvalSettings,
    *,
    overrides: Sequence[str] = (),
    output: AnyPath | None = None,
    display: Display,
) -> CrossvalPlan:
    """Deal the labeled patients of a recipe into folds, and plan a run for each.

    Raises:
        MedSSLError: too few patients, a setting out of range, or a recipe that cannot work.
    """
    loaded = load_recipe(recipe, overrides)
    own = loaded.recipe
    if settings.baseline not in (BASELINE, NO_BASELINE):
        raise MedSSLError(
            f"there is no baseline {settings.baseline!r}",
            where="--baseline",
            fix=f"use {BASELINE} or {NO_BASELINE}",
        )
    if settings.repeats < 1:
        raise MedSSLError(f"{settings.repeats} repeats", where="--repeats", fix="give 1 or more")
    if not loaded.settings.segments:
        raise MedSSLError(
            f"{own.method.name} predicts nothing that could be cross-validated",
            where=loaded.source,
            fix="train it, and cross-validate a recipe that starts from its run (--init RUN)",
        )
    dealt = deal(loaded, settings.folds, repeats=settings.repeats, display=display)
    folder = Path("runs") / f"{own.name}-crossval" if output is None else Path(output)
    if RunFolder(folder).recipe.is_file():
        raise MedSSLError(
            "this is the folder of a single run",
            where=folder,
            fix="choose another --output for the folds",
        )
    methods = [own.method.name]
    notes = dealt.notes
    if own.method.name == BASELINE:
        notes = (*notes, "the recipe's method learns from labels alone: there is no baseline")
    elif settings.baseline == BASELINE:
        methods.append(BASELINE)
    runs = []
    for repeat, folds in enumerate(dealt.divisions):
        for fold in range(len(folds)):
            for method in methods:
                parts = ([f"repeat_{repeat}"] if repeat else []) + (
                    ["baseline"] if method != methods[0] else []
                )
                path = folder.joinpath(*parts, f"fold_{fold}")
                changes = (
                    *overrides_for(method, own.method.name, overrides),
                    *dealt.overrides(method, repeat, fold, transductive=settings.transductive),
                    f"seed={own.seed + repeat}",
                )
                checked = load_recipe(recipe, changes)
                runs.append(PlannedFold(path, changes, checked, method, repeat, fold, folder))
    return CrossvalPlan(folder, loaded, settings, dealt.cases, dealt.divisions, tuple(runs), notes)
