"""Settings of ``mean_teacher``; the method is in :mod:`medssl.methods.mean_teacher`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import ClassVar, Literal

from medssl.methods.fields import Mode, Natural, NotNegative, Positive, Share, setting
from medssl.methods.mixing_settings import MixingSettings
from medssl.methods.plan_hints import PlanHints
from medssl.methods.settings import Sections, Tables, TeacherSettings


class ConsistencySettings(MixingSettings, TeacherSettings):
    """Settings of every mean teacher, its consistency weighted or not."""

    consistency_weight: NotNegative = setting(5.0, "sec. 3")
    """Factor of the consistency after the ramp."""
    consistency_on: Literal["unlabeled", "all"] = setting("unlabeled", "sec. 2")
    """Patches on which student and teacher have to agree."""
    ramp_steps: Natural = setting(0, "published code")
    """Plateaus of the ramp; 0: smooth."""
    noise: NotNegative = setting(0.1, "sec. 2")
    """Standard deviation of the teacher's input noise, in the image's intensities."""
    teacher_mode: Mode = setting("eval", "published code")
    """Mode in which the teacher predicts."""
    supervised_weight: Positive = setting(1.0, "sec. 3")
    """Factor of Dice + cross-entropy."""

    def warn_recipe(self, recipe: Sections, overridden: Collection[str]) -> Iterator[str]:
        """Warn of settings that leave the unlabeled images without effect."""
        if self.consistency_weight == 0:
            yield "method.consistency_weight is 0: the unlabeled images do nothing"


class MeanTeacherSettings(ConsistencySettings):
    """Settings of ``mean_teacher``."""

    paper = "Tarvainen and Valpola, NeurIPS 2017 (arXiv 1703.01780)"
    scales = True
    regions = True
    plan_hints = PlanHints("on unlabeled scans, agrees with the average of its own past")
    presets: ClassVar[Tables] = {
        "official": {
            "mixing": "none",
            "consistency_weight": 0.1,
            "consistency_on": "all",
            "ramp_fraction": 1.0,
            "ramp_steps": 40,
            "teacher_mode": "train",
            "ema_buffers": "keep",
            "supervised_weight": 0.5,
            "predict_with": "student",
        }
    }

    ramp_fraction: Share = setting(0.4, "sec. 3")
    """Share of all iterations until the ramp ends."""

    def warn_recipe(self, recipe: Sections, overridden: Collection[str]) -> Iterator[str]:
        """Warn of settings that leave the unlabeled images without effect."""
        yield from super().warn_recipe(recipe, overridden)
        if self.noise == 0 and self.teacher_mode == "eval" and self.mixing == "none":
            yield (
                "method.noise is 0 with a teacher in eval mode: student and teacher see the same "
                "input, and the consistency loss has little to teach"
            )
