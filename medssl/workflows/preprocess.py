"""Fill the preprocessing cache for a recipe ahead of its training, in as many jobs as wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from medssl.data.datasets.case import Case
from medssl.data.datasets.integrity import check_training_set
from medssl.data.datasets.shard import Shard, parse_shard
from medssl.data.datasets.split import ROLES
from medssl.data.opened import cache_root
from medssl.files import remove_abandoned
from medssl.paths import AnyPath
from medssl.planning.median import with_spacing
from medssl.progress import Display
from medssl.recipe.load import LoadedRecipe, load_recipe
from medssl.runs.folder import RunFolder
from medssl.training.cases import CasePlan, plan_cases

if TYPE_CHECKING:
    from medssl.training.compute import Compute


@dataclass(frozen=True)
class Preprocessed:
    """What is in the cache after a call.

    Attributes:
        cache: its folder.
        cases: how many cases this call was about: of the recipe, or of the shard.
        there: how many of them were in the cache already.
        bytes: size of their entries.
        total: how many cases of the recipe training takes from the cache.
    """

    cache: Path
    cases: int
    there: int
    bytes: int
    total: int


def preprocess(
    recipe: AnyPath,
    *,
    overrides: Sequence[str] = (),
    shard: str | None = None,
    device: str = "auto",
    precision: str | None = None,
    verify_cache: bool = False,
    display: Display | None = None,
) -> Preprocessed:
    """Preprocess the cases that training will take from the cache, and train nothing.

    These are the labeled, unlabeled and validation cases. Test cases are only checked, for they are
    read from their files. What is there already is left as it is. Calls with different shards may
    run at the same time.

    Args:
        recipe: a recipe file, the name of a shipped recipe, or a run folder.
        overrides: ``section.key=value`` assignments, the same as for training.
        shard: ``I/N``, to do every N-th case from the I-th on, counted from 1.
        device, precision: of the coarse run that finds regions of interest (``data.roi``).
        verify_cache: hash every image whole, whatever is known of it.

    Raises:
        MedSSLError: a recipe that cannot work, a file that training would refuse, or a cache that
            cannot be written. What was made before stays.

    Example:
        >>> made = medssl.preprocess("mine.yaml")
        >>> made.cases == made.total
        True
    """
    display = display or Display(quiet=True)
    part = parse_shard(shard)
    loaded = load_recipe(recipe, overrides)
    for warning in loaded.warnings:
        display.say(f"warning: {warning}")
    loaded = with_spacing(loaded, display)
    plan = plan_cases(loaded, display, verify_cache=verify_cache)
    # PyTorch and MONAI take seconds to load: what recipe and data are refused for was said before.
    from medssl.device import resolve_device, resolve_precision
    from medssl.training.compute import Compute

    where = resolve_device(device)
    how = resolve_precision(precision or loaded.recipe.training.precision, where)
    run = RunFolder(Path(recipe)) if Path(recipe).is_dir() else None
    return _fill(loaded, plan, run, Compute(where, how), part, display)


def _fill(
    loaded: LoadedRecipe,
    plan: CasePlan,
    run: RunFolder | None,
    compute: Compute,
    part: Shard | None,
    display: Display,
) -> Preprocessed:
    """Put the cases of a recipe, or a part of them, into the cache."""
    from medssl.data.preprocessing.cache import CaseCache
    from medssl.training.regions import find_regions, open_regions

    everything = plan.cached
    wanted = sorted(everything, key=lambda case: case.id)
    if part is not None:
        wanted = part.of(wanted)
        display.say(f"shard {part}: {len(wanted)} of {len(everything)} cases")
    root = cache_root(loaded.recipe.data)
    remove_abandoned(root)
    finder = open_regions(loaded, run, plan, compute, display)
    regions = {} if finder is None else find_regions(finder, wanted, display)
    empty = sum(not region.found for region in regions.values())
    if empty:
        display.say(
            f"warning: the coarse run finds nothing in {empty} of {len(regions)} scans: they are "
            "kept whole"
        )
    cache = CaseCache(
        root, loaded.recipe.spec, plan.dataset.labels, regions=regions, files=plan.files
    )
    missing = [case for case in wanted if not cache.holds(case)]
    test = sorted(plan.splits.test, key=lambda case: case.id)
    checked = [*wanted, *(test if part is None else part.of(test))]
    _check(plan, checked, root / "checked", display)
    with display.counting("preprocessing", len(missing)) as done:
        for case in missing:  # one after another: no map of thousands of them stays open
            cache.prepare([case])
            done(case.id)
    size = sum(cache.size(case) for case in wanted)
    return Preprocessed(root, len(wanted), len(wanted) - len(missing), size, len(everything))


def _check(plan: CasePlan, cases: Sequence[Case], memory: Path, display: Display) -> None:
    """Refuse what training would refuse, before the first case is made; training remembers it."""
    chosen = {case.id for case in cases}
    splits = plan.splits
    part = {role: tuple(c for c in getattr(splits, role) if c.id in chosen) for role in ROLES}
    with display.counting("checking files", len(cases)) as done:
        chosen_splits = replace(splits, **part)
        warnings = check_training_set(
            plan.dataset, chosen_splits, memory=memory, files=plan.files, on_progress=done
        )
    for problem in warnings:
        display.say(f"warning: {problem.file.name}: {problem.what}")
