"""The combinations of a sweep, checked as far as possible before the first one is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medssl.comparison.experiments import UNLABELED_KEYS, is_finished
from medssl.data.datasets.split import NothingUnlabeled
from medssl.errors import MedSSLError
from medssl.methods.registry import get_settings
from medssl.paths import AnyPath
from medssl.progress import Display
from medssl.recipe.load import LoadedRecipe, load_recipe
from medssl.runs.changes import flatten
from medssl.runs.folder import RunFolder
from medssl.training.cases import plan_cases

BASELINE = "supervised"
ALL = "all"
_FREE_KEYS = (
    "name",
    "data.cache",
    "method.overridden",
    "training.workers",
    "training.log_every",
    "training.checkpoint_every",
)
"""What may change between two starts of a sweep: it does not change the result."""


@dataclass(frozen=True)
class PlannedRun:
    """One combination: its overrides of the recipe, its checked recipe and its run folder."""

    method: str
    labeled: int | str
    seed: int
    path: Path
    overrides: tuple[str, ...]
    loaded: LoadedRecipe

    @property
    def name(self) -> str:
        """The name of the run folder."""
        return self.path.name

    @property
    def finished(self) -> bool:
        """Whether the run is complete."""
        return is_finished(RunFolder(self.path))


def plan_sweep(
    recipe: AnyPath,
    *,
    labeled: Sequence[int | str],
    seeds: int = 3,
    methods: Sequence[str] = (),
    overrides: Sequence[str] = (),
    output: AnyPath | None = None,
) -> list[PlannedRun]:
    """Return all combinations, each with its checked recipe; a whole curve of each seed in turn.

    Raises:
        MedSSLError: no points, no seeds, an unknown method, or a recipe that cannot work.
    """
    own = load_recipe(recipe, overrides).recipe
    folder = Path("runs") / f"{own.name}-sweep" if output is None else Path(output)
    points = list(dict.fromkeys(labeled))
    if not points or seeds < 1:
        raise MedSSLError(
            "a sweep needs at least one number of labels and one seed",
            where="--labeled, --seeds",
            fix="for instance --labeled 4,8,16 --seeds 3",
        )
    names = list(dict.fromkeys([BASELINE, *(methods or [own.method.name])]))
    for name in names:
        get_settings(name)
    plan = []
    for seed in range(seeds):
        for point in points:
            for name in names:
                path = folder / f"{name}-{point}-{seed}"
                changes = _overrides(name, own.method.name, point, seed, overrides)
                loaded = load_recipe(recipe, changes)
                plan.append(PlannedRun(name, point, seed, path, changes, loaded))
    return plan


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


def _overrides(
    method: str, own: str, labeled: int | str, seed: int, given: Sequence[str]
) -> tuple[str, ...]:
    """Return the overrides of one combination; what belongs to the recipe's method stays there."""
    kept = list(given)
    if method != own:
        keys = [f"{a.partition('=')[0].strip()}." for a in given]
        kept = [
            a
            for a, key in zip(given, keys, strict=True)
            if not key.startswith(("method.", "training.stages."))
        ]
        kept += [f"method={method}", "training.stages={}"]
    number = "null" if labeled == ALL else labeled
    return (*kept, f"data.labeled={number}", f"seed={seed}")


def check_folders(plan: Sequence[PlannedRun]) -> None:
    """Refuse run folders that hold another experiment, or none.

    Raises:
        MedSSLError: names the first key that differs.
    """
    for planned in plan:
        run = RunFolder(planned.path)
        if not run.recipe.is_file():
            if run.holds_something():
                raise MedSSLError(
                    "the folder of a run holds something that is not a run",
                    where=planned.path,
                    fix="remove it, or choose another --output",
                )
            continue
        before, now = (
            flatten(r.model_dump(mode="json"), "")
            for r in (load_recipe(run.recipe).recipe, planned.loaded.recipe)
        )
        free: tuple[str, ...] = _FREE_KEYS
        if not get_settings(planned.method).uses_unlabeled:
            free = (*free, *UNLABELED_KEYS)
        for key in {**before, **now}:
            if key not in free and before.get(key) != now.get(key):
                raise MedSSLError(
                    f"the run was made with {key} = {before.get(key)!r}, not {now.get(key)!r}",
                    where=run.recipe,
                    fix="choose another --output for the changed sweep, or remove these runs",
                )


def check_cases(plan: Sequence[PlannedRun], display: Display) -> tuple[list[PlannedRun], list[str]]:
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
