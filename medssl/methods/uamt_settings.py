"""Settings of ``uamt``; the method is in :mod:`medssl.methods.uamt`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import ClassVar, Literal

from medssl.methods.fields import Count, Share, setting
from medssl.methods.plan_hints import PlanHints
from medssl.methods.settings import Sections, Tables
from medssl.methods.weighted_teacher_settings import PUBLISHED, WeightedTeacherSettings


class UAMTSettings(WeightedTeacherSettings):
    """Settings of ``uamt``."""

    paper = "Yu et al., MICCAI 2019 (arXiv 1907.07034)"
    scales = True
    regions = True
    plan_hints = PlanHints("as mean_teacher, where the teacher is sure")
    presets: ClassVar[Tables] = {"official": {**PUBLISHED, "entropy_bound": "ln2"}}

    passes: Count = setting(8, "sec. 2.2")
    """T, stochastic passes of the teacher."""
    entropy_bound: Literal["ln2", "lnC"] = setting("lnC", "sec. 3")
    """Entropy in nats that the threshold is a share of."""
    threshold_start: Share = setting(0.75, "sec. 3")
    """The threshold's first share of the bound; the last is 1."""

    def warn_recipe(self, recipe: Sections, overridden: Collection[str]) -> Iterator[str]:
        """Warn of settings that leave the unlabeled images or the mask without effect."""
        yield from super().warn_recipe(recipe, overridden)
        if self.threshold_start == 1:
            yield "method.threshold_start is 1: no voxel is ever uncertain; use mean_teacher"
        if self.noise == 0 and not recipe.network.settings.get("dropout"):
            yield (
                "method.noise is 0 and the recipe sets no network.dropout: if the network has none "
                "by itself, all stochastic passes are the same"
            )
