"""Settings of RAIL and what its presets make of them; the method: :mod:`medssl.methods.rail`."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from pydantic import Field

from medssl.errors import MedSSLError
from medssl.methods.base import Settings
from medssl.methods.rail_schedule import Alternation, buffered_iterations
from medssl.networks.registry import check_patch
from medssl.ops.ema import BufferRule
from medssl.ops.regions import ErrorRegion, KLTerm, UniformTerm

PredictWith = Literal["all", "vnet", "resvnet", "best", "teacher"]


class RailSettings(Settings):
    """Settings of ``rail``; null means: as the preset says."""

    preset: Literal["official", "corrected"] = "corrected"
    groups: Literal[1, 2] = Field(2, description="pairs of students; 1 halves the cost")
    partner_network: str | None = Field(
        None, description="second network of a group; null: resvnet beside vnet, else the same"
    )
    partner_options: dict[str, Any] = Field(default_factory=dict, description="its options")
    alternation: Alternation | None = Field(
        None, description="turn: new batches every turn; buffer: the published two-epoch buffer"
    )
    turn_length: int | None = Field(
        None,
        ge=1,
        description="batches of a turn; buffer: of an epoch, officially 15 per labeled scan",
    )
    loaded_batches: int | None = Field(
        None, ge=1, description="buffer only: batches loaded in all, official 8000"
    )
    first_term_fraction: float | None = Field(
        None, ge=0, le=1, description="share of a group's iterations without DFS and CAL"
    )
    err_region: ErrorRegion | None = Field(None, description="official: the published wrong axis")
    dfs_kl: KLTerm | None = Field(None, description="KL of DFS: official (inert), voxel or off")
    cal_uniform: UniformTerm | None = Field(
        None, description="pull to uniform: official (second softmax) or proper KL"
    )
    dfs_mse_weight: float | None = Field(None, ge=0, description="alpha")
    dfs_kl_weight: float | None = Field(None, ge=0, description="beta")
    consistency_weight: float | None = Field(None, ge=0, description="of CAL, after the ramp")
    uniform_weight: float | None = Field(None, ge=0, description="relative to consistency_weight")
    teacher_weight: float | None = Field(None, ge=0, description="after the ramp")
    ramp_iterations: int | None = Field(None, ge=0, description="of a group; overrides fraction")
    ramp_fraction: float | None = Field(None, ge=0, le=1, description="of a group's iterations")
    ramp_every: int | None = Field(None, ge=1, description="the ramp moves every so many")
    temperature: float | None = Field(None, gt=0, description="of pseudo-labels; below 1 sharpens")
    teacher_mode: Literal["train", "eval"] | None = None
    frozen_mode: Literal["train", "eval"] | None = Field(
        None, description="mode of the inactive group's students"
    )
    ema_decay: float | None = Field(None, ge=0, lt=1)
    ema_buffers: BufferRule | None = None
    predict_with: PredictWith | None = Field(
        None, description="mean of all students, of a kind, the best one, or the teachers"
    )


@dataclass(frozen=True)
class Rules:
    """Every switch with its value; the defaults are preset ``corrected``."""

    alternation: Alternation = "turn"
    turn_length: int = 1
    loaded_batches: int | None = None
    first_term_fraction: float = 0.05
    err_region: ErrorRegion = "true"
    dfs_kl: KLTerm = "voxel"
    cal_uniform: UniformTerm = "proper"
    dfs_mse_weight: float = 0.5
    dfs_kl_weight: float = 0.05
    consistency_weight: float = 20.0
    uniform_weight: float = 0.1
    teacher_weight: float = 10.0
    ramp_iterations: int | None = None
    ramp_fraction: float = 0.4
    ramp_every: int = 1
    temperature: float = 0.1
    teacher_mode: str = "eval"
    frozen_mode: str = "train"
    ema_decay: float = 0.999
    ema_buffers: BufferRule = "average"
    predict_with: PredictWith = "all"


PRESETS = {
    "corrected": Rules(),
    "official": Rules(
        alternation="buffer",
        turn_length=195,
        err_region="official",
        dfs_kl="official",
        cal_uniform="official",
        ramp_iterations=3000,
        ramp_every=150,
        teacher_mode="train",
        ema_buffers="keep",
    ),
}


def resolve(settings: RailSettings) -> Rules:
    """Fill in what the preset says; depends on nothing else."""
    given = {f.name: getattr(settings, f.name) for f in fields(Rules)}
    return replace(PRESETS[settings.preset], **{k: v for k, v in given.items() if v is not None})


def problems(settings: RailSettings, recipe: Any) -> list[str]:
    """Return what the official code cannot do, and a partner that does not fit the patch."""
    training, rules = recipe.training, resolve(settings)
    out = []
    if training.unlabeled_batch < 1:
        out.append("method rail needs training.unlabeled_batch of at least 1")
    if settings.preset == "official" and training.labeled_batch != 1:
        out.append(
            "rail's official preset compares regions of one labeled patch at a time: "
            f"training.labeled_batch must be 1, not {training.labeled_batch} (preset corrected "
            "takes any number)"
        )
    if rules.alternation == "buffer":
        out += _buffer_problems(settings, rules, training)
    name, options = _partner(settings, recipe.network)
    try:
        check_patch(name, training.patch, options)
    except MedSSLError as error:
        out.append(f"method.partner_network: {error.what} (fix: {error.fix})")
    return out


def idle_settings(settings: RailSettings, recipe: Any) -> list[str]:
    """Return settings that can do nothing, or that weaken the method."""
    rules = resolve(settings)
    out = []
    if rules.consistency_weight == 0 and rules.teacher_weight == 0:
        out.append(
            "method.consistency_weight and method.teacher_weight are 0: the unlabeled images "
            "teach nothing"
        )
    if rules.dfs_kl == "off" and {"err_region", "dfs_kl_weight"} & settings.model_fields_set:
        out.append("method.err_region and dfs_kl_weight do nothing with dfs_kl: off")
    if rules.alternation == "turn" and settings.loaded_batches is not None:
        out.append("method.loaded_batches does nothing without alternation: buffer")
    if settings.ramp_iterations is not None and settings.ramp_fraction is not None:
        out.append("method.ramp_fraction does nothing beside method.ramp_iterations")
    name, options = _partner(settings, recipe.network)
    if (name, options) == (recipe.network.name, recipe.network.options):
        out.append(
            "the students of a group are the same network with other initial weights; rail "
            "lives from different ones: set method.partner_network"
        )
    return out


def _buffer_problems(settings: RailSettings, rules: Rules, training: Any) -> list[str]:
    """Return what does not fit the official alternation."""
    out = []
    if settings.groups != 2:
        out.append("rail's alternation: buffer needs method.groups of 2")
    if training.accumulate != 1:
        out.append("rail's alternation: buffer needs training.accumulate of 1")
    if rules.loaded_batches is not None:
        needed = buffered_iterations(rules.turn_length, rules.loaded_batches)
        if training.iterations != needed:
            out.append(
                f"{rules.loaded_batches} loaded batches in epochs of {rules.turn_length} make "
                f"{needed} iterations of both groups together, but training.iterations is "
                f"{training.iterations}"
            )
    return out


def _partner(settings: RailSettings, network: Any) -> tuple[str, dict[str, Any]]:
    """Return name and options of the second network, as the method builds it."""
    name = settings.partner_network or ("resvnet" if network.name == "vnet" else network.name)
    own = network.options if name == network.name else {}
    return name, {**own, **settings.partner_options}
