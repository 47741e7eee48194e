"""Settings and presets of the pseudo supervisor, and which recipes they fit.

The method is in :mod:`medssl.methods.pseudo_supervisor`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal

from pydantic import Field

from medssl.methods.base import Settings
from medssl.ops.ema import BufferRule

Share = Annotated[float, Field(ge=0, lt=1)]

LEAST_TRAVEL = 0.1
"""Updates times learning rate, about how far a weight of the policy can go, to be worth it."""


class PseudoSupervisorSettings(Settings):
    """Settings of ``pseudo_supervisor``; null means: as the preset says."""

    preset: Literal["official", "corrected"] = "corrected"
    selection: Literal["learned", "random", "always_0.5", "always_0.95"] = "learned"
    buffer: int = Field(50, ge=2, description="rewards per policy update")
    buffer_patches: int = Field(16, ge=1, description="patches of a batch that the policy recalls")
    measure_every: int = Field(1, ge=1, description="iterations between rewards")
    reward_patches: int = Field(
        1, ge=0, description="labeled patches held out for the reward; 0: measure on all"
    )
    virtual_lr: float = Field(0.01, gt=0, description="length of the virtual step")
    policy_lr: float | None = Field(None, gt=0, description="learning rate of the policy")
    loss: Literal["ce", "dice_ce"] | None = Field(None, description="of labels, rewards and all")
    unlabeled_weight: float | None = Field(None, ge=0, description="after the ramp")
    ramp_fraction: float | None = Field(None, ge=0, le=1, description="of all iterations")
    reward: Literal["signed", "rectified"] | None = None
    scale_reward: bool | None = Field(None, description="divide by the running root mean square")
    alpha: float | None = Field(None, gt=0, description="rectified only: steepness")
    gamma: float | None = Field(None, ge=0, le=1, description="discount of later rewards")
    restart: bool | None = Field(None, description="returns restart at a reward of 0")
    advantage: Literal["baseline", "standardize"] | None = None
    entropy: float | None = Field(None, ge=0, description="weight of the entropy bonus")
    floor: float | None = Field(
        None, ge=0, le=1, description="share of the draws that are uniform whatever was learned"
    )
    drop: Literal["labels", "class"] | None = Field(
        None, description="what dropping a class takes out: its labels, or all evidence about it"
    )
    policy_clip: float | None = Field(None, gt=0, description="largest norm of its gradient")
    policy_betas: tuple[Share, Share] | None = None
    ema_decay: float | None = Field(None, ge=0, lt=1)
    ema_buffers: BufferRule | None = None
    predict_with: Literal["student", "teacher"] | None = None


@dataclass(frozen=True)
class Rules:
    """What depends on the preset; the defaults are preset ``corrected``."""

    loss: str = "dice_ce"
    unlabeled_weight: float = 0.5
    ramp_fraction: float = 0.4
    reward: str = "signed"
    scale_reward: bool = True
    alpha: float = 1.0
    gamma: float = 0.0
    restart: bool = False
    advantage: str = "baseline"
    entropy: float = 0.1
    floor: float = 0.2
    drop: str = "class"
    policy_lr: float = 0.01
    policy_clip: float = 1.0
    policy_betas: tuple[float, float] = (0.9, 0.999)
    ema_decay: float = 0.99
    ema_buffers: BufferRule = "average"
    predict_with: str = "teacher"


PRESETS = {
    "corrected": Rules(),
    "official": Rules(
        loss="ce",
        unlabeled_weight=1.0,
        ramp_fraction=0.0,
        reward="rectified",
        scale_reward=False,
        gamma=0.9,
        restart=True,
        advantage="standardize",
        entropy=0.0,
        floor=0.0,
        drop="labels",
        policy_lr=1e-4,
        policy_clip=float("inf"),
        policy_betas=(0.0, 0.1),
        predict_with="student",
    ),
}


def resolve(settings: PseudoSupervisorSettings) -> Rules:
    """Fill in the preset."""
    given = {f.name: getattr(settings, f.name) for f in fields(Rules)}
    return replace(PRESETS[settings.preset], **{k: v for k, v in given.items() if v is not None})


def recipe_problems(settings: PseudoSupervisorSettings, recipe: Any) -> list[str]:
    """Return why nothing can be held out of a batch, or nothing is unlabeled."""
    out = []
    held, labeled = settings.reward_patches, recipe.training.labeled_batch
    if recipe.training.unlabeled_batch < 1:
        out.append("method pseudo_supervisor needs training.unlabeled_batch of at least 1")
    if held >= labeled:
        out.append(
            f"method.reward_patches ({held}) leaves none of training.labeled_batch ({labeled}) "
            "to train on; use a larger batch, or reward_patches: 0 to measure on all of it"
        )
    return out


def recipe_warnings(settings: PseudoSupervisorSettings, recipe: Any) -> list[str]:
    """Return warnings about settings that can do nothing."""
    rules = resolve(settings)
    out = []
    if rules.unlabeled_weight == 0:
        out.append("method.unlabeled_weight is 0: the unlabeled images do nothing")
    updates = recipe.training.iterations // (settings.buffer * settings.measure_every)
    if settings.selection == "learned" and updates * rules.policy_lr < LEAST_TRAVEL:
        out.append(
            f"the policy is updated {updates} times (training.iterations / method.buffer / "
            f"measure_every) at a learning rate of {rules.policy_lr:g}: it will hardly differ "
            "from selection: random; use a smaller buffer or a larger policy_lr"
        )
    if rules.reward != "rectified" and settings.alpha is not None:
        out.append("method.alpha does nothing without reward: rectified")
    if rules.gamma == 0 and settings.restart:
        out.append("method.restart does nothing with gamma 0")
    return out
