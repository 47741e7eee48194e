"""The slots of ``self_training``, which its parts fill, and what follows from them."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from medssl.methods import self_training_presets as named
from medssl.methods.fields import Auto, BelowOne, Count, Mode, NotNegative, Positive, Share, setting
from medssl.methods.self_training_sure_settings import SureSettings
from medssl.methods.settings import Sections, Tables
from medssl.ops.variants import PublishedBox

TWO_AVERAGES = ("slow", "dual")


class Slots(SureSettings):
    """Which part fills each slot; preset ``mixed`` are the defaults of all."""

    presets: ClassVar[Tables] = named.PRESETS

    preset: named.PresetName = setting("mixed", "medssl")
    """A paper's choice of parts; every setting below overrides it."""
    variant: Literal["corrected", "official"] = setting("corrected", "medssl")
    """Official: a published code's values, where its preset has them."""
    teacher: named.Teacher = setting("ema", "Mean Teacher, sec. 2")
    """Who labels: an average, the student, a fast and a slow average, two averages in turns, or
    (experimental, a step costs as many times more as it peeks) the average as it is about to be; in
    a federation also global: the average or the last common model, whichever is surer."""
    teacher_mode: Mode = setting("eval", "published code")
    """Mode of the labeling pass."""
    slow_decay: BelowOne = setting(0.999, "Teacher-Reviewer-Student")
    """Of teacher slow: decay of the second average."""
    peeks: Count = setting(3, "FST, published code")
    """Of teacher future: virtual steps ahead."""
    turn: Count | Auto = setting("auto", "AD-MT, sec. 3")
    """Of teacher dual: longest turn in iterations; auto: an 800th of all, 2 or more."""
    turn_random: bool = setting(True, "AD-MT, sec. 3")
    """Of teacher dual: turns of random length, from 1 to turn."""
    fusion: Literal["entropy", "mean"] = setting("entropy", "AD-MT, sec. 3")
    """Of teacher dual: the surer counts more, or both alike."""
    arbiter: Literal["student", "none"] = setting("none", "AD-MT, sec. 3")
    """Where two teachers conflict, a surer student overrules them."""
    selection: named.Rule = setting(
        "fixed", "FixMatch, FreeMatch, SoftMatch, Consistent-Teacher, HSSDA"
    )
    """Which voxels count: those above a threshold, which may depend on class and on training."""
    gmm_at: Literal["valley", "peak"] = setting("valley", "Consistent-Teacher, sec. 3")
    """Of selection gmm: between two normal distributions, or the mean of the surer."""
    reliability: Share = setting(0.9, "CW-BASS v2")
    """Of selection gate: share of labels that must be right on labeled patches."""
    memory_decay: BelowOne = setting(0.9, "medssl")
    """Share of its past that the histogram of confidence keeps each iteration."""
    weight: named.Factors = setting((), "CW-BASS, Soft Teacher, WAD")
    """Factors of a voxel's weight: its confidence, a boundary nearby, how sure background is, or
    case: how far its scan is trusted, as learned during training; unlabeled.csv names scans."""
    confidence_power: NotNegative = setting(1.0, "CW-BASS, eq. 3")
    """Gamma of factor confidence."""
    boundary_extra: NotNegative = setting(0.5, "CW-BASS, eq. 7")
    """Of factor boundary: a voxel near another label counts 1 plus this."""
    boundary_radius: Count = setting(1, "medssl")
    """Of factor boundary: how near, in voxels."""
    view: Literal["weak", "strong", "joined", "by_turn"] = setting("weak", "FixMatch, SAA, AD-MT")
    """What the student sees; joined: halves of two strong views; by_turn: strong and unmixed or
    weak and mixed, as teachers change."""
    views: Literal[1, 2] = setting(1, "UniMatch, sec. 3.2")
    """Strong views of each patch, mixed apart."""
    adapt: Literal["none", "otsu"] = setting("none", "SAA, sec. 3")
    """Otsu: scans whose strong views are easy by now are shown joined ones."""
    feature_drop: BelowOne = setting(0.0, "UniMatch, sec. 3.1")
    """Chance of an encoder's channels to be dropped in one more pass of the weak view, which counts
    as much as what else is guessed; 0: no such pass."""
    mixing: named.Kinds | Auto = setting("auto", "CutMix, BCP, HSSDA, MagicNet")
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
    shrink_weight: NotNegative = setting(0.0, "ShrinkMatch, sec. 3")
    """Of what unsure voxels teach among the classes that they are not confused with, times the
    share of sure ones; of five classes or more."""

    @property
    def as_corrected(self) -> bool:
        """Whether nothing has to be as it was published."""
        return self.variant == "corrected"

    @property
    def unlabeled_views(self) -> tuple[str, ...]:  # type: ignore[override]  # follows from settings
        """Views of an unlabeled patch beside the weak one."""
        return () if self.view == "weak" else ("strong",) * (2 if self.joins else self.views)

    @property
    def joins(self) -> bool:
        """Whether halves of two strong views are joined."""
        return self.view == "joined" or self.adapt == "otsu"

    @property
    def kinds(self) -> tuple[named.Kind, ...]:
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
        return self.target != "hard" or self.elr_weight > 0 or self.shrink_weight > 0

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
