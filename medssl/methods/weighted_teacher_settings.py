"""Settings that ``uamt`` and ``anatomical`` share; see :mod:`medssl.methods.weighted_teacher`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Literal

from medssl.methods.fields import Count, Off, Share, setting
from medssl.methods.mean_teacher_settings import ConsistencySettings
from medssl.methods.settings import Sections
from medssl.ops.variants import Normalizer

PUBLISHED = {
    "mixing": "none",
    "consistency_weight": 0.1,
    "ramp_fraction": "off",
    "ramp_steps": 40,
    "teacher_mode": "train",
    "teacher_init": "independent",
    "ema_buffers": "keep",
    "supervised_weight": 0.5,
    "predict_with": "student",
    "normalizer": "official",
}
"""What both published codes, one derived from the other, have in common."""


class WeightedTeacherSettings(ConsistencySettings):
    """Settings of a weighted mean teacher.

    With ``ramp_fraction: off`` the ramp has ``ramp_steps`` plateaus of ``ramp_every`` iterations,
    as published, whatever the length of the run.
    """

    ramp_fraction: Share | Off = setting(0.4, "medssl")
    """Share of the stage until the ramp ends; off: ramp_steps times ramp_every iterations."""
    ramp_every: Count = setting(150, "published code")
    """Iterations per plateau, where ramp_fraction is off."""
    teacher_init: Literal["copy", "independent"] = setting("copy", "published code")
    """Of the student, or weights of its own until the first update."""
    normalizer: Normalizer = setting("mean", "published code")
    """Of the weighted consistency: over voxels and classes, as published, or as on the poster."""

    def warn_recipe(self, recipe: Sections, overridden: Collection[str]) -> Iterator[str]:
        """Warn of settings that leave the unlabeled images without effect, or do nothing."""
        yield from super().warn_recipe(recipe, overridden)
        if self.ramp_fraction != "off" and "ramp_every" in overridden:
            yield "method.ramp_every does nothing where ramp_fraction is set"
