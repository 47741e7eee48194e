"""Rounds of self-training in one command: members label, a student learns, a verdict each round.

What is finished is not repeated and what was interrupted is resumed, so the same command goes on
where it was stopped; with more rounds it extends.

Sources: FLARE22's winner (Huang et al. 2022), ST++ (Yang et al., CVPR 2022), AbdomenCT-1K (Ma et
al. 2021); how voxels and scans are chosen is medssl's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.errors import MedSSLError
from medssl.files import write_json
from medssl.jobs.job import Outcome
from medssl.jobs.launch import Launcher, choose_launcher, launch
from medssl.progress import Display
from medssl.recipe.load import load_recipe
from medssl.workflows.planned_runs import RunsResult, jobs_of, only_one

if TYPE_CHECKING:
    from medssl.cross_validation.plan import PlannedFold
    from medssl.paths import AnyPath
    from medssl.pseudo_labels.labels import Rules
    from medssl.pseudo_labels.plan import Planner
    from medssl.pseudo_labels.teach import Teachers

FORMAT = 1
RECORD = "selftrain.json"
SAME = 0.98
"""Mean Dice of the labels of two rounds from which on they are the same."""


def selftrain(
    recipe: AnyPath,
    *,
    rounds: int = 2,
    members: str = "seeds",
    folds: int | str | None = None,
    whole: bool = False,
    agree: float = 2 / 3,
    drop: float = 0.1,
    with_atlas: AnyPath | None = None,
    overrides: Sequence[str] = (),
    output: AnyPath | None = None,
    jobs: int | None = None,
    launcher: str = "local",
    slurm: Sequence[str] = (),
    device: str = "auto",
    precision: str | None = None,
    display: Display | None = None,
) -> RunsResult:
    """Let several members label the unlabeled scans, and a student learn from what they agree on.

    The student learns from labels alone (method ``supervised``), true ones and the members', half
    of its patches from either, and ends on true ones. It then joins the members of the next round.
    In each fold neither members nor student saw a patient of that fold, so every round is compared
    with the one before on all labeled patients, out of fold. It ends when that does not rise, or
    when the labels stay the same.

    Args:
        recipe: a recipe file, or the name of a shipped one. Its method trains the members.
        rounds: at most so many.
        members: ``seeds`` or ``seeds:5`` of the recipe's method, ``methods:bcp,cps``, or ``folds``:
            each trained without one more fold.
        folds: as for `crossval`.
        whole: one student of all labels, in place of one a fold; nothing is compared then.
        agree: share of the members that must give a voxel its label; with fewer it is ignored.
        drop: share of the scans, at most 0.25, that are left out: where members agree least.
        with_atlas: a folder of `atlas`, whose atlases of other patients are one more member.
        overrides: ``section.key=value`` assignments for all runs.
        output: the folder; by default ``runs/NAME-selftrain``.
        jobs, launcher, slurm, device, precision: as for `crossval`.

    Returns:
        What became of the runs; ``summary`` is what ``selftrain.json`` holds once all are finished.

    Raises:
        MedSSLError: settings or cases that cannot work, before any training; or a member that was
            changed after a student learned from its labels.

    Example:
        >>> found = medssl.selftrain(
        ...     "mine.yaml", rounds=1, members="seeds:2", whole=True, output="runs/rounds"
        ... )
        >>> found.summary["rounds"][0]["kept"] > 0
        True
    """
    loaded = load_recipe(recipe, overrides)  # the recipe first: readers of images take a second
    _check(rounds, agree, drop, whole, folds, members)
    from medssl.cross_validation.deal import deal
    from medssl.pseudo_labels.labels import Rules
    from medssl.pseudo_labels.plan import Members, Planner

    display, own = display or Display(quiet=True), loaded.recipe
    who = Members.parse(members)
    where = choose_launcher(launcher, at_once=jobs, slurm=slurm)
    folder = Path("runs") / f"{own.name}-selftrain" if output is None else Path(output)
    dealt = deal(loaded, folds, display=display)
    planner = Planner(str(recipe), tuple(overrides), loaded, dealt, who, folder, whole)
    atlas = None if with_atlas is None else Path(with_atlas)
    work = _Work(planner, Rules(agree, drop), atlas, where, (device, precision), display)
    work.check()
    with only_one(folder, "self-training"):
        return work.all_rounds(rounds, members)


def _check(
    rounds: int, agree: float, drop: float, whole: bool, folds: int | str | None, members: str
) -> None:
    """Refuse settings that cannot work.

    Raises:
        MedSSLError: names the option.
    """
    if rounds < 1:
        raise MedSSLError(f"{rounds} rounds", where="--rounds", fix="give 1 or more")
    if not 0.5 < agree <= 1:
        raise MedSSLError(
            f"a share of {agree:g} of the members", where="--agree", fix="above 0.5, at most 1"
        )
    if not 0 <= drop <= 0.25:
        raise MedSSLError(f"a share of {drop:g}", where="--drop", fix="give 0 to 0.25")
    if whole and folds is not None and members != "folds":
        raise MedSSLError(
            "--whole trains one student of all labels, so there are no folds",
            where="--folds",
            fix="leave one of the two out",
        )


@dataclass
class _Work:
    """The state of a self-training between its steps; all that counts is in files."""

    planner: Planner
    rules: Rules
    atlas: Path | None
    where: Launcher
    device: tuple[str, str | None]
    display: Display
    planned: dict[Path, PlannedFold] = field(default_factory=dict)
    outcome: Outcome = field(default_factory=Outcome)
    students: list[list[PlannedFold]] = field(default_factory=list)

    def check(self) -> None:
        """Refuse what cannot work before anything is trained.

        Raises:
            MedSSLError: no unlabeled scan, no atlases that align, or a folder of something else.
        """
        from medssl.training.cases import plan_cases
        from medssl.workflows.training_order import refuse_seen_patients

        if self.atlas is not None:
            from medssl.atlases.folder import does_not_align, read_record

            if not (found := read_record(self.atlas).alignment).aligns:
                raise does_not_align(found, self.atlas)
            if self.planner.loaded.recipe.data.roi is not None:
                raise MedSSLError(
                    "data.roi crops scans, and atlases take whole ones",
                    where="--with-atlas",
                    fix="leave it out, or take data.roi out: --set data.roi=null",
                )
        for fold in self.planner.folds:
            loaded = self.planner.recipe_of(fold)
            refuse_seen_patients(
                loaded, plan_cases(loaded, Display(quiet=True), uses_unlabeled=True)
            )
            for run in self.planner.members_by_fold[fold]:
                run.check_folder()
        for note in self.planner.dealt.notes:
            self.display.say(f"note: {note}")

    def all_rounds(self, rounds: int, members: str) -> RunsResult:
        """Train members and rounds until that does not help any more."""
        from medssl.pseudo_labels.show import said

        planner = self.planner
        found: list[dict[str, Any]] = []
        summary: dict[str, Any] = {
            "format": FORMAT,
            "status": "running",
            "name": planner.loaded.recipe.name,
            "members": members,
            "atlas": None if self.atlas is None else str(self.atlas),
            "agree": self.rules.agree,
            "drop": self.rules.drop,
            "whole": planner.whole,
            "folds": [list(fold) for fold in planner.dealt.divisions[0]],
            "rounds": found,
        }
        write_json(planner.folder / RECORD, summary)
        ended = None
        if self._train([run for group in planner.members_by_fold for run in group]):
            ended = f"the {rounds} rounds that were asked for are done"
            for number in range(1, rounds + 1):
                entry = self._round(number)
                if entry is None:
                    return self._result({})
                if "students" in entry:
                    found.append(entry)
                    self.display.say(said(entry))
                if entry["ends"]:
                    ended = entry["ends"]
                    break
        if ended is None:
            return self._result({})
        helped = [r["round"] for r in found if planner.whole or r["gain"] > 0]
        best = helped[-1] if helped else 0
        looks = sum(r["verdict"] is not None for r in found)
        summary |= {"status": "finished", "looks": looks, "ended": ended, "result": best}
        write_json(planner.folder / RECORD, summary)
        return self._result(summary)

    def _train(self, runs: Sequence[PlannedFold]) -> bool:
        """Train what is left of some runs; say whether all are finished."""
        runs = list({run.path: run for run in runs}.values())
        self.planned |= {run.path: run for run in runs}
        device, precision = self.device
        for run in runs:
            run.check_folder()
        names = [run.name for run in runs]
        recipe = self.planner.recipe
        todo = jobs_of(runs, recipe, self.where, names=names, device=device, precision=precision)
        self.outcome = launch(todo, self.where, folder=self.planner.folder, display=self.display)
        return all(run.finished for run in runs)

    def _round(self, number: int) -> dict[str, Any] | None:
        """Do a round; None where a run did not end, and no ``students`` where labels stay."""
        planner, remade, pseudo = self.planner, [], []
        for fold in planner.folds:
            remade.append(self._label(number, fold))
        alike = self._alike(number)
        if alike is not None and alike > SAME:
            same = f"the labels of round {number} are those of round {number - 1} (mean Dice"
            return {"ends": f"{same} {alike:.3f}): there is nothing new to learn"}
        for fold in planner.folds:
            spec = self._teachers(number, fold).recipe.recipe.spec
            pseudo.append(planner.pseudo(number, fold, self._labels(number, fold), spec))
        if not self._train(pseudo):
            return None
        ended = [
            planner.student(number, fold, [run, *self._runs(number, fold)])
            for fold, run in zip(planner.folds, pseudo, strict=True)
        ]
        if not self._train(ended):
            return None
        self.students.append(ended)
        return self._judge(number, remade) | {"labels_alike": alike}

    def _runs(self, number: int, fold: int) -> list[PlannedFold]:
        earlier = [students[fold] for students in self.students[: number - 1]]
        return [*self.planner.members_by_fold[fold], *earlier]

    def _teachers(self, number: int, fold: int) -> Teachers:
        from medssl.pseudo_labels.teach import Teachers

        device, precision = self.device
        runs = self._runs(number, fold)
        return Teachers(self.planner, fold, runs, self.atlas, device, precision or "auto")

    def _labels(self, number: int, fold: int) -> Path:
        return self.planner.place(fold, f"round_{number}", "labels")

    def _label(self, number: int, fold: int) -> bool:
        """Make the pseudo-labels of a fold, if they do not stand; say whether they were made."""
        from medssl.pseudo_labels.labels import labels_stand, write_labels

        teachers, folder = self._teachers(number, fold), self._labels(number, fold)
        pool = teachers.pool(self.display)
        makers = teachers.makers(pool, self.display)
        student = self.planner.place(fold, f"round_{number}", "pseudo")
        stands = labels_stand(pool, makers, self.rules, folder, student, self.display)
        if not stands:
            write_labels(pool, makers, self.rules, folder)
        pool.refuse_held_back(folder)
        return not stands

    def _alike(self, number: int) -> float | None:
        """Return how alike the labels of a round are to those of the round before."""
        from medssl.pseudo_labels.labels import sameness

        if number == 1:
            return None
        pairs = [(self._labels(number, f), self._labels(number - 1, f)) for f in self.planner.folds]
        return sum(sameness(a, b) for a, b in pairs) / len(pairs)

    def _judge(self, number: int, remade: Sequence[bool]) -> dict[str, Any]:
        """Say how a round did: its labels, its students against the round before, its members."""
        from medssl.pseudo_labels.judge import compare_rounds, counted_scans, together

        planner = self.planner
        entry: dict[str, Any] = {"round": number, "ends": "", "verdict": None, "gain": math.nan}
        entry |= counted_scans([self._labels(number, fold) for fold in planner.folds])
        teachers = [self._teachers(number, fold) for fold in planner.folds]
        output = planner.folder / f"round_{number}" / "together"
        entry["together"] = together(teachers, output, self.display, remade)
        students = self.students[number - 1]
        entry["students"] = [run.name for run in students]
        if planner.whole:
            return entry
        before = self.students[number - 2] if number > 1 else [t.runs[0] for t in teachers]
        entry |= compare_rounds(planner, number, students, before)
        if not entry["gain"] > 0:
            named = f"round {number - 1}" if number > 1 else "one member"
            entry["ends"] = (
                f"round {number} is not better than {named} out of fold ({entry['gain']:+.4f} mean "
                "Dice): a further one is not worth its time"
            )
        return entry

    def _result(self, summary: dict[str, Any]) -> RunsResult:
        runs = self.planned.values()
        return RunsResult(
            path=self.planner.folder,
            summary=summary,
            failures=self.outcome.failures,
            stopped=self.outcome.stopped,
            finished=sum(run.finished for run in runs),
            total=len(runs),
            queued=self.outcome.queued,
        )
