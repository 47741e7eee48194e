"""Settings of ``distill``; the method is in :mod:`medssl.methods.distill`."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from medssl.methods.fields import NotNegative, Positive, Share, setting
from medssl.methods.plan_hints import Advice, PlanHints
from medssl.methods.settings import MethodSettings, Sections
from medssl.ops.variants import Divergence


class DistillSettings(MethodSettings):
    """Settings of ``distill``."""

    paper = "Hinton et al., 2015 (arXiv 1503.02531)"
    scales = True
    regions = True
    taught = True
    plan_hints = PlanHints(
        "a trained model, or several as one, is learned by a network of any size",
        advice=(Advice("teacher", "RUN", "put the trained run, cross-validation or bundle here"),),
    )

    teacher: str = setting("?", "sec. 2")
    """To be named: a trained run, a cross-validation (its folds as one), a bundle,
    or the name of an installed model."""
    divergence: Divergence = setting("js", "SSLD, sec. 3.2")
    """Jensen-Shannon, or Kullback-Leibler from the teacher to the student."""
    temperature: Positive = setting(1.0, "sec. 2")
    """Divides the logits of both."""
    divergence_weight: NotNegative = setting(1.0, "medssl")
    """Factor of the divergence."""
    dice_weight: NotNegative = setting(1.0, "medssl")
    """Factor of the Dice loss against the teacher's probabilities."""
    labeled_weight: NotNegative = setting(1.0, "sec. 2")
    """Factor of the loss of labels."""
    labels_from: Share = setting(0.0, "SSLD, sec. 3.3")
    """Share of all iterations after which labels count."""

    def check_recipe(self, recipe: Sections) -> Iterator[str]:
        """Refuse to learn nothing from the teacher."""
        if self.divergence_weight == self.dice_weight == 0:
            yield (
                "method.divergence_weight and method.dice_weight are both 0: nothing is learned "
                "from the teacher"
            )

    def warn_recipe(self, recipe: Sections, overridden: Collection[str]) -> Iterator[str]:
        """Warn of labels that never count."""
        if self.labels_from == 1 and "labels_from" in overridden:
            yield "method.labels_from is 1: the labels do nothing"
