"""Settings of ``rail``; the method is in :mod:`medssl.methods.rail`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, ClassVar, Literal

from medssl.errors import MedSSLError
from medssl.methods import rail_schedule as schedule
from medssl.methods.fields import (
    Auto,
    BelowOne,
    Count,
    Mode,
    NotNegative,
    Off,
    Positive,
    Preset,
    Share,
    setting,
)
from medssl.methods.plan_hints import Advice, PlanHints, PublishedNetwork
from medssl.methods.settings import MethodSettings, Sections, Tables
from medssl.networks.registry import check_patch
from medssl.ops.ramps import sigmoid_ramp
from medssl.ops.variants import BufferRule, ErrorRegion, KLTerm, UniformTerm
from medssl.settings.recipe import NetworkSettings

DIFFER = "the second student of a group must differ"
LOOKS_BACK = "0.999 would average over more iterations than a group has"


class RailSettings(MethodSettings):
    """Settings of ``rail``."""

    paper = "Zhao et al., RAIL (arXiv 2505.03538)"
    plan_hints = PlanHints(
        "two pairs of networks correct each other where they err",
        trained_networks=4,
        network=PublishedNetwork("vnet", "as published; its partner is resvnet"),
        advice=(
            Advice("partner_options", {"num_res_units": 1, "act": "relu"}, DIFFER, network="unet"),
            Advice("partner_options", {"res_block": True}, DIFFER, network="dynunet"),
            Advice("ema_decay", 0.99, LOOKS_BACK, below=10_000),
        ),
    )
    presets: ClassVar[Tables] = {
        "official": {
            "alternation": "buffer",
            "turn_length": 195,
            "err_region": "official",
            "dfs_kl": "official",
            "cal_uniform": "official",
            "ramp_iterations": 3000,
            "ramp_every": 150,
            "teacher_mode": "train",
            "ema_buffers": "keep",
        }
    }

    preset: Preset = setting("corrected", "medssl")
    """Official follows the published code."""
    groups: Literal[1, 2] = setting(2, "sec. 2")
    """Pairs of students; 1 halves the cost."""
    partner_network: str | Auto = setting("auto", "sec. 3")
    """Second network of a group; auto: resvnet beside vnet, else the same."""
    partner_options: dict[str, Any] = setting({}, "medssl")
    """Options of the second network."""
    alternation: schedule.Alternation = setting("turn", "sec. 2")
    """Turn: new batches every turn; buffer: the published two-epoch buffer."""
    turn_length: Count = setting(1, "published code")
    """Batches of a turn; buffer: of an epoch, officially 15 per labeled scan."""
    loaded_batches: Count | Off = setting("off", "published code")
    """Buffer only: batches loaded in all, official 8000; off: no end."""
    first_term_fraction: Share = setting(0.05, "sec. 2")
    """Share of a group's iterations without DFS and CAL."""
    err_region: ErrorRegion = setting("true", "DFS")
    """Official: the published wrong axis."""
    dfs_kl: KLTerm = setting("voxel", "DFS")
    """KL of DFS: official (inert), voxel or off."""
    cal_uniform: UniformTerm = setting("proper", "CAL")
    """Pull to uniform: official (second softmax) or proper KL."""
    dfs_mse_weight: NotNegative = setting(0.5, "DFS")
    """Alpha, of DFS's squared error."""
    dfs_kl_weight: NotNegative = setting(0.05, "DFS")
    """Beta, of DFS's KL."""
    consistency_weight: NotNegative = setting(20.0, "CAL")
    """Of CAL, after the ramp."""
    uniform_weight: NotNegative = setting(0.1, "CAL")
    """Of the pull to uniform, relative to consistency_weight."""
    teacher_weight: NotNegative = setting(10.0, "CAL")
    """Of the teacher, after the ramp."""
    ramp_iterations: int | Off = setting("off", "published code")
    """Of a group, until the ramp ends; overrides ramp_fraction."""
    ramp_fraction: Share = setting(0.4, "medssl")
    """Share of a group's iterations until the ramp ends."""
    ramp_every: Count = setting(1, "published code")
    """Iterations after which the ramp moves."""
    temperature: Positive = setting(0.1, "CAL")
    """Of pseudo-labels; below 1 sharpens."""
    teacher_mode: Mode = setting("eval", "published code")
    """Mode in which the teachers predict."""
    frozen_mode: Mode = setting("train", "published code")
    """Of the inactive group's students."""
    ema_decay: BelowOne = setting(0.999, "sec. 3")
    """Share of its own past that a teacher keeps each iteration."""
    ema_buffers: BufferRule = setting("average", "published code")
    """BatchNorm's statistics: averaged, the student's, or the teacher's own."""
    predict_with: Literal["all", "vnet", "resvnet", "best", "teacher"] = setting("all", "sec. 3")
    """Mean of all students, of a kind, the best one, or the teachers."""

    # ------------------------------------------------------------------ schedule

    @property
    def loaded(self) -> int | None:
        """The last batch that is loaded; None: there is no end."""
        return None if self.loaded_batches == "off" else self.loaded_batches

    def position(self, iteration: int, total: int) -> schedule.Position:
        """Return which group an iteration trains, and where that group stands."""
        if self.alternation == "buffer":
            return schedule.buffered_position(iteration, self.turn_length, self.loaded)
        first_term = round(self.first_term_fraction * total / self.groups)
        return schedule.alternating_position(
            iteration, groups=self.groups, turn_length=self.turn_length, first_term=first_term
        )

    def learning_rate_position(self, iteration: int, total: int) -> tuple[int, int]:
        """Read the schedule at the newest batch loaded, in the official alternation."""
        if self.alternation == "turn":
            return iteration, total
        batches = self.loaded or schedule.batches_to_load(total, self.turn_length)
        return min(self.position(iteration, total).loaded, batches), batches

    def ramp(self, group_iteration: int, total: int) -> float:
        """Return the share of the consistency weights at an iteration of a group."""
        length: float | Literal["off"] = self.ramp_iterations
        if length == "off":
            length = self.ramp_fraction * total / self.groups
        return sigmoid_ramp(group_iteration, length, every=self.ramp_every)

    # ------------------------------------------------------------------ recipe

    def from_recipe(self, recipe: Sections) -> dict[str, Any]:
        """Name the second network of a group."""
        if self.partner_network != "auto":
            return {}
        own = recipe.network.name
        return {"partner_network": "resvnet" if own == "vnet" else own}

    def check_recipe(self, recipe: Sections) -> Iterator[str]:
        """Refuse what the official code cannot do, and a partner that does not fit the patch."""
        training, loaded = recipe.training, self.loaded
        buffer, needed = self.alternation == "buffer", training.iterations
        if buffer and loaded is not None:
            needed = schedule.buffered_iterations(self.turn_length, loaded)
        if self.preset == "official" and training.labeled_batch != 1:
            yield (
                "rail's official preset compares regions of one labeled patch at a time: "
                f"training.labeled_batch must be 1, not {training.labeled_batch} (preset corrected "
                "takes any number)"
            )
        if buffer and self.groups != 2:
            yield "rail's alternation: buffer needs method.groups of 2"
        if buffer and training.accumulate != 1:
            yield "rail's alternation: buffer needs training.accumulate of 1"
        if needed != training.iterations:
            yield (
                f"{loaded} loaded batches in epochs of {self.turn_length} make {needed} iterations "
                f"of both groups together, but training.iterations is {training.iterations}"
            )
        name, settings = self._partner(recipe.network)
        try:
            check_patch(name, training.patch, settings)
        except MedSSLError as error:
            yield f"method.partner_network: {error.what} (fix: {error.fix})"

    def _partner(self, network: NetworkSettings) -> tuple[str, dict[str, Any]]:
        """Return name and settings of the second network, as the method builds it."""
        name = network.name if self.partner_network == "auto" else self.partner_network
        own = network.settings if name == network.name else {}
        return name, {**own, **self.partner_options}

    def warn_recipe(self, recipe: Sections, overridden: Collection[str]) -> Iterator[str]:
        """Warn of settings that can do nothing, or that weaken the method."""
        same = self._partner(recipe.network) == (recipe.network.name, recipe.network.settings)
        if self.consistency_weight == 0 and self.teacher_weight == 0:
            yield (
                "method.consistency_weight and method.teacher_weight are 0: the unlabeled images "
                "teach nothing"
            )
        if self.dfs_kl == "off" and {"err_region", "dfs_kl_weight"} & set(overridden):
            yield "method.err_region and dfs_kl_weight do nothing with dfs_kl: off"
        if self.alternation == "turn" and self.loaded is not None:
            yield "method.loaded_batches does nothing without alternation: buffer"
        if self.ramp_iterations != "off" and "ramp_fraction" in overridden:
            yield "method.ramp_fraction does nothing beside method.ramp_iterations"
        if same:
            yield (
                "the students of a group are the same network with other initial weights; rail "
                "lives from different ones: set method.partner_network"
            )
