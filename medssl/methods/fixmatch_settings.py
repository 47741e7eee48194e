"""Settings of ``fixmatch``; the method is in :mod:`medssl.methods.fixmatch`."""

from __future__ import annotations

from typing import ClassVar

from medssl.methods.fields import Mode, Who, setting
from medssl.methods.mixing_settings import MixingSettings
from medssl.methods.plan_hints import PlanHints
from medssl.methods.self_training_presets import FIXMATCH
from medssl.methods.self_training_slots import Slots
from medssl.methods.self_training_sure_settings import SureSettings
from medssl.methods.settings import Tables, TeacherSettings


class FixMatchSettings(MixingSettings, SureSettings, TeacherSettings):
    """Settings of ``fixmatch``: those of ``self_training`` that it leaves open."""

    paper = "Sohn et al., NeurIPS 2020 (arXiv 2001.07685)"
    scales = True
    regions = True
    unlabeled_views = ("strong",)
    plan_hints = PlanHints(
        "sure guesses on unlabeled scans become labels for altered copies of them"
    )
    presets: ClassVar[Tables] = {
        "official": {"mixing": "none", "labels_from": "student", "label_mode": "train", **FIXMATCH}
    }

    labels_from: Who = setting("teacher", "eq. 4")
    """Network that labels."""
    label_mode: Mode = setting("eval", "published code")
    """Mode of the labeling pass."""

    @property
    def slots(self) -> Slots:
        """The same, as ``self_training`` says it."""
        shared = self.model_dump(exclude={"preset", "labels_from", "label_mode"})
        teacher = "ema" if self.labels_from == "teacher" else "student"
        names = {"preset": "fixmatch", "variant": self.preset}
        return Slots(**names, **shared, teacher=teacher, teacher_mode=self.label_mode)
