"""What a larger budget means for a run that has begun.

Stages before the last keep the lengths they began with; the last one gets the rest of the new
budget. The learning rate and every ramp of a method are functions of (iteration, length of the
stage): from the iteration at which the run is extended on, they are read at the new length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from medssl.errors import MedSSLError
from medssl.methods.settings import Stage

LENGTHS = "stage_lengths"
"""Key of a checkpoint: the iterations of each stage, by name."""


def lengths(stages: Sequence[Stage]) -> dict[str, int]:
    """Return what a checkpoint says about the stages."""
    return {stage.name: stage.iterations for stage in stages}


def extended(stages: Sequence[Stage], saved: dict[str, Any] | None) -> list[Stage]:
    """Return the stages of a run that goes on from a checkpoint.

    Args:
        stages: the method's division of the budget there is now.
        saved: the checkpoint; None, or one from before its lengths were saved, changes nothing.

    Raises:
        MedSSLError: the budget ends before the last stage has begun.
    """
    began = (saved or {}).get(LENGTHS)
    if not began or list(began) != [stage.name for stage in stages]:
        return list(stages)
    total = sum(stage.iterations for stage in stages)
    before = [replace(stage, iterations=began[stage.name]) for stage in stages[:-1]]
    rest = total - sum(stage.iterations for stage in before)
    if rest < began[stages[-1].name]:
        raise MedSSLError(
            f"the run was started for {sum(began.values())} iterations, not {total}",
            where="training.iterations",
            fix=f"resume with training.iterations={sum(began.values())} or more",
        )
    return [*before, replace(stages[-1], iterations=rest)]
