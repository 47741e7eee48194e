"""What every method with a student and an averaged teacher has in common."""

from __future__ import annotations

from typing import Any

from torch import nn

from medssl.methods.base import Method, NetworkBuilder, Progress, Stage
from medssl.ops.ema import ema_decay, ema_update, frozen_copy
from medssl.ops.ramps import sigmoid_ramp


class StudentTeacher(Method):
    """A student that is optimized, and a teacher that is the moving average of its weights.

    A subclass adds the training step. Its ``rules`` (the settings with the preset filled in) have
    ``ema_decay``, ``ema_buffers`` and ``predict_with`` (``student`` or ``teacher``).
    """

    rules: Any

    def __init__(
        self,
        settings: Any,
        build_network: NetworkBuilder,
        rules: Any,
        *,
        num_classes: int,
        spatial_dims: int,
    ) -> None:
        super().__init__(
            settings, build_network, num_classes=num_classes, spatial_dims=spatial_dims
        )
        self.rules = rules
        self.student = build_network()
        self.teacher = frozen_copy(self.student)

    def stages(self, iterations: int) -> list[Stage]:
        """Spend the whole budget on one stage."""
        return [Stage("train", iterations)]

    def trainable(self, stage: str) -> dict[str, list[nn.Parameter]]:
        """Optimize the student only."""
        return {"student": list(self.student.parameters())}

    def decay(self, iteration: int) -> float:
        """Return the decay of the update after an iteration."""
        warmup = getattr(self.rules, "ema_warmup", True)
        return ema_decay(iteration, self.rules.ema_decay, warmup=warmup)

    def after_step(self, progress: Progress) -> None:
        """Update the teacher."""
        decay = self.decay(progress.iteration)
        ema_update(self.teacher, self.student, decay, buffers=self.rules.ema_buffers)

    def predictor(self) -> nn.Module:
        """Return the student or the teacher, as ``predict_with`` says."""
        return self.teacher if self.rules.predict_with == "teacher" else self.student

    def ramped(self, weight: float, progress: Progress) -> float:
        """Return ``weight`` after a smooth ramp over ``rules.ramp_fraction`` of the stage."""
        length = self.rules.ramp_fraction * progress.total
        return weight * sigmoid_ramp(progress.iteration, length)
