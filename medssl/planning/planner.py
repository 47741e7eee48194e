"""Plan a recipe: read a sample of the data, choose, make it fit into memory, write it down."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.data.datasets.fingerprint import Fingerprint, fingerprint, sampled_cases
from medssl.data.datasets.split import make_splits
from medssl.errors import MedSSLError, located
from medssl.files import write_text
from medssl.methods.registry import get_settings, list_methods
from medssl.paths import AnyPath
from medssl.planning.asked import (
    checked_minutes,
    open_planned,
    order_of,
    patient_counts,
    with_patients,
    written_for,
)
from medssl.planning.budget import Pace, within_budget
from medssl.planning.default_method import (
    best_method,
    chosen,
    method_for,
    short_of,
    with_cost,
)
from medssl.planning.draft import Draft, PlanOrder, header, make_draft, text_of
from medssl.planning.grid import size_text
from medssl.planning.measuring import Measure, Measuring, Timing
from medssl.planning.patients import PatientCounts
from medssl.planning.spec_guess import SpecGuess, guess_spec
from medssl.progress import Display
from medssl.recipe.load import LoadedRecipe
from medssl.settings.recipe import DataSettings
from medssl.settings.specs import list_specs, load_spec

if TYPE_CHECKING:
    from medssl.planning.footprint import Footprint

USABLE = 0.9
"""Share of a card's memory that a plan may fill; of a computer's, half."""

SHRINK_STEP = 0.7
SMALLEST = 0.03
"""Least share of the usual patch before a plan gives up."""

ASKED = "as you asked"


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


def plan(
    dataset: AnyPath,
    output: AnyPath,
    *,
    method: str | None = None,
    labeled: int | None = None,
    memory: float | None = None,
    device: str = "auto",
    spec: AnyPath | None = None,
    kind: str = "mr",
    allow_outside: bool = False,
    patients: AnyPath | None = None,
    native: bool = False,
    minutes: float | None = None,
    display: Display | None = None,
) -> Plan:
    """Look at a dataset and write a recipe for it in which every choice is explained.

    Args:
        dataset: a Decathlon folder, or ``phantom``.
        output: the recipe to write; must not exist.
        method: a registered method; None: what was measured best for such data, see
            `planning.default_method`.
        labeled: patients whose labels are used; None: all that are not held back for the test.
        memory: GiB of the graphics card that will train; None: of the one here.
        device: ``auto``, ``cpu`` or ``cuda``: where the training will run. With ``memory``,
            ``auto`` means a card, here or elsewhere.
        spec: data spec to use instead of the guessed one, by name or file.
        kind: kind of phantom.
        allow_outside: let dataset.json name files outside of its folder; the recipe will, too.
        patients: whose scan each case is, a table or a pattern; None: as the dataset and the ids
            say. Where ids only look like several scans of one patient, the recipe holds the guess.
        native: let each scan keep its own voxels; by default all are resampled to the median size,
            so that scans of another size can be predicted, too.
        minutes: that everything may take on the hardware here, all folds of a cross-validation
            together; None: the usual number of iterations.

    Raises:
        MedSSLError: no such dataset or method, ``output`` exists, the method does not suit the
            data (names those that do), or nothing fits into the memory.

    Example:
        >>> made = medssl.plan("data", "own.yaml", method="supervised", labeled=4, device="cpu")
        >>> made.loaded.recipe.data.labeled, made.path.name
        (4, 'own.yaml')
    """
    display = display or Display(quiet=True)
    output = Path(output)
    if output.exists():
        raise MedSSLError(
            "the file exists", where=output, fix="remove it, or give another --output"
        )
    if method is not None:
        get_settings(method)  # says at once if there is none
    if spec is not None:
        load_spec(spec)  # likewise
    order = order_of(str(dataset), method or best_method()[0], memory, device, kind)
    whose = None if patients is None else os.fspath(patients)
    order = replace(
        order, allow_outside=allow_outside, patients=whose, patients_reason=ASKED, native=native
    )
    if minutes is not None:
        order = replace(order, minutes=checked_minutes(minutes, order, memory))
    order, data = with_patients(order, open_planned(order, display), display)
    if method is None:
        order = chosen(order, method_for(data, labeled))
    # `train mine.yaml` makes runs/mine.
    order = replace(written_for(order, output), name=output.stem)
    counts = patient_counts(data, order, labeled)
    settings = DataSettings(labeled=labeled, validation=counts.validation, test=counts.test)
    with located(data.root / "dataset.json"):
        unlabeled = get_settings(order.method).uses_unlabeled
        splits = make_splits(data, settings, uses_unlabeled=unlabeled)
    with display.counting("looking at the scans", len(sampled_cases(splits))) as done:
        found = fingerprint(data, splits, on_progress=done)
    if spec is None:
        guess = guess_spec(found, list_specs())
    else:
        guess = SpecGuess(os.fspath(spec), ASKED, asked=True)
    here = Measuring(data.labels.num_classes, len(data.modality), order.device, device, display)
    best = method is None and order.method == best_method()[0]
    if best:
        pace = here.seconds if memory is None or order.device == "cpu" else None
        order = with_cost(order, lambda o: make_draft(found, counts, o, guess), pace)
    measures: Any = {"measure": here.footprint, "pace": here.seconds, "timing": here.precision}
    made = make_plan(found, counts, order, guess, **measures)
    if best and minutes is not None:
        short = short_of(made.loaded.recipe.training.iterations)
        if short is not None:
            made = make_plan(found, counts, chosen(order, short), guess, **measures)
    write_text(output, made.text)
    return replace(made, path=output)


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
