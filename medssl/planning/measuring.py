"""What a plan measures on the computer at hand: memory and time of training steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from medssl.progress import Display
from medssl.recipe.load import LoadedRecipe

if TYPE_CHECKING:
    from medssl.planning.footprint import Footprint

Measure = Callable[[LoadedRecipe], "Footprint"]

QUICKER = 1.25
"""Least ratio of times for which half precision is planned on a CPU."""


@dataclass(frozen=True)
class Timed:
    """In which precision a CPU trains a recipe.

    Attributes:
        precision: ``fp32`` or ``bf16``.
        reason: in plain words.
        seconds: of an iteration in it, measured.
    """

    precision: str
    reason: str
    seconds: float


Timing = Callable[[LoadedRecipe], Timed | None]
"""Returns the precision in which a recipe trains quickest here; None: nothing to choose."""


@dataclass(frozen=True)
class Measuring:
    """Measures steps of a recipe; PyTorch is loaded by the first, when all else is known.

    Attributes:
        num_classes: classes of the data, background included.
        channels: image channels of the data.
        planned_for: ``cpu`` or ``cuda``, where training will run.
        asked: the device as the user named it.
        display: says what is measured.
        timed: seconds that are known, by recipe and precision.
    """

    num_classes: int
    channels: int
    planned_for: str
    asked: str
    display: Display
    timed: dict[str, float] = field(default_factory=dict)

    def footprint(self, loaded: LoadedRecipe) -> Footprint:
        """Return what memory a training step needs."""
        from medssl.planning.footprint import measure_footprint

        self.display.say(
            f"measuring a training step: {loaded.recipe.method.name}, "
            f"{loaded.recipe.network.name}, batch {loaded.recipe.training.labeled_batch}"
        )
        return measure_footprint(
            loaded,
            num_classes=self.num_classes,
            channels=self.channels,
            precision="fp32" if self.planned_for == "cpu" else "bf16",
        )

    def precision(self, loaded: LoadedRecipe) -> Timed | None:
        """Time a recipe in full and in half precision, where this CPU computes the latter."""
        from medssl.device import cpu_computes_bf16

        if self.planned_for != "cpu" or not cpu_computes_bf16():
            return None
        full, half = self._seconds(loaded, "fp32"), self._seconds(loaded, "bf16")
        if full < QUICKER * half:
            return Timed("fp32", "full precision: less gains no time with this network here", full)
        reason = f"half precision, {full / half:.1f} times as fast on this CPU; fp32 on one without"
        return Timed("bf16", reason, half)

    def seconds(self, loaded: LoadedRecipe) -> float:
        """Return the seconds that an iteration takes."""
        return self._seconds(loaded, loaded.recipe.training.precision)

    def _seconds(self, loaded: LoadedRecipe, precision: str) -> float:
        from medssl.device import resolve_device, resolve_precision
        from medssl.planning.pace import seconds_per_iteration

        where = resolve_device(self.asked if self.planned_for == "cuda" else "cpu")
        resolved = resolve_precision(precision, where)
        key = loaded.recipe.model_dump_json(exclude={"training": {"precision"}}) + resolved
        if key not in self.timed:
            self.display.say(f"timing steps: {loaded.recipe.method.name}, {resolved}")
            self.timed[key] = seconds_per_iteration(
                loaded,
                num_classes=self.num_classes,
                channels=self.channels,
                device=where,
                precision=resolved,
            )
        return self.timed[key]
