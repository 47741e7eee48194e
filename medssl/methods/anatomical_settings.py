"""Settings of ``anatomical``; the method is in :mod:`medssl.methods.anatomical`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, ClassVar, Literal

from medssl.methods.fields import (
    Auto,
    BelowOne,
    Count,
    Natural,
    NotNegative,
    Off,
    Positive,
    Share,
    setting,
)
from medssl.methods.plan_hints import Advice, PlanHints
from medssl.methods.settings import Sections, Stage, Tables, first_stage
from medssl.methods.weighted_teacher_settings import PUBLISHED, WeightedTeacherSettings
from medssl.ops.variants import CorruptionStyle, Deviation, Mixing, Reduction, Weighting


class AnatomicalSettings(WeightedTeacherSettings):
    """Settings of ``anatomical``."""

    paper = "Adiga V et al., Medical Image Analysis 2024 (arXiv 2310.16099)"
    scales = True
    regions = True
    plan_hints = PlanHints(
        "trusts its guesses where they look like anatomy",
        trained_networks=2,
        advice=(
            Advice("filters", 8, "a small model of anatomy: half the paper's width", device="cpu"),
            Advice(
                "stages",
                {"autoencoder": {"optimizer": {"name": "adam", "lr": 0.005, "weight_decay": 0.0}}},
                "the model of anatomy learns from few iterations at a higher rate only",
                section="training",
                device="cpu",
            ),
        ),
    )
    presets: ClassVar[Tables] = {
        "official": {
            **PUBLISHED,
            "consistency_on": "all",
            "ramp_every": 200,
            "autoencoder_fraction": 50_000 / 58_000,
            "bottleneck": "fc",
            "embedding": 512,
            "levels": 4,
            "skips": False,
            "init": "uniform",
            "dae_input": "index",
            "output": "sigmoid",
            "mask_batch": 4,
            "mask_noise": 0.1,
            "latent_noise": 0.1,
            "corruption": "official2d",
            "uncertainty": "squared",
            "reduction": "per_class",
            "skip_below": 0.0,
            "schedule_tail": 2000,
        }
    }

    mixing: Mixing = setting("none", "medssl")
    """Of unlabeled patches, as in mean_teacher."""
    control: Literal["none", "uniform", "identity"] = setting("none", "medssl")
    """Uniform: weight 1; identity: an autoencoder that changes nothing."""
    autoencoder_fraction: BelowOne = setting(0.25, "published code")
    """Share of all iterations for the autoencoder; 0 with a control only."""
    bottleneck: Literal["fc", "conv"] = setting("conv", "sec. 3")
    """One code per patch, or one per position (any patch)."""
    grid: list[int] | Auto | Off = setting("auto", "sec. 3")
    """Fc only: features per axis; training.patch / 16 in the paper."""
    embedding: Count = setting(64, "sec. 3")
    """Length of a code."""
    levels: int = setting(3, "published code", ge=2, le=4)
    """Times the autoencoder halves an axis."""
    skips: bool = setting(True, "medssl")
    """Let details pass beside the code."""
    filters: Count = setting(16, "published code")
    """Autoencoder's channels at full resolution."""
    init: Literal["default", "uniform"] = setting("default", "published code")
    """Autoencoder's weights."""
    dae_input: Literal["index", "onehot", "soft"] = setting("onehot", "published code")
    """What it sees of the teacher: class indices, one-hot or probabilities."""
    output: Literal["sigmoid", "softmax"] = setting("softmax", "published code")
    """Of the autoencoder; trained by squared error + Dice, or by CE + Dice."""
    mask_batch: Count | Auto = setting("auto", "published code")
    """Masks per iteration; auto: training.labeled_batch."""
    mask_noise: NotNegative = setting(0.0, "published code")
    """Standard deviation of noise on masks, stage 1."""
    latent_noise_training: NotNegative = setting(0.0, "published code")
    """Standard deviation on codes, stage 1."""
    latent_noise: NotNegative = setting(0.0, "published code")
    """Standard deviation on codes, stage 2."""
    corruption: CorruptionStyle = setting("coherent", "sec. 3")
    """Errors in masks: coherent in 3D, or slice by slice as published."""
    corruption_strength: NotNegative = setting(1.0, "medssl")
    """1: as documented."""
    uncertainty: Deviation = setting("apart", "sec. 3")
    """Squared (paper) and abs mix both sources of U; apart adds them up."""
    reduction: Reduction = setting("sum", "sec. 3")
    """Of the uncertainty over classes."""
    weight: Weighting = setting("exp", "sec. 3")
    """Certainty: exp(-gamma U), U < threshold, or 1."""
    gamma: NotNegative = setting(1.0, "sec. 3")
    """Of weight exp: how fast it falls with U."""
    threshold: Positive = setting(0.5, "medssl")
    """Of weight threshold: the largest U that counts."""
    skip_below: Share = setting(0.03, "medssl")
    """No autoencoder below this share of consistency_weight."""
    schedule_tail: Natural = setting(0, "published code")
    """Iterations by which the learning-rate schedule outlasts a stage."""

    def from_recipe(self, recipe: Sections) -> dict[str, Any]:
        """Take as many masks as labeled patches, and a grid for as many axes as the patch has."""
        found: dict[str, Any] = {}
        if self.mask_batch == "auto":
            found["mask_batch"] = recipe.training.labeled_batch
        if self.grid == "auto":
            axes = recipe.training.spatial_dims
            found["grid"] = [2] * axes if self.bottleneck == "fc" else "off"
        return found

    def stages(self, iterations: int) -> list[Stage]:
        """Divide the budget as ``autoencoder_fraction`` says; 0 leaves out the first stage."""
        if self.autoencoder_fraction == 0:
            return [Stage("guided", iterations)]
        first = first_stage(iterations, self.autoencoder_fraction)
        sizes = {} if self.mask_batch == "auto" else {"masks": self.mask_batch}
        return [
            Stage("autoencoder", first, streams=("masks",), batch_sizes=sizes),
            Stage("guided", iterations - first),
        ]

    def check_recipe(self, recipe: Sections) -> Iterator[str]:
        """Refuse settings that leave nothing to guide the student, or to learn from."""
        training, grid = recipe.training, self.grid
        masks = training.labeled_batch if self.mask_batch == "auto" else self.mask_batch
        if self.autoencoder_fraction == 0 and self.control == "none":
            yield (
                "method.autoencoder_fraction is 0: an untrained autoencoder cannot guide; set "
                "method.control to uniform or identity, or a fraction above 0"
            )
        if training.early_stop is not None and self.autoencoder_fraction > 0:
            yield (
                "training.early_stop would end stage autoencoder, in which the validated student "
                "does not learn: remove it"
            )
        if isinstance(grid, list) and len(grid) != len(training.patch):
            yield f"method.grid {grid} needs {len(training.patch)} numbers, one per patch axis"
        if masks == 1 and all(n <= 2**self.levels for n in training.patch):
            yield (
                "method anatomical cannot normalize a batch of one patch that its autoencoder "
                f"reduces to a single voxel ({training.patch}): use a larger patch or "
                "method.mask_batch 2"
            )

    def warn_recipe(self, recipe: Sections, overridden: Collection[str]) -> Iterator[str]:
        """Warn of settings that can do nothing, or not what they seem to."""
        whole = [-(-n // 2**self.levels) for n in recipe.training.patch]
        weighted = self.control != "uniform"
        works = {
            "gamma": weighted and self.weight == "exp",
            "threshold": weighted and self.weight == "threshold",
            "reduction": weighted and self.uncertainty != "entropy",
            "latent_noise": self.control == "none",
            "skip_below": self.control == "none",
        }
        yield from super().warn_recipe(recipe, overridden)
        if self.bottleneck == "conv" and "grid" in overridden:
            yield "method.grid does nothing with bottleneck: conv"
        if self.bottleneck == "fc" and self.grid != whole:
            yield (
                "method.bottleneck fc averages the patch's features to method.grid; the published "
                f"network is method.grid: {whole}"
            )
        if self.control != "none":
            yield (
                f"method.control is {self.control}: a control experiment, in which the trained "
                "autoencoder does not guide the student (it is trained all the same, so that the "
                "student's stage is as long; autoencoder_fraction: 0 leaves it out)"
            )
        for key, useful in works.items():
            if key in overridden and not useful:
                yield f"method.{key} does nothing with the method's other settings"
