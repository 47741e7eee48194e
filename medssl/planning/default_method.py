"""Which method a plan takes where none is asked for: the one that was measured best.

Two things decide against it: no scan without a label, and a training too short for it. What was
measured stands with the method (:class:`~medssl.methods.plan_hints.Measured`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from medssl.data.datasets.case import Dataset
from medssl.methods.plan_hints import Measured
from medssl.methods.registry import get_settings, labels_alone, list_methods
from medssl.planning.budget import Pace
from medssl.planning.draft import Draft, PlanOrder


@dataclass(frozen=True)
class Choice:
    """A method and why it was taken, a line for the recipe."""

    method: str
    reason: str


def best_method() -> tuple[str, Measured]:
    """Return the method that was measured best, and what was measured."""
    hints = {name: get_settings(name).plan_hints.best for name in list_methods()}
    return next((name, best) for name, best in hints.items() if best is not None)


def method_for(dataset: Dataset, labeled: int | None) -> Choice:
    """Choose the method for a dataset.

    Args:
        dataset: the scans.
        labeled: patients whose labels are used; None: all there are.
    """
    patients = len({case.patient for case in dataset.training})
    hidden = labeled is not None and labeled < patients
    if not dataset.unlabeled and not hidden:
        return Choice(labels_alone(), "labels alone: every scan has one, so nothing can be added")
    name, best = best_method()
    return Choice(name, best.reason)


def short_of(iterations: int) -> Choice | None:
    """Return labels alone where a budget leaves too few iterations for the best method, or None."""
    name, best = best_method()
    if iterations >= best.least_iterations:
        return None
    reason = f"labels alone: the minutes hold {iterations} iterations of {name}, which learns late"
    return Choice(labels_alone(), reason)


def chosen(order: PlanOrder, choice: Choice) -> PlanOrder:
    """Return the order with a method that was chosen for it."""
    return replace(order, method=choice.method, method_reason=choice.reason)


def with_cost(
    order: PlanOrder, draft: Callable[[PlanOrder], Draft], pace: Pace | None
) -> PlanOrder:
    """Return the order whose reason names the cost in multiples of labels alone.

    Args:
        order: of the best method.
        draft: makes a draft of an order.
        pace: times a recipe here; None: what is trained elsewhere costs what it did once.
    """
    times, where = best_method()[1].cost, "where it was measured"
    if pace is not None:
        alone = replace(order, method=labels_alone())
        times, where = pace(draft(order).loaded) / pace(draft(alone).loaded), "here"
    reason = f"{order.method_reason}; {where} {times:.1f} times as long an iteration"
    return replace(order, method_reason=reason)
