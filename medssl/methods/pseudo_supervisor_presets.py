"""Settings and presets of the pseudo supervisor (:mod:`medssl.methods.pseudo_supervisor`)."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Annotated, Literal

from pydantic import Field

from medssl.methods.base import Settings
from medssl.ops.ema import BufferRule

Share = Annotated[float, Field(ge=0, lt=1)]


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
