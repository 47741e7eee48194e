"""How many iterations fit into a budget of minutes, divided over folds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from medssl.data.datasets.fingerprint import Fingerprint
from medssl.errors import MedSSLError
from medssl.methods.registry import get_settings, labels_alone
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
LEAST_AT_FULL_RESOLUTION = 500
"""A third of what a CPU's training takes by default: with fewer, a network at half resolution gets
some ten times as many in the same time. A choice, not measured."""


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
        each = self._round(seconds, twin_seconds)
        count = self.affordable(seconds, twin_seconds)
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

    def affordable(self, seconds: float, twin_seconds: float = 0.0) -> float:
        """Return how many iterations of each training the minutes hold; see `iterations`."""
        return TRAINING_SHARE * 60 * self.minutes / self._round(seconds, twin_seconds)

    def _round(self, seconds: float, twin_seconds: float) -> float:
        """Return the seconds of one iteration of every training."""
        return self.folds * (seconds + (twin_seconds if self.twin else 0.0))

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

    Where they are few for a network at full resolution, one at half resolution is taken instead.

    Args:
        draft: what fits into the memory.
        found, counts, order, guess: what it was made from; the order names the minutes.
        shrink: factor of the usual voxels of a patch, of the draft.
        pace: times a recipe.

    Raises:
        MedSSLError: the minutes are too few.
    """
    assert order.minutes is not None
    twin = counts.folds is not None and get_settings(order.method).uses_unlabeled
    budget = Budget(order.minutes, counts.folds or 1, twin)

    def drafted(order: PlanOrder, iterations: tuple[int, str] | None = None) -> Draft:
        return make_draft(
            found, counts, order, guess, shrink=shrink, batch=draft.batch, iterations=iterations
        )

    def seconds_of(own: Draft, order: PlanOrder) -> tuple[float, float]:
        """Return the seconds of an iteration, and of one of the twin."""
        if not twin:
            return pace(own.loaded), 0.0
        return pace(own.loaded), pace(drafted(replace(order, method=labels_alone())).loaded)

    seconds = seconds_of(draft, order)
    count = budget.affordable(*seconds)
    if order.device == "cpu" and count < LEAST_AT_FULL_RESOLUTION:
        why = f"half resolution: {order.minutes:g} minutes hold {count:.0f} iterations of the full"
        small = replace(order, small=why, precision=None)  # half precision gains it no time
        smaller = drafted(small)
        if smaller.network.name != draft.network.name:
            order, seconds = small, seconds_of(smaller, small)
    return drafted(order, budget.iterations(*seconds))
