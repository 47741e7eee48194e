"""The cases of a run, read once to the end: what is broken is refused, copies are left out."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from medssl.data.checks.sketches import look
from medssl.data.datasets.contents import Contents
from medssl.data.datasets.copies import contents_of, find_copies, without
from medssl.data.datasets.integrity import check_training_set
from medssl.data.datasets.problem import Problem
from medssl.data.datasets.split import LeftOut, Splits
from medssl.data.opened import cache_root
from medssl.errors import MedSSLError
from medssl.progress import Display
from medssl.recipe.load import LoadedRecipe
from medssl.training.cases import CasePlan
from medssl.training.distributed import ALONE, World

SHOWN = 5
"""So many of a kind are named one by one."""


def checked_plan(
    loaded: LoadedRecipe, plan: CasePlan, display: Display, world: World = ALONE
) -> CasePlan:
    """Check every file of a run, and leave out what shows patients of validation and test.

    A scan may be there twice under two names: the bytes of a file copied, its voxels in another
    format, or in other intensities. What is known of files from an earlier time is not read again.

    Returns:
        The plan of what is trained.

    Raises:
        MedSSLError: a file that training or its evaluation could not use, or too little is left.
    """
    splits = plan.splits
    everyone = (*splits.labeled, *splits.unlabeled, *splits.validation, *splits.test)
    memory = cache_root(loaded.recipe.data) / "checked"
    contents = Contents(plan.files, plan.dataset.spatial_unit, look)
    warnings: list[Problem] = []
    copies: tuple[LeftOut, ...] = ()
    with world.together(), display.counting("checking files", len(everyone)) as done:
        if world.first:  # one reader is enough
            check = partial(check_training_set, memory=memory, files=plan.files, contents=contents)
            warnings = check(plan.dataset, splits, on_progress=done)
            lent = loaded.recipe.data.transductive
            copies = find_copies(splits, contents_of(splits, contents), transductive=lent)
    copies = world.from_first(copies)
    _say_some(
        display,
        [f"{problem.file.name}: {problem.what}" for problem in warnings],
        "files with warnings",
    )
    _say_some(display, [f"{c.sentence}: left out of training" for c in copies], "such copies")
    if not copies:
        return plan
    left = without(splits, copies)
    with world.together():
        _refuse_nothing_left(splits, left, plan)
    note = f"{len(copies)} copies of validation and test scans are left out (see left_out)"
    return replace(plan, splits=replace(left, notes=(*left.notes, note)))


def _say_some(display: Display, lines: list[str], kind: str) -> None:
    for line in lines[:SHOWN]:
        display.say(f"warning: {line}")
    if len(lines) > SHOWN:
        display.say(f"warning: and {len(lines) - SHOWN} more {kind}")


def _refuse_nothing_left(before: Splits, left: Splits, plan: CasePlan) -> None:
    """Refuse to train where all cases of a role were copies."""
    for role in ("labeled", "unlabeled", "validation"):
        if getattr(before, role) and not getattr(left, role):
            if role == "unlabeled" and plan.dataset.labels.ignore_value is not None:
                continue  # labeled cases may serve as unlabeled ones, too
            first = next(found for found in left.left_out if found.role == role)
            raise MedSSLError(
                f"no {role} case is left: all show patients of the validation or test set "
                f"({first.sentence})",
                where=plan.dataset.root,
                fix=f"choose other cases for data.{role}, or remove the copies",
            )
