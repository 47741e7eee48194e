"""A trained run whose cases are fewer now: its weights are taken over, its records written anew."""

from __future__ import annotations

import shutil
from typing import Any

from medssl.data.datasets.contents import Contents
from medssl.data.datasets.copies import recorded_copies, without
from medssl.data.datasets.split import ROLES
from medssl.data.datasets.split_file import save_splits, split_hash
from medssl.files import all_or_nothing
from medssl.progress import Display
from medssl.recipe.load import save_recipe
from medssl.runs.changes import FILES
from medssl.runs.folder import STATUS_STOPPED, RunFolder
from medssl.runs.lineage import lineage_of, write_lineage
from medssl.workflows.planned_runs import PlannedRun

_NAMING = ("command", "sessions", "left_out", "changes", "error", "status")
"""Keys of a manifest that are not taken over: they may name a patient, or are written anew."""


def keep_run(one: RunFolder, planned: PlannedRun) -> None:
    """Take over the weights of a run that never saw the patients; its records are written anew."""
    if RunFolder(planned.path).recipe.is_file():
        return
    from medssl.training.cases import plan_cases
    from medssl.training.manifest import file_hashes

    plan = plan_cases(planned.loaded, Display(quiet=True))
    splits, recipe = without(plan.splits, recorded_copies(one.splits)), planned.loaded.recipe
    contents = Contents(plan.files, plan.dataset.spatial_unit)
    with all_or_nothing(planned.path, "the run") as building:
        run = RunFolder(building)
        shutil.copytree(one.checkpoints, run.checkpoints)
        if one.metrics.is_file():
            shutil.copy2(one.metrics, run.metrics)
        save_recipe(recipe, run.recipe)
        save_splits(splits, run.splits)
        write_lineage(lineage_of(recipe, plan.dataset, splits, contents), run)
        told: dict[str, Any] = {
            key: value for key, value in one.read_manifest().items() if key not in _NAMING
        }
        told |= {
            "status": STATUS_STOPPED,
            "splits_sha256": split_hash(splits),
            "cases": {role: len(getattr(splits, role)) for role in ROLES},
            FILES: file_hashes(plan),
        }
        run.write_manifest(**told)
