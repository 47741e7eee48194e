"""Plan a recipe: read a sample of the data, choose, make it fit into memory, write it down."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medssl.data.datasets.case import Dataset
from medssl.data.datasets.fingerprint import Fingerprint, fingerprint, sampled_cases
from medssl.data.datasets.split import make_splits
from medssl.errors import MedSSLError, located
from medssl.files import check_writable, write_text
from medssl.methods.registry import get_settings
from medssl.paths import AnyPath
from medssl.planning.asked import (
    checked_minutes,
    open_planned,
    order_of,
    patient_counts,
    with_patients,
    written_for,
)
from medssl.planning.default_method import (
    best_method,
    chosen,
    method_for,
    short_of,
    with_cost,
)
from medssl.planning.draft import PlanOrder, make_draft
from medssl.planning.fit import Plan, make_plan
from medssl.planning.measuring import Measuring
from medssl.planning.patients import PatientCounts
from medssl.planning.spec_guess import SpecGuess, guess_spec
from medssl.progress import Display
from medssl.settings.recipe import DataSettings
from medssl.settings.specs import list_specs, load_spec

if TYPE_CHECKING:
    pass

ASKED = "as you asked"


def plan(
    dataset: AnyPath,
    output: AnyPath,
    *,
    method: str | None = None,
    labeled: int | Literal["all"] | None = None,
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
        labeled: patients whose labels are used; ``all`` or None: all that are not held back for
            the test.
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
    check_writable(output.parent, make=False)
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
    used = None if labeled == "all" else labeled
    if method is None:
        order = chosen(order, method_for(data, used))
    # `train mine.yaml` makes runs/mine.
    order = replace(written_for(order, output), name=output.stem)
    counts = patient_counts(data, order, used)
    found = _looked_at(data, order, used, counts, display)
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


def _looked_at(
    data: Dataset,
    order: PlanOrder,
    labeled: int | None,
    counts: PatientCounts,
    display: Display,
) -> Fingerprint:
    """Divide the patients and look at a sample of their scans."""
    settings = DataSettings(labeled=labeled, validation=counts.validation, test=counts.test)
    uses_unlabeled = get_settings(order.method).uses_unlabeled
    with located(data.root / "dataset.json"):
        splits = make_splits(data, settings, uses_unlabeled=uses_unlabeled)
    with display.counting("looking at the scans", len(sampled_cases(splits))) as done:
        return fingerprint(data, splits, on_progress=done)
