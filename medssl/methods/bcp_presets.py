"""Settings of BCP, what its presets make of them, and which recipes they fit.

The method is in :mod:`medssl.methods.bcp`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from pydantic import Field

from medssl.methods.base import Settings
from medssl.ops.ema import BufferRule
from medssl.ops.losses import DiceVariant
from medssl.ops.mixing import box_size

Variant = Literal["acdc", "la", "pancreas"]


class BCPSettings(Settings):
    """Settings of ``bcp``; null means: as the preset and variant say."""

    preset: Literal["official", "corrected"] = "corrected"
    variant: Variant | None = Field(None, description="official only: whose code to follow")
    pretrain_fraction: float | None = Field(None, ge=0, lt=1, description="of all iterations")
    pretrain_loss: Literal["region", "whole"] | None = None
    pretrain_pairing: Literal["halves", "cycle"] | None = None
    pairing: Variant | None = Field(None, description="which halves meet, as in that variant")
    carry_optimizer: bool | None = None
    start_from_best: bool | None = Field(None, description="stage 2 from the best of stage 1")
    mask_ratio: float | None = Field(None, gt=0, lt=1, description="box side / patch side")
    mask_offset_inclusive: bool | None = None
    mask_per_sample: bool | None = Field(None, description="a box for each sample of the batch")
    share_mask: bool | None = Field(None, description="same boxes for both mixed images")
    largest_component: Literal["off", "per_class"] | None = None
    spec_pieces: bool | None = Field(None, description="keep as many as the data spec says")
    connectivity: int | None = Field(None, ge=1, le=3, description="1 face, 2 edge, 3 corner")
    threshold: float | Literal["argmax"] | None = Field(
        None, description="argmax, or a foreground class from this probability on"
    )
    weight_gt: float | None = Field(None, ge=0, description="of ground-truth regions")
    weight_pseudo: float | None = Field(None, ge=0, description="of pseudo-labeled regions")
    normalize: Literal["region", "source"] | None = None
    dice_per_sample: bool | None = None
    dice_squared: bool | None = None
    dice_smooth: float | None = Field(None, gt=0)
    dice_background: bool | None = None
    legacy_background_bug: bool | None = None
    joint_forward: bool | None = Field(None, description="both mixed images in one pass")
    teacher_mode: Literal["train", "eval"] | None = None
    ema_decay: float | None = Field(None, ge=0, lt=1)
    ema_warmup: bool | None = None
    ema_buffers: BufferRule | None = None
    predict_with: Literal["student", "teacher"] | None = None


@dataclass(frozen=True)
class Rules:
    """Every switch with its value; the defaults are preset ``corrected``."""

    pretrain_fraction: float = 0.25
    pretrain_loss: str = "whole"
    pretrain_pairing: str = "cycle"
    pairing: str = "acdc"
    carry_optimizer: bool = False
    start_from_best: bool = True
    mask_ratio: float = 2 / 3
    mask_offset_inclusive: bool = True
    mask_per_sample: bool = True
    share_mask: bool = False
    largest_component: str = "per_class"
    spec_pieces: bool = True
    connectivity: int = 3
    threshold: float | str = "argmax"
    weight_gt: float = 1.0
    weight_pseudo: float = 0.5
    normalize: str = "source"
    dice_per_sample: bool = False
    dice_squared: bool = True
    dice_smooth: float = 1e-5
    dice_background: bool = False
    legacy_background_bug: bool = False
    joint_forward: bool = True
    teacher_mode: str = "eval"
    ema_decay: float = 0.99
    ema_warmup: bool = True
    ema_buffers: BufferRule = "average"
    predict_with: str = "teacher"

    @property
    def dice(self) -> DiceVariant:
        """The Dice loss that is meant."""
        return DiceVariant(
            per_sample=self.dice_per_sample,
            squared=self.dice_squared,
            smooth=self.dice_smooth,
            background=self.dice_background,
            legacy_background=self.legacy_background_bug,
        )


_ACDC = Rules(
    pretrain_fraction=10_000 / 40_000,
    pretrain_loss="region",
    pretrain_pairing="halves",
    pairing="acdc",
    carry_optimizer=True,
    mask_offset_inclusive=False,
    mask_per_sample=False,
    share_mask=True,
    spec_pieces=False,
    normalize="region",
    dice_smooth=1e-10,
    dice_background=True,
    joint_forward=False,
    teacher_mode="train",
    ema_warmup=False,
    predict_with="student",
)
_LA = replace(
    _ACDC,
    pretrain_fraction=2_000 / 17_000,
    pretrain_loss="whole",
    pairing="la",
    carry_optimizer=False,
    threshold=0.5,
    dice_per_sample=True,
    dice_squared=False,
    dice_smooth=1e-5,
    ema_buffers="keep",
)
# 60 and 200 epochs of 30 and 25 iterations; connectivity of the October 2023 upload.
_PANCREAS = replace(
    _LA,
    pretrain_fraction=1_800 / 6_800,
    pairing="pancreas",
    carry_optimizer=True,
    connectivity=2,
)
OFFICIAL: dict[str, Rules] = {"acdc": _ACDC, "la": _LA, "pancreas": _PANCREAS}


def resolve(settings: BCPSettings) -> Rules:
    """Fill in what the preset and variant say; depends on nothing else."""
    base = Rules()
    if settings.preset == "official":
        base = OFFICIAL[settings.variant or "acdc"]
    given = {f.name: getattr(settings, f.name) for f in fields(Rules)}
    return replace(base, **{k: v for k, v in given.items() if v is not None})


def recipe_problems(settings: BCPSettings, recipe: Any) -> list[str]:
    """Return why batches cannot be paired, or boxes do not fit the patch."""
    training = recipe.training
    rules = resolve(settings)
    n, m = training.labeled_batch, training.unlabeled_batch
    out = []
    if settings.preset == "official" and settings.variant is None:
        out.append(
            "bcp's official preset follows one of three published codes: set method.variant to "
            "acdc, la or pancreas"
        )
    if m < 1:
        out.append("method bcp needs training.unlabeled_batch of at least 1")
    if settings.preset == "official" and n % 2:
        out.append(
            "bcp's official preset pairs one half of the labeled batch with the other: "
            f"training.labeled_batch must be even, not {n}"
        )
    if settings.preset == "official" and n != m:
        out.append(
            "bcp's official preset pairs labeled with unlabeled patches one to one: "
            f"training.labeled_batch ({n}) and training.unlabeled_batch ({m}) must be equal"
        )
    if rules.pretrain_fraction > 0 and n < 2:
        out.append(
            "bcp's pre-training pastes one labeled patch into another: "
            f"training.labeled_batch must be at least 2, not {n}"
        )
    try:
        box_size(training.patch, rules.mask_ratio)
    except ValueError as error:
        out.append(f"training.patch and method.mask_ratio do not fit: {error}")
    return out


def recipe_warnings(settings: BCPSettings, recipe: Any) -> list[str]:
    """Return warnings about settings that can do nothing, or that the data speak against."""
    rules = resolve(settings)
    out = []
    if rules.weight_pseudo == 0:
        out.append("method.weight_pseudo is 0: the unlabeled images teach nothing")
    if settings.preset == "corrected" and settings.variant is not None:
        out.append("method.variant does nothing with preset corrected")
    if rules.largest_component == "off" and settings.connectivity is not None:
        out.append("method.connectivity does nothing with largest_component: off")
    if rules.legacy_background_bug and not rules.dice_background:
        out.append("method.legacy_background_bug does nothing without dice_background")
    spec = recipe.spec
    if rules.largest_component == "per_class" and spec.pieces and not rules.spec_pieces:
        out.append(
            "bcp keeps one piece of each pseudo-labeled structure as published, but spec.pieces "
            "says that some have several; set method.spec_pieces: true to keep them"
        )
    elif rules.largest_component == "per_class" and not (spec.largest_component or spec.pieces):
        out.append(
            "bcp reduces each pseudo-labeled structure to its largest piece, but the data spec "
            "does not say that structures are one piece (spec.largest_component); if they are "
            "not, say how many each has (spec.pieces) or set method.largest_component: off"
        )
    return out
