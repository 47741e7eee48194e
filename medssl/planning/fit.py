"""Choose everything of a recipe and make it fit: into memory, and into a budget of minutes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.data.datasets.fingerprint import Fingerprint
from medssl.errors import MedSSLError
from medssl.methods.registry import get_settings, list_methods
from medssl.planning.budget import Pace, within_budget
from medssl.planning.draft import Draft, PlanOrder, header, make_draft, text_of
from medssl.planning.grid import size_text
from medssl.planning.measuring import Measure, Timing
from medssl.planning.patients import PatientCounts
from medssl.planning.spec_guess import SpecGuess
from medssl.recipe.load import LoadedRecipe

if TYPE_CHECKING:
    from medssl.planning.footprint import Footprint

USABLE = 0.9
"""Share of a card's memory that a plan may fill; of a computer's, half."""

SHRINK_STEP = 0.7
SMALLEST = 0.03
"""Least share of the usual patch before a plan gives up."""


@dataclass(frozen=True)
class Plan:
    """A planned recipe.

    Attributes:
        text: the file's content.
        loaded: the same, checked.
        spec: the data spec and what spoke for it.
        memory: bytes that training needs, as estimated.
        seconds: of an iteration on this computer's CPU, as estimated; 0 if planned for a card.
        path: the file, once written.
        folds: into which `medssl crossval` deals the patients, in place of a test; None: a test.
        method_reason: why this method; empty where one was asked for.
    """

    text: str
    loaded: LoadedRecipe
    spec: SpecGuess
    memory: float
    seconds: float = 0.0
    path: Path | None = None
    folds: int | None = None
    method_reason: str = ""


def make_plan(
    found: Fingerprint,
    counts: PatientCounts,
    order: PlanOrder,
    guess: SpecGuess,
    *,
    measure: Measure,
    pace: Pace | None = None,
    timing: Timing | None = None,
) -> Plan:
    """Choose everything and make it fit; the result depends on the arguments alone.

    Args:
        found: the dataset.
        counts: which patients are what.
        order: method, device and memory.
        guess: the data spec.
        measure: returns what a step of a recipe needs.
        pace: returns the seconds of an iteration of a recipe here; asked if there is a budget.
        timing: returns the precision in which it is quickest here; asked for a CPU.

    Raises:
        MedSSLError: the method does not suit the data, nothing fits into the memory, or the budget
            is too small.
    """
    draft = _first_draft(found, counts, order, guess)
    known: dict[Any, Footprint] = {}

    def footprint(draft: Draft) -> Footprint:
        key = (str(draft.network.settings), draft.network.name, draft.batch)
        if key not in known:
            known[key] = measure(draft.loaded)
        return known[key]

    limit = order.memory * (USABLE if order.device == "cuda" else USABLE / 2)
    shrink, batch = 1.0, draft.batch
    least = max(2, _least_batch(order, found, counts, guess))
    while True:
        patch = draft.loaded.recipe.training.patch
        step = footprint(draft)
        need = step.bytes(patch, order.device)
        if need <= limit:
            break
        if batch > least:
            batch = max(least, batch // 2)
        else:
            shrink *= SHRINK_STEP
        if shrink < SMALLEST:
            raise MedSSLError(
                f"{order.method} needs about {need / 2**30:.1f} GiB even with patches of "
                f"{size_text(patch)} voxels, but {limit / 2**30:.1f} GiB can be filled",
                where="--memory",
                fix="use a card with more memory, or a method with one network such as "
                f"{_with_one_network(order.method)}",
            )
        draft = make_draft(found, counts, order, guess, shrink=shrink, batch=batch)
    timed = timing(draft.loaded) if timing is not None else None
    if timed is not None:
        order = replace(order, precision=(timed.precision, timed.reason))
        draft = make_draft(found, counts, order, guess, shrink=shrink, batch=batch)
    if order.minutes is not None and pace is not None:
        draft = within_budget(draft, found, counts, order, guess, shrink=shrink, pace=pace)
        # It may have another network.
        patch, step = draft.loaded.recipe.training.patch, footprint(draft)
        need = step.bytes(patch, order.device)
    top = header(found, order, draft, labeled=found.labeled, memory=need)
    seconds = step.seconds_per_voxel * math.prod(patch) if order.device == "cpu" else 0.0
    if timed is not None and draft.loaded.recipe.training.precision == timed.precision:
        seconds = timed.seconds
    return Plan(
        text_of(top, draft.body),
        draft.loaded,
        guess,
        need,
        seconds,
        folds=counts.folds,
        method_reason=order.method_reason,
    )


def _with_one_network(besides: str) -> str:
    """Return a method that learns from unlabeled scans and trains one network, another one."""
    kinds = {name: get_settings(name) for name in list_methods() if name != besides}
    return next(
        name
        for name, kind in kinds.items()
        if kind.uses_unlabeled and kind.plan_hints.trained_networks == 1
    )


def _least_batch(
    order: PlanOrder, found: Fingerprint, counts: PatientCounts, guess: SpecGuess
) -> int:
    """Return the smallest batch that the method accepts."""
    for batch in (1, 2, 3, 4):
        try:
            make_draft(found, counts, order, guess, batch=batch)
        except MedSSLError:
            continue
        return batch
    return 4


def _first_draft(
    found: Fingerprint, counts: PatientCounts, order: PlanOrder, guess: SpecGuess
) -> Draft:
    """Draft with the usual patch, or say why the method does not suit and which ones do."""
    try:
        return _checked_draft(found, counts, order, guess)
    except MedSSLError as error:
        others = []
        for name in list_methods():
            kind = get_settings(name)
            if name == order.method or kind.taught or not kind.segments:
                continue
            other = replace(order, method=name)
            try:
                _checked_draft(found, counts, other, guess)
            except MedSSLError:
                continue
            others.append(name)
        raise MedSSLError(
            error.what,
            where=order.root,
            fix=f"plan with a method that suits these scans: {', '.join(others) or 'none does'}",
        ) from error


def _checked_draft(
    found: Fingerprint, counts: PatientCounts, order: PlanOrder, guess: SpecGuess
) -> Draft:
    """Draft, and ask the method again with the voxels that the scans will really have."""
    draft = make_draft(found, counts, order, guess)
    recipe = draft.loaded.recipe
    spec = recipe.spec.model_copy(update={"spacing": list(draft.grid.voxel)})
    changed = recipe.model_copy(update={"spec": spec})
    problems = list(draft.loaded.settings.check_recipe(changed))
    if problems:
        raise MedSSLError(problems[0])
    return draft
