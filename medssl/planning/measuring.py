"""What a plan measures on the computer at hand: memory and time of training steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medssl.progress import Display
from medssl.recipe.load import LoadedRecipe

if TYPE_CHECKING:
    from medssl.planning.footprint import Footprint

Measure = Callable[[LoadedRecipe], "Footprint"]


@dataclass(frozen=True)
class Measuring:
    """Measures steps of a recipe; PyTorch is loaded by the first, when all else is known.

    Attributes:
        num_classes: classes of the data, background included.
        channels: image channels of the data.
        planned_for: ``cpu`` or ``cuda``, where training will run.
        asked: the device as the user named it.
        display: says what is measured.
    """

    num_classes: int
    channels: int
    planned_for: str
    asked: str
    display: Display

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

    def seconds(self, loaded: LoadedRecipe) -> float:
        """Return the seconds that an iteration takes."""
        from medssl.device import resolve_device, resolve_precision
        from medssl.planning.pace import seconds_per_iteration

        self.display.say(f"timing steps: {loaded.recipe.method.name}")
        where = resolve_device(self.asked if self.planned_for == "cuda" else "cpu")
        return seconds_per_iteration(
            loaded,
            num_classes=self.num_classes,
            channels=self.channels,
            device=where,
            precision=resolve_precision(loaded.recipe.training.precision, where),
        )
