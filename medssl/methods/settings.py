"""What is said about a method: its settings, its presets as tables of values, its stages.

Nothing here computes: neither this module nor any ``NAME_settings.py`` imports torch or MONAI, so
that recipes are checked, listed and planned in a moment.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self, get_args

from pydantic import ConfigDict, model_validator

from medssl.methods.fields import BelowOne, Preset, Who, setting
from medssl.methods.plan_hints import PlanHints
from medssl.ops.variants import BufferRule, DiceVariant
from medssl.settings.recipe import NetworkSettings
from medssl.settings.spec import DataSpec
from medssl.settings.training import TrainingSettings
from medssl.strict import Strict

Tables = Mapping[str, Mapping[str, Any]]
"""Values by setting, of each preset and, as ``PRESET/VARIANT``, of what a variant adds to it."""


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    Attributes:
        name: as used in the recipe's ``training.stages``.
        iterations: length of the stage.
        streams: which of ``labeled``, ``unlabeled`` and ``masks`` it draws.
        carry_optimizer: start with the previous stage's optimizer state instead of a fresh one;
            with ``start_from_best``, the one that was saved with those weights.
        start_from_best: start from the best checkpoint of the previous stage if it has one.
        batch_sizes: items per batch of a stream, where it is not the recipe's number.
    """

    name: str
    iterations: int
    streams: tuple[str, ...] = ("labeled", "unlabeled")
    carry_optimizer: bool = False
    start_from_best: bool = False
    batch_sizes: dict[str, int] = field(default_factory=dict)


class Sections(Protocol):
    """The sections of a recipe that a method may look at; a recipe is one."""

    @property
    def training(self) -> TrainingSettings:
        """Patch, batches, iterations."""
        ...

    @property
    def network(self) -> NetworkSettings:
        """The network by name, and its settings."""
        ...

    @property
    def spec(self) -> DataSpec:
        """What is known of the data."""
        ...


class MethodSettings(Strict):
    """Base of a method's settings. The defaults of its fields are those of its default preset.

    For most methods that is ``corrected``, beside ``official``.

    A setting that is left out, or null, is as the preset says (with ``variant``, as that variant
    does): an instance holds every value.

    Class attributes:
        presets: tables of the values that are not the fields' defaults.
        paper: citation shown by ``medssl methods``.
        uses_unlabeled: False for a method that learns from labels alone.
        unlabeled_views: views of an unlabeled patch that it wants beside the weakly augmented one;
            ``strong`` is the same patch with strong changes of intensity. A name may repeat.
        before: of settings that came later, the values that runs without them were trained with.
        plan_hints: what a planned recipe needs to know of the method.
        contract: settings that a contract is held to and that use all parts of the method between
            them; by default every preset and variant.
        segments: False for a method that learns images alone: its run predicts nothing, and others
            start from it.
        taught: its setting ``teacher`` names a trained run, cross-validation or bundle, which is
            given to :meth:`medssl.methods.base.Method.learn_from`.
        scales: its losses take a network's outputs of several scales (deep supervision); preset
            ``official`` never does.
        regions: its losses of labels, and of hard pseudo-labels, can be made from regions
            (:attr:`medssl.methods.base.Method.unions`); preset ``official`` never does.
        labels_optional: its steps do without labeled patches, which a site of a federation may
            lack.
    """

    model_config = ConfigDict(use_attribute_docstrings=True)

    presets: ClassVar[Tables] = {}
    paper: ClassVar[str] = ""
    uses_unlabeled: ClassVar[bool] = True
    unlabeled_views: ClassVar[tuple[str, ...]] = ()
    before: ClassVar[Mapping[str, Any]] = {}
    plan_hints: ClassVar[PlanHints] = PlanHints()
    contract: ClassVar[tuple[Mapping[str, Any], ...]] = ()
    segments: ClassVar[bool] = True
    taught: ClassVar[bool] = False
    scales: ClassVar[bool] = False
    regions: ClassVar[bool] = False
    labels_optional: ClassVar[bool] = False

    @property
    def needs_others(self) -> bool:
        """Whether it can only be trained together with others."""
        return False

    @property
    def takes_scales(self) -> bool:
        """Whether a network may train at coarser scales, too."""
        return self.scales and self.as_corrected

    @property
    def takes_regions(self) -> bool:
        """Whether losses of labels can be made from regions."""
        return self.regions and self.as_corrected

    @property
    def as_corrected(self) -> bool:
        """Whether nothing has to be as it was published."""
        return bool(getattr(self, "preset", "corrected") == "corrected")

    @property
    def mixes(self) -> bool:
        """Whether patches are mixed with each other."""
        return False

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: Any) -> Any:
        """Fill in the preset. YAML reads a bare ``off`` as false."""
        if not isinstance(given, Mapping):
            return given
        asked = {
            key: "off" if value is False and "off" in cls.words(key) else value
            for key, value in given.items()
            if value is not None
        }
        if asked.get("variant") == "off":
            del asked["variant"]
        return {**cls.table(asked.get("preset"), asked.get("variant")), **asked}

    @classmethod
    def table(cls, preset: Any = None, variant: Any = None) -> dict[str, Any]:
        """Return the values of a preset and variant that differ from the fields' defaults."""
        values = cls.presets.get(str(preset), {})
        chosen = variant or values.get("variant")
        return {**values, **cls.presets.get(f"{preset}/{chosen}", {})}

    @classmethod
    def words(cls, key: str) -> set[str]:
        """Return the words that a setting takes."""
        field = cls.model_fields.get(key)
        return set() if field is None else set(_words(field.annotation))

    def filled(self, recipe: Sections) -> Self:
        """Return the settings with what follows from the recipe in place of ``auto``."""
        found = self.from_recipe(recipe)
        return type(self).model_validate({**self.model_dump(), **found}) if found else self

    # ---------------------------------------------------------------- what a method says of itself

    def from_recipe(self, recipe: Sections) -> dict[str, Any]:
        """Return the values of settings that are ``auto``, as they follow from the recipe."""
        return {}

    def stages(self, iterations: int) -> list[Stage]:
        """Divide a budget of ``iterations`` into stages; by default it is one."""
        return [Stage("train", iterations)]

    def check_recipe(self, recipe: Sections) -> Iterable[str]:
        """Return contradictions between the settings and the recipe, in plain words.

        Each is raised as an error before any data is read.
        """
        return ()

    def warn_recipe(self, recipe: Sections, overridden: Collection[str]) -> Iterable[str]:
        """Return warnings about settings that can do nothing, or not what they seem to.

        Args:
            recipe: the recipe.
            overridden: the settings that the user set; a preset's own values need no warning.
        """
        return ()


def first_stage(iterations: int, share: float) -> int:
    """Return how many iterations of a budget the first of two stages gets: 0 for a share of 0,
    else one or more, and never all.
    """
    return min(max(round(iterations * share), 1), iterations - 1) if share > 0 else 0


def _words(annotation: Any) -> list[str]:
    """Return the strings among the literals of a type."""
    parts = get_args(annotation)
    return [w for p in parts for w in ([p] if isinstance(p, str) else _words(p))]


class DiceSettings(MethodSettings):
    """Settings that choose a Dice loss: all that are called ``dice_*``."""

    @property
    def dice(self) -> DiceVariant:
        """The Dice loss that is meant."""
        chosen = {k.removeprefix("dice_"): v for k, v in self if k.startswith("dice_")}
        return DiceVariant(**chosen)


class AverageSettings(MethodSettings):
    """Settings of a student and the moving average of its weights."""

    ema_decay: BelowOne = setting(0.99, "Mean Teacher, sec. 2")
    """Share of its own past that the teacher keeps each iteration."""
    ema_warmup: bool = setting(True, "medssl")
    """Plain mean of the students so far, at first."""
    ema_buffers: BufferRule = setting("average", "published code")
    """BatchNorm's statistics: averaged, the student's, or the teacher's own."""
    predict_with: Who = setting("teacher", "published code")
    """Network that validates and predicts."""


class TeacherSettings(AverageSettings):
    """Settings of every method that has the two, and was published by itself."""

    preset: Preset = setting("corrected", "medssl")
    """Official follows the paper, or its published code; corrected is repaired."""
