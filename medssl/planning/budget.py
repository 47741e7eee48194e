"""How many iterations fit into a budget of minutes, divided over folds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from medssl.data.datasets.fingerprint import Fingerprint
from medssl.errors import MedSSLError
from medssl.methods.registry import get_settings, list_methods
from medssl.planning.draft import Draft, PlanOrder, make_draft
from medssl.planning.patients import PatientCounts
from medssl.planning.spec_guess import SpecGuess
from medssl.recipe.load import LoadedRecipe

Pace = Callable[[LoadedRecipe], float]
"""Returns the seconds of an iteration of a recipe on the hardware at hand."""

TRAINING_SHARE = 0.8
"""Share of a budget that steps may take; the rest is for preparing, validating, predicting."""
LEAST_ITERATIONS = 50
"""With fewer nothing is learned."""


@dataclass(frozen=True)
class Budget:
    """Minutes for everything that a recipe asks for.

    Attributes:
        minutes: of the wall clock, on the hardware that is planned for.
        folds: in how many trainings the patients are dealt; 1 without cross-validation.
        twin: every fold is also trained with labels alone.
    """

    minutes: float
    folds: int = 1
    twin: bool = False

    def iterations(self, seconds: float, twin_seconds: float = 0.0) -> tuple[int, str]:
        """Return the iterations of each training, and the reason.

        Args:
            seconds: of an iteration.
            twin_seconds: of one with labels alone.

        Raises:
            MedSSLError: too few for anything to be learned; says how many minutes would do.
        """
        each = self.folds * (seconds + (twin_seconds if self.twin else 0.0))
        count = TRAINING_SHARE * 60 * self.minutes / each
        if count < LEAST_ITERATIONS:
            enough = math.ceil(LEAST_ITERATIONS * each / (TRAINING_SHARE * 60))
            raise MedSSLError(
                f"{self.minutes:g} minutes are enough for {count:.0f} iterations{self._shared}, "
                "which learn nothing",
                where="--minutes",
                fix=f"give {enough} minutes or more, or a method that takes less time",
            )
        shown = 10 ** max(math.floor(math.log10(count)) - 1, 0)
        reason = f"all stages; {self.minutes:g} minutes here{self._shared}, evaluation included"
        return int(count // shown * shown), reason

    @property
    def _shared(self) -> str:
        if self.folds == 1:
            return ""
        return f" for {self.folds} folds" + (", each also with labels alone" if self.twin else "")


def within_budget(
    draft: Draft,
    found: Fingerprint,
    counts: PatientCounts,
    order: PlanOrder,
    guess: SpecGuess,
    *,
    shrink: float,
    pace: Pace,
) -> Draft:
    """Draft again with as many iterations as the minutes of an order allow.

    Args:
        draft: what fits into the memory.
        found, counts, order, guess: what it was made from; the order names the minutes.
        shrink: factor of the usual voxels of a patch, of the draft.
        pace: times a recipe.

    Raises:
        MedSSLError: the minutes are too few.
    """
    assert order.minutes is not None
    batch = draft.batch
    twin = counts.folds is not None and get_settings(order.method).uses_unlabeled
    budget = Budget(order.minutes, counts.folds or 1, twin)
    twin_seconds = 0.0
    if twin:
        names = list_methods()
        own = replace(order, method=next(n for n in names if not get_settings(n).uses_unlabeled))
        alone = make_draft(found, counts, own, guess, shrink=shrink, batch=batch)
        twin_seconds = pace(alone.loaded)
    iterations = budget.iterations(pace(draft.loaded), twin_seconds)
    return make_draft(
        found, counts, order, guess, shrink=shrink, batch=batch, iterations=iterations
    )
