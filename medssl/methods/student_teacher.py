"""What every method with a student and an averaged teacher has in common."""

from __future__ import annotations

from torch import nn

from medssl.methods.base import Method, NetworkBuilder, Progress
from medssl.methods.settings import AverageSettings
from medssl.methods.starting import Loader
from medssl.ops.ema import copy_weights, ema_decay, ema_update, frozen_copy


class StudentTeacher(Method):
    """A student that is optimized, and a teacher that is the moving average of its weights.

    A subclass adds the training step.
    """

    settings: AverageSettings

    def make_networks(self, build: NetworkBuilder) -> None:
        """Make the student; the teacher starts as a copy of it."""
        self.student = build()
        self.teacher = frozen_copy(self.student)

    def start_from(self, load: Loader) -> None:
        """Load the student; the teacher becomes its copy."""
        load(self.student)
        copy_weights(self.teacher, self.student)

    def trainable(self, stage: str) -> dict[str, list[nn.Parameter]]:
        """Optimize the student only."""
        return {"student": list(self.student.parameters())}

    def decay(self, iteration: int) -> float:
        """Return the decay of the update after an iteration."""
        return ema_decay(iteration, self.settings.ema_decay, warmup=self.settings.ema_warmup)

    def after_step(self, progress: Progress) -> None:
        """Update the teacher."""
        decay = self.decay(progress.iteration)
        ema_update(self.teacher, self.student, decay, buffers=self.settings.ema_buffers)

    def predictor(self) -> nn.Module:
        """Return the student or the teacher, as ``predict_with`` says."""
        return self.teacher if self.settings.predict_with == "teacher" else self.student
