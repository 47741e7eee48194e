"""The regions of interest of a run's cases, found with the recipe's coarse run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from medssl.data.datasets.case import Case
from medssl.data.opened import cache_root
from medssl.data.preprocessing.region import Region
from medssl.errors import located
from medssl.inference.search_box import RegionFinder
from medssl.models.coarse import check_coarse, open_finder
from medssl.models.loaded_run import load_run
from medssl.progress import Display
from medssl.recipe.load import LoadedRecipe
from medssl.runs.folder import RunFolder
from medssl.training.cases import CasePlan
from medssl.training.compute import Compute
from medssl.training.distributed import ALONE, World


def open_regions(
    loaded: LoadedRecipe,
    run: RunFolder | None,
    plan: CasePlan,
    compute: Compute,
    display: Display,
) -> RegionFinder | None:
    """Open a recipe's coarse run, and make sure that it suits the cases; None if it has none.

    Args:
        run: a run of the recipe, which holds a copy of the coarse run; None before there is one.

    Raises:
        MedSSLError: there is no coarse run, it does not fit, or it knows labels of test cases.
    """
    load = partial(load_run, device=str(compute.device), precision=compute.precision)
    with compute.world.together(), located(loaded.source):
        cache = cache_root(loaded.recipe.data) / "regions"
        finder = open_finder(loaded.recipe, run, load, cache=cache)
        if finder is not None:
            check_coarse(finder, plan.dataset, plan.splits, display)
    return finder


def find_regions(
    finder: RegionFinder, mine: Sequence[Case], display: Display, world: World = ALONE
) -> dict[str, Region]:
    """Return the regions of interest of all cases by id; each process finds those of its own."""
    found: list[tuple[str, Region]] = []
    with world.together(), display.counting("finding regions of interest", len(mine)) as done:
        for case in mine:
            found.append((case.id, finder.find(case.images)))
            done(case.id)
    return dict(world.collect(found))
