"""The combinations of a sweep, checked as far as possible before the first one is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medssl.comparison.experiments import EvaluatedRun, read_run
from medssl.cross_validation.deal import Dealt, deal
from medssl.cross_validation.pool import SPLIT, pool_folds
from medssl.data.datasets.case import Case
from medssl.data.datasets.split import NothingUnlabeled
from medssl.errors import MedSSLError
from medssl.methods.registry import get_settings
from medssl.paths import AnyPath
from medssl.progress import Display
from medssl.recipe.load import load_recipe
from medssl.training.cases import plan_cases
from medssl.workflows.planned_runs import BASELINE, PlannedRun, overrides_for

ALL = "all"


@dataclass(frozen=True)
class PlannedPoint(PlannedRun):
    """One combination of a sweep.

    Attributes:
        method, labeled, seed: which one.
        folds: its runs, where patients are dealt into folds; the recipe is then that of the first.
        cases: of all folds, by id.
    """

    method: str
    labeled: int | str
    seed: int
    folds: tuple[PlannedRun, ...] = ()
    cases: Mapping[str, Case] = field(default_factory=dict)

    @property
    def runs(self) -> dict[str, PlannedRun]:
        """The runs by name: one, or one a fold."""
        if not self.folds:
            return {self.name: self}
        return {f"{self.name}/{run.name}": run for run in self.folds}

    @property
    def finished(self) -> bool:
        """Whether all runs are complete."""
        return all(run.finished for run in self.folds) if self.folds else super().finished

    def read(self) -> EvaluatedRun:
        """Return what was measured: on the test patients, or on every patient out of fold.

        Raises:
            MedSSLError: a run was not measured.
        """
        if not self.folds:
            return read_run(self.path, SPLIT)
        labeled = self.loaded.recipe.data.labeled
        named = labeled if isinstance(labeled, list) else None
        return pool_folds(self.folds, self.cases, self.path, labeled=named)


@dataclass(frozen=True)
class Axes:
    """What a sweep combines; see :func:`medssl.sweep`."""

    labeled: Sequence[int | str]
    seeds: int = 3
    methods: Sequence[str] = ()
    folds: int | str | None = None


def plan_sweep(
    recipe: AnyPath,
    axes: Axes,
    *,
    overrides: Sequence[str] = (),
    output: AnyPath | None = None,
    display: Display | None = None,
) -> list[PlannedPoint]:
    """Return all combinations, each with its checked recipe; a whole curve of each seed in turn.

    Args:
        recipe, overrides, output: as for `sweep`.
        axes: what is combined.
        display: shows progress.

    Raises:
        MedSSLError: no points, no seeds, an unknown method, or a recipe that cannot work.
    """
    own = load_recipe(recipe, overrides).recipe
    folder = Path("runs") / f"{own.name}-sweep" if output is None else Path(output)
    points = list(dict.fromkeys(axes.labeled))
    if not points or axes.seeds < 1:
        raise MedSSLError(
            "a sweep needs at least one number of labels and one seed",
            where="--labeled, --seeds",
            fix="for instance --labeled 4,8,16 --seeds 3",
        )
    names = list(dict.fromkeys([BASELINE, *(axes.methods or [own.method.name])]))
    for name in names:
        get_settings(name)  # all of them before the first is looked at
    dealt = None
    if axes.folds is not None:
        every_label = load_recipe(recipe, [*overrides, "data.labeled=null", "data.validation=0"])
        dealt = deal(every_label, axes.folds, display=display or Display(quiet=True))
    plan = []
    for seed in range(axes.seeds):
        for point in points:
            for name in names:
                path = folder / f"{name}-{point}-{seed}"
                given = [*overrides_for(name, own.method.name, overrides), f"seed={seed}"]
                if dealt is not None:
                    runs = _runs_of_folds(recipe, path, dealt, (name, point), given)
                    first, every = runs[0], dealt.cases
                    plan.append(
                        PlannedPoint(path, (), first.loaded, name, point, seed, runs, every)
                    )
                    continue
                changes = (*given, f"data.labeled={'null' if point == ALL else point}")
                loaded = load_recipe(recipe, changes)
                plan.append(PlannedPoint(path, changes, loaded, name, point, seed))
    return plan


def _runs_of_folds(
    recipe: AnyPath,
    folder: Path,
    dealt: Dealt,
    point: tuple[str, int | str],
    given: Sequence[str],
) -> tuple[PlannedRun, ...]:
    """Plan a run a fold, of a method and number of labels."""
    method, labeled = point
    number = labeled if isinstance(labeled, int) else None
    runs = []
    for fold in range(len(dealt.divisions[0])):
        changes = (*given, *dealt.overrides(method, 0, fold, labeled=number))
        runs.append(PlannedRun(folder / f"fold_{fold}", changes, load_recipe(recipe, changes)))
    return tuple(runs)


def parse_labeled(text: str) -> list[int | str]:
    """Read ``4,8,16,all``.

    Raises:
        MedSSLError: something else than positive numbers and ``all``.
    """
    points: list[int | str] = []
    for word in text.replace(" ", "").split(","):
        if word == ALL:
            points.append(ALL)
        elif word.isdecimal() and int(word) > 0:
            points.append(int(word))
        else:
            raise MedSSLError(
                f"cannot read {word!r} as a number of labeled patients",
                where="--labeled",
                fix="write numbers with commas, for instance --labeled 4,8,16,all",
            )
    return points


def check_cases(
    plan: Sequence[PlannedPoint], display: Display
) -> tuple[list[PlannedPoint], list[str]]:
    """Make sure that every point has its labeled, unlabeled and test cases. Opens no image.

    Returns:
        The plan without the points at which a method has no unlabeled image to learn from, and a
        line about each of these.

    Raises:
        MedSSLError: a point lacks other cases, or no method but the baseline is left.
    """
    seen: set[tuple[str, int | str]] = set()
    idle: dict[tuple[str, int | str], NothingUnlabeled] = {}
    for planned in plan:
        point = (planned.method, planned.labeled)
        if point in seen or point in idle:
            continue
        try:
            cases = plan_cases(planned.loaded, Display(quiet=True) if seen else display)
        except NothingUnlabeled as error:
            idle[point] = error
            continue
        seen.add(point)
        if not cases.splits.test or "test" not in planned.loaded.recipe.evaluation.splits:
            raise MedSSLError(
                "the recipe measures no test cases, so there is nothing to draw",
                where=planned.loaded.source,
                fix="set data.test to a number of patients, and evaluation.splits to [test]",
            )
    if idle and not any(method != BASELINE for method, _ in seen):
        raise next(iter(idle.values()))
    left_out = [
        f"{method} has no run at {labeled} labels: {error.what}"
        for (method, labeled), error in idle.items()
    ]
    for line in left_out:
        display.say(f"note: {line}")
    plan = [planned for planned in plan if (planned.method, planned.labeled) in seen]
    # Every warning once, whichever runs it belongs to.
    for warning in dict.fromkeys(w for planned in plan for w in planned.loaded.warnings):
        display.say(f"warning: {warning}")
    return plan, left_out
