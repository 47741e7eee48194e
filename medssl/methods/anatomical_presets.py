"""Settings of ``anatomical`` and its presets; the method is in :mod:`medssl.methods.anatomical`."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

from pydantic import Field

from medssl.methods.weighted_teacher import (
    PUBLISHED,
    WeightedTeacherRules,
    WeightedTeacherSettings,
)
from medssl.ops.certainty import Deviation, Reduction, Weighting
from medssl.ops.corruption import Style

Control = Literal["none", "uniform", "identity"]


class AnatomicalSettings(WeightedTeacherSettings):
    """Settings of ``anatomical``; null means: as the preset says."""

    control: Control = Field(
        "none", description="uniform: weight 1; identity: an autoencoder that changes nothing"
    )
    autoencoder_fraction: float | None = Field(
        None, ge=0, lt=1, description="of all iterations; 0 with a control only"
    )
    bottleneck: Literal["fc", "conv"] | None = Field(
        None, description="one code per patch, or one per position (any patch)"
    )
    grid: list[int] | None = Field(
        None, description="fc only: features per axis; training.patch / 16 in the paper"
    )
    embedding: int | None = Field(None, ge=1, description="length of a code")
    levels: int | None = Field(None, ge=2, le=4, description="times the autoencoder halves an axis")
    skips: bool | None = Field(None, description="let details pass beside the code")
    filters: int | None = Field(None, ge=1, description="autoencoder's channels at full resolution")
    init: Literal["default", "uniform"] | None = Field(None, description="autoencoder's weights")
    dae_input: Literal["index", "onehot", "soft"] | None = Field(
        None, description="what it sees of the teacher: class indices, one-hot or probabilities"
    )
    output: Literal["sigmoid", "softmax"] | None = Field(
        None, description="of the autoencoder; trained by squared error + Dice, or by CE + Dice"
    )
    mask_batch: int | None = Field(
        None, ge=1, description="masks per iteration; corrected: training.labeled_batch"
    )
    mask_noise: float | None = Field(None, ge=0, description="s.d. of noise on masks, stage 1")
    latent_noise_training: float | None = Field(None, ge=0, description="s.d. on codes, stage 1")
    latent_noise: float | None = Field(None, ge=0, description="s.d. on codes, stage 2")
    corruption: Style | None = None
    corruption_strength: float | None = Field(None, ge=0, description="1: as documented")
    uncertainty: Deviation | None = Field(
        None, description="squared (paper) and abs mix both sources of U; apart adds them up"
    )
    reduction: Reduction | None = Field(None, description="of the uncertainty over classes")
    weight: Weighting | None = Field(None, description="exp(-gamma U), U < threshold, or 1")
    gamma: float | None = Field(None, ge=0)
    threshold: float | None = Field(None, gt=0)
    skip_below: float | None = Field(
        None, ge=0, le=1, description="no autoencoder below this share of consistency_weight"
    )
    schedule_tail: int | None = Field(
        None, ge=0, description="iterations by which the learning-rate schedule outlasts a stage"
    )


@dataclass(frozen=True)
class Rules(WeightedTeacherRules):
    """The settings with the preset filled in; the defaults are preset ``corrected``."""

    autoencoder_fraction: float = 0.25
    bottleneck: Literal["fc", "conv"] = "conv"
    grid: tuple[int, ...] | None = None
    embedding: int = 64
    levels: int = 3
    skips: bool = True
    filters: int = 16
    init: Literal["default", "uniform"] = "default"
    dae_input: Literal["index", "onehot", "soft"] = "onehot"
    output: Literal["sigmoid", "softmax"] = "softmax"
    mask_batch: int | None = None
    mask_noise: float = 0.0
    latent_noise_training: float = 0.0
    latent_noise: float = 0.0
    corruption: Style = "coherent"
    corruption_strength: float = 1.0
    uncertainty: Deviation = "apart"
    reduction: Reduction = "sum"
    weight: Weighting = "exp"
    gamma: float = 1.0
    threshold: float = 0.5
    skip_below: float = 0.03
    schedule_tail: int = 0


PRESETS = {
    "corrected": Rules(),
    "official": Rules(
        **PUBLISHED,  # type: ignore[arg-type]
        consistency_on="all",
        ramp_every=200,
        autoencoder_fraction=50_000 / 58_000,
        bottleneck="fc",
        embedding=512,
        levels=4,
        skips=False,
        init="uniform",
        dae_input="index",
        output="sigmoid",
        mask_batch=4,
        mask_noise=0.1,
        latent_noise=0.1,
        corruption="official2d",
        uncertainty="squared",
        reduction="per_class",
        skip_below=0.0,
        schedule_tail=2000,
    ),
}


def resolve(settings: AnatomicalSettings) -> Rules:
    """Fill in the preset."""
    given = {f.name: getattr(settings, f.name) for f in fields(Rules)}
    rules = replace(PRESETS[settings.preset], **{k: v for k, v in given.items() if v is not None})
    return rules if rules.grid is None else replace(rules, grid=tuple(rules.grid))


def warnings(settings: AnatomicalSettings, patch: list[int]) -> list[str]:
    """Return warnings about settings that can do nothing, or not what they seem to."""
    rules, out = resolve(settings), []
    if rules.consistency_weight == 0:
        out.append("method.consistency_weight is 0: the unlabeled images do nothing")
    if rules.bottleneck == "conv" and settings.grid is not None:
        out.append("method.grid does nothing with bottleneck: conv")
    whole = [-(-n // 2**rules.levels) for n in patch]
    if rules.bottleneck == "fc" and list(rules.grid or ()) != whole:
        out.append(
            "method.bottleneck fc averages the patch's features to method.grid; the published "
            f"network is method.grid: {whole}"
        )
    if settings.control != "none":
        out.append(
            f"method.control is {settings.control}: a control experiment, in which the trained "
            "autoencoder does not guide the student (it is trained all the same, so that the "
            "student's stage is as long; autoencoder_fraction: 0 leaves it out)"
        )
    weighted = settings.control != "uniform"
    for name, works in (
        ("gamma", weighted and rules.weight == "exp"),
        ("threshold", weighted and rules.weight == "threshold"),
        ("reduction", weighted and rules.uncertainty != "entropy"),
        ("latent_noise", settings.control == "none"),
        ("skip_below", settings.control == "none"),
        ("ramp_every", rules.ramp_fraction is None),
    ):
        if getattr(settings, name) is not None and not works:
            out.append(f"method.{name} does nothing with the method's other settings")
    return out
