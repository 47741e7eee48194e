"""Which runs a round of self-training is made of: members, and the two runs of each student.

Folder of a self-training, dealt into folds::

    NAME/members/seed_0/fold_0/ ...     members, each trained without the fold's patients
    NAME/atlases/fold_0/ ...            labeled scans of the others, where atlases vote, too
    NAME/round_1/labels/fold_0/         a Decathlon folder: truth, and what the members agree on
    NAME/round_1/pseudo/fold_0/         the student, trained on that folder
    NAME/round_1/fold_0/                the student, ended on truth: this run counts
    NAME/round_1/crossval.json          out-of-fold scores, the verdict against the round before
    NAME/selftrain.json                 every round, why it ended

A single student of all labels has a folder ``whole`` in place of those of the folds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from medssl.cross_validation.deal import Dealt
from medssl.cross_validation.plan import PlannedFold
from medssl.errors import MedSSLError, did_you_mean
from medssl.methods.registry import get_settings
from medssl.recipe.load import LoadedRecipe, load_recipe
from medssl.settings.spec import DataSpec
from medssl.workflows.planned_runs import BASELINE, overrides_for

KINDS = ("seeds", "folds", "methods")
SEEDS = 3
WHOLE = "whole"
"""Stands for the folds where there is one student of all labels."""
END = 0.1
"""Share of the iterations at the end that learn from truth alone, and their learning rate as a
share of the recipe's (AbdomenCT-1K's fine-tuning, shortened)."""


@dataclass(frozen=True)
class Members:
    """Who labels the unlabeled scans.

    Attributes:
        kind: one of `KINDS`.
        seeds: how many, of that kind.
        methods: their names, of that kind.
    """

    kind: str = "seeds"
    seeds: int = SEEDS
    methods: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Members:
        """Read ``seeds``, ``seeds:5``, ``folds`` or ``methods:bcp,cps``.

        Raises:
            MedSSLError: anything else, or fewer than two members.
        """
        kind, _, rest = text.replace(" ", "").partition(":")
        where = "--members"
        if kind not in KINDS:
            raise MedSSLError(
                f"there are no members {kind!r}", where=where, fix=did_you_mean(kind, KINDS)
            )
        names = tuple(name for name in rest.split(",") if name)
        few = MedSSLError(
            "members are compared with each other, which takes two or more",
            where=where,
            fix="name them as seeds:3, folds, or methods:bcp,self_training",
        )
        if kind == "methods":
            if len(set(names)) < 2 or len(set(names)) < len(names):
                raise few
            for name in names:
                get_settings(name)
            return cls(kind, methods=names)
        if rest and (kind == "folds" or not rest.isdecimal()):
            few.what = f"{kind} cannot be {rest!r}"
            raise few
        count = int(rest or SEEDS)
        if count < 2:
            raise few
        return cls(kind, seeds=count)


@dataclass(frozen=True)
class Planner:
    """Plans the runs of a self-training.

    Attributes:
        recipe: file or name.
        given: overrides of the user's.
        loaded: the recipe.
        dealt: its patients, in folds.
        members: who labels.
        folder: of all of it.
        whole: whether there is one student of all labels.
    """

    recipe: str
    given: tuple[str, ...]
    loaded: LoadedRecipe
    dealt: Dealt
    members: Members
    folder: Path
    whole: bool

    @property
    def folds(self) -> list[int]:
        """The folds; a single one for the whole."""
        return [0] if self.whole else list(range(len(self.dealt.divisions[0])))

    def place(self, fold: int, *parts: str) -> Path:
        """Return what belongs to a fold, in a folder of the self-training."""
        return self.folder.joinpath(*parts, WHOLE if self.whole else f"fold_{fold}")

    @cached_property
    def members_by_fold(self) -> list[list[PlannedFold]]:
        """The members that label for the student of each fold: none saw its patients."""
        return [self._members_of(fold) for fold in self.folds]

    def _members_of(self, fold: int) -> list[PlannedFold]:
        own = self.loaded.recipe
        if self.members.kind == "folds":
            every = range(len(self.dealt.divisions[0]))
            if self.whole:
                return [self._without((other,)) for other in every]
            return [self._without((fold, other)) for other in every if other != fold]
        if self.members.kind == "methods":
            return [
                self._run(fold, ("members", name), name, cases=self._cases(name, fold))
                for name in self.members.methods
            ]
        method = own.method.name
        return [
            self._run(
                fold,
                ("members", f"seed_{own.seed + n}"),
                method,
                cases=(*self._cases(method, fold), f"seed={own.seed + n}"),
            )
            for n in range(self.members.seeds)
        ]

    def recipe_of(self, fold: int) -> LoadedRecipe:
        """Return the recipe as a fold has it: what it may learn from, and who is held out."""
        own = self.loaded.recipe.method.name
        return load_recipe(self.recipe, [*self.given, *self._cases(own, fold)])

    def pseudo(self, number: int, fold: int, dataset: Path, spec: DataSpec) -> PlannedFold:
        """Return the run of a student on truth and pseudo-labels.

        Args:
            number: of the round.
            fold: whose student.
            dataset: the Decathlon folder of truth and pseudo-labels.
            spec: the members' data spec, whose voxel size may have been the median of other scans.
        """
        training = self.loaded.recipe.training
        of_folder = {
            "root": str(dataset.resolve()),
            "phantom": {},
            "allow_outside": True,
            "patients": None,
            "labeled": None,
            "unlabeled": [],
            "unlabeled_limit": None,
            "test_as_unlabeled": False,
            "test": 0,
            "excluded": [],
        }
        cases = (
            *self._cases(BASELINE, fold),
            *(f"data.{key}={json.dumps(value)}" for key, value in of_folder.items()),
            f"spec.spacing={json.dumps(spec.spacing)}",
            f"training.iterations={training.iterations - self._end}",
            f"seed={self.loaded.recipe.seed + number}",
            "evaluation.splits=[]",
        )
        return self._run(fold, (f"round_{number}", "pseudo"), BASELINE, cases=cases)

    def student(self, number: int, fold: int, before: Sequence[PlannedFold]) -> PlannedFold:
        """Return the run in which a student ends on truth.

        Args:
            number: of the round.
            fold: whose student.
            before: its run on truth and pseudo-labels, then all that labeled for it.
        """
        cases = (
            *self._cases(BASELINE, fold),
            f"network.init={json.dumps(str(before[0].path.resolve()))}",
            f"training.iterations={self._end}",
            f"training.schedule={json.dumps({'name': 'finetune', 'peak': END})}",
            f"seed={self.loaded.recipe.seed + number}",
        )
        costs = tuple(dict.fromkeys(p for run in before for p in (run.path, *run.costs)))
        return self._run(fold, (f"round_{number}",), BASELINE, cases=cases, costs=costs)

    @property
    def _end(self) -> int:
        return max(1, round(END * self.loaded.recipe.training.iterations))

    def _cases(self, method: str, fold: int) -> tuple[str, ...]:
        """Return the overrides that leave a fold out, or with the whole none but test patients."""
        if not self.whole:
            found = self.dealt.overrides(method, 0, fold)
        else:
            test = [name for name in self.dealt.locked if name not in self._excluded]
            found = (
                f"data.labeled={json.dumps(list(self.dealt.cases))}",
                "data.validation=0",
                f"data.test={json.dumps(test) if test else 0}",
                "evaluation.checkpoint=last",
                "evaluation.splits=[test]",
            )
        return (*found, "data.transductive=false")

    @property
    def _excluded(self) -> list[str]:
        return self.loaded.recipe.data.excluded

    def _without(self, folds: tuple[int, ...]) -> PlannedFold:
        """Return the member that saw no patient of some folds."""
        method = self.loaded.recipe.method.name
        gone = {patient for fold in folds for patient in self.dealt.divisions[0][fold]}
        cases = self.dealt.cases.values()
        changes = (
            *self.dealt.overrides(method, 0, folds[0]),
            f"data.labeled={json.dumps([c.id for c in cases if c.patient not in gone])}",
            f"data.test={json.dumps([c.id for c in cases if c.patient in gone])}",
            "data.transductive=false",
        )
        name = "_".join(["without", *map(str, sorted(folds))])
        return self._planned(self.folder / "members" / name, folds[0], method, changes)

    def _run(
        self,
        fold: int,
        parts: tuple[str, ...],
        method: str,
        *,
        cases: Sequence[str],
        costs: tuple[Path, ...] = (),
    ) -> PlannedFold:
        return self._planned(self.place(fold, *parts), fold, method, cases, costs)

    def _planned(
        self,
        path: Path,
        fold: int,
        method: str,
        cases: Sequence[str],
        costs: tuple[Path, ...] = (),
    ) -> PlannedFold:
        changes = (*overrides_for(method, self.loaded.recipe.method.name, self.given), *cases)
        checked = load_recipe(self.recipe, changes)
        return PlannedFold(path, changes, checked, method, 0, fold, self.folder, costs=costs)
