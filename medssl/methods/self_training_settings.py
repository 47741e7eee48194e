"""Settings of ``self_training``; the method is in :mod:`medssl.methods.self_training`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, ClassVar, Literal, Self

from medssl.methods.fields import Auto, BelowOne, Count, Mode, NotNegative, Positive, Share, setting
from medssl.methods.plan_hints import PlanHints
from medssl.methods.self_training_presets import (
    PRESETS,
    Factors,
    Kind,
    Kinds,
    PresetName,
    Rule,
    Teacher,
)
from medssl.methods.self_training_sure_settings import SureSettings
from medssl.methods.settings import Sections, Tables
from medssl.ops.variants import PublishedBox

TWO_AVERAGES = ("slow", "dual")
SMALLEST = 32
"""Least side of a patch in voxels whose halves are worth changing places."""


class SelfTrainingSettings(SureSettings):
    """Settings of ``self_training``; preset ``mixed`` are the defaults of all."""

    paper = "parts of some ten papers, one a preset: medssl methods self_training"
    scales = True
    plan_hints = PlanHints(
        "sure guesses on unlabeled scans become labels, shown mixed with labeled scans"
    )
    contract: ClassVar[tuple[dict[str, Any], ...]] = (
        {"preset": "mixed", "weight": "boundary"},
        {"preset": "dual_teacher", "selection": "gate", "weight": "case"},
    )
    presets: ClassVar[Tables] = PRESETS

    preset: PresetName = setting("mixed", "medssl")
    """A paper's choice of parts; every setting below overrides it."""
    variant: Literal["corrected", "official"] = setting("corrected", "medssl")
    """Official: a published code's values, where its preset has them."""
    teacher: Teacher = setting("ema", "Mean Teacher, sec. 2")
    """Who labels: an average, the student, a fast and a slow average, two averages in turns; in a
    federation also global: the average or the last common model, whichever is surer."""
    teacher_mode: Mode = setting("eval", "published code")
    """Mode of the labeling pass."""
    slow_decay: BelowOne = setting(0.999, "Teacher-Reviewer-Student")
    """Of teacher slow: decay of the second average."""
    turn: Count | Auto = setting("auto", "AD-MT, sec. 3")
    """Of teacher dual: longest turn in iterations; auto: an 800th of all, 2 or more."""
    turn_random: bool = setting(True, "AD-MT, sec. 3")
    """Of teacher dual: turns of random length, from 1 to turn."""
    fusion: Literal["entropy", "mean"] = setting("entropy", "AD-MT, sec. 3")
    """Of teacher dual: the surer counts more, or both alike."""
    arbiter: Literal["student", "none"] = setting("none", "AD-MT, sec. 3")
    """Where two teachers conflict, a surer student overrules them."""
    selection: Rule = setting("fixed", "FixMatch, FreeMatch, SoftMatch, Consistent-Teacher, HSSDA")
    """Which voxels count: those above a threshold, which may depend on class and on training."""
    gmm_at: Literal["valley", "peak"] = setting("valley", "Consistent-Teacher, sec. 3")
    """Of selection gmm: between two normal distributions, or the mean of the surer."""
    reliability: Share = setting(0.9, "CW-BASS v2")
    """Of selection gate: share of labels that must be right on labeled patches."""
    memory_decay: BelowOne = setting(0.9, "medssl")
    """Share of its past that the histogram of confidence keeps each iteration."""
    weight: Factors = setting((), "CW-BASS, Soft Teacher, WAD")
    """Factors of a voxel's weight: its confidence, a boundary nearby, how sure background is, or
    case: how far its scan is trusted, as learned during training; unlabeled.csv names scans."""
    confidence_power: NotNegative = setting(1.0, "CW-BASS, eq. 3")
    """Gamma of factor confidence."""
    boundary_extra: NotNegative = setting(0.5, "CW-BASS, eq. 7")
    """Of factor boundary: a voxel near another label counts 1 plus this."""
    boundary_radius: Count = setting(1, "medssl")
    """Of factor boundary: how near, in voxels."""
    view: Literal["weak", "strong", "by_turn"] = setting("weak", "FixMatch, AD-MT")
    """What the student sees; by_turn: strong and unmixed or weak and mixed, as teachers change."""
    views: Literal[1, 2] = setting(1, "UniMatch, sec. 3.2")
    """Strong views of each patch, mixed apart."""
    mixing: Kinds | Auto = setting("auto", "CutMix, BCP, HSSDA, MagicNet")
    """Of what is shown; auto: cutmix and paste, or cutmix alone where pasting does harm."""
    box: Literal["sides"] | PublishedBox = setting("sides", "CutMix, UniMatch and AD-MT")
    """Of cutmix: of 1/4 to 3/4 of all sides; UniMatch's by area, in half of the patches of two
    axes; or AD-MT's around a random centre."""
    target: Literal["hard", "soft", "sharpened"] = setting("hard", "UDA, sec. 3")
    """What the student learns: labels, probabilities, or these to the power 1 / temperature."""
    temperature: Positive = setting(0.4, "UDA, sec. 3")
    """Of target sharpened."""
    elr_weight: NotNegative = setting(0.0, "ELR, eq. 6")
    """Of early-learning regularization, within the guessed part."""

    @property
    def parts(self) -> Self:
        """These."""
        return self

    @property
    def takes_scales(self) -> bool:
        """Whether a network may train at coarser scales, too."""
        return self.variant == "corrected"

    @property
    def unlabeled_views(self) -> tuple[str, ...]:  # type: ignore[override]  # follows from settings
        """Views of an unlabeled patch beside the weak one."""
        return () if self.view == "weak" else ("strong",) * self.views

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The mixings, in the order in which they happen."""
        return ("cutmix", "paste") if self.mixing == "auto" else self.mixing

    @property
    def mixes(self) -> bool:
        """Whether patches are mixed with each other."""
        return bool(self.kinds)

    @property
    def asks_confidence(self) -> bool:
        """Whether a guess has to be sure in order to count."""
        return self.selection != "none"

    @property
    def averages(self) -> int:
        """Number of averages of the student."""
        return 2 if self.teacher in TWO_AVERAGES else 1

    @property
    def teachers(self) -> int:
        """Number of networks that label."""
        return 2 if self.needs_others else self.averages

    @property
    def needs_others(self) -> bool:
        """Whether it can only be trained together with others."""
        return self.teacher == "global"

    @property
    def needs_probabilities(self) -> bool:
        """Whether the loss needs more of a guess than its label."""
        return self.target != "hard" or self.elr_weight > 0

    def longest_turn(self, total: int) -> int:
        """Return P for a stage of ``total`` iterations."""
        return max(2, total // 800) if self.turn == "auto" else self.turn

    def from_recipe(self, recipe: Sections) -> dict[str, Any]:
        """Return turns and mixing as they follow from iterations and data."""
        found: dict[str, Any] = {}
        if self.turn == "auto":
            found["turn"] = self.longest_turn(recipe.training.iterations)
        if self.mixing == "auto":
            torn = recipe.spec.label_pairs or "bcp" in recipe.spec.warn
            found["mixing"] = ("cutmix",) if torn else self.kinds
        return found

    def check_recipe(self, recipe: Sections) -> Iterator[str]:
        """Refuse what no code was read for, and parts that need another one."""
        if self.variant == "official" and f"{self.preset}/official" not in self.presets:
            promised = [key.partition("/")[0] for key in self.presets if "/" in key]
            yield (
                f"preset {self.preset} of self_training has no variant official: only "
                f"{' and '.join(promised)} have one; set method.variant to corrected"
            )
        if self.selection == "agreement" and self.teachers == 1:
            yield (
                f"method.selection agreement compares two teachers, but teacher {self.teacher} is "
                "one: set method.teacher to slow, dual or global"
            )
        if self.arbiter == "student" and self.teachers == 1:
            yield (
                f"method.arbiter decides between two teachers, but teacher {self.teacher} is one: "
                "set it to none, or method.teacher to dual or slow"
            )
        if "case" in self.weight and self.teacher == "student":
            yield (
                "method.weight case compares teacher and student, but method.teacher is the "
                "student: set it to ema, slow or dual"
            )
        if self.view == "by_turn" and self.teacher != "dual":
            yield f"method.view by_turn needs teachers that take turns: {self.teacher} does not"
        if self.views == 2 and self.view != "strong":
            yield f"method.views 2 needs method.view strong, not {self.view}"
        if self.box == "rectangle" and len(recipe.training.patch) != 2:
            yield "method.box rectangle is one of two axes: training.patch has three"
        if len(set(self.kinds)) < len(self.kinds) or "paste" in self.kinds[:-1]:
            yield "method.mixing takes each kind once, and paste at the end"

    def warn_recipe(self, recipe: Sections, overridden: Collection[str]) -> Iterator[str]:
        """Warn of settings that do nothing, or that the data speak against."""
        yield from super().warn_recipe(recipe, overridden)
        yield from self._warn_of_mixing(recipe)
        if self.teacher == "dual" and self.longest_turn(recipe.training.iterations) > (
            recipe.training.iterations
        ):
            yield "method.turn is longer than the run: the second teacher may never have a turn"

    def _warn_of_mixing(self, recipe: Sections) -> Iterator[str]:
        training = recipe.training
        if training.unlabeled_batch == 1 and set(self.kinds) & {"cutmix", "cube"}:
            yield (
                "method.mixing cutmix and cube do nothing with training.unlabeled_batch 1: what is "
                "mixed in comes from another patch of the batch"
            )
        blocks = set(self.kinds) & {"shuffle", "cube"}
        if blocks and min(training.patch) < SMALLEST:
            yield (
                f"method.mixing {blocks.pop()} on a patch of {'x'.join(map(str, training.patch))}: "
                f"blocks of sides below {SMALLEST // 2} voxels are hardly of any use"
            )
