"""Settings of ``self_training``; the method is in :mod:`medssl.methods.self_training`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, ClassVar

from medssl.methods.plan_hints import PlanHints
from medssl.methods.self_training_checks import refused, warned
from medssl.methods.self_training_slots import Slots
from medssl.methods.settings import Sections


class SelfTrainingSettings(Slots):
    """Settings of ``self_training``, held against the recipe."""

    paper = "parts of thirteen papers, one a preset: medssl methods self_training"
    scales = True
    regions = True
    plan_hints = PlanHints(
        "sure guesses on unlabeled scans become labels, shown mixed with labeled scans"
    )
    contract: ClassVar[tuple[dict[str, Any], ...]] = (
        {"preset": "mixed", "weight": "boundary"},
        {"preset": "dual_teacher", "selection": "gate", "weight": "case"},
        {"preset": "saa", "teacher": "future", "peeks": 1},
    )

    def check_recipe(self, recipe: Sections) -> Iterator[str]:
        """Refuse what no code was read for, and parts that need another one."""
        return refused(self, recipe)

    def warn_recipe(self, recipe: Sections, overridden: Collection[str]) -> Iterator[str]:
        """Warn of settings that do nothing, or that the data speak against."""
        yield from super().warn_recipe(recipe, overridden)
        yield from warned(self, recipe)
