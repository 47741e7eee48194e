"""How a recipe is trained: iterations, patches and batches, optimizer, schedule, stages."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from medssl.settings.augment import AugmentSettings
from medssl.strict import Strict


class OptimizerSettings(Strict):
    """Optimizer of one or all stages."""

    name: Literal["sgd", "adam", "adamw"] = Field("sgd")
    lr: float = Field(0.01, gt=0, description="learning rate after warm-up")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD only")
    nesterov: bool = Field(False, description="SGD only")
    betas: tuple[float, float] = Field((0.9, 0.999), description="Adam and AdamW only")
    weight_decay: float = Field(1e-4, ge=0)


class ScheduleSettings(Strict):
    """Learning rate over the iterations of one stage."""

    name: Literal["constant", "poly", "cosine", "step", "warmup_constant_cosine", "finetune"] = (
        Field("poly", description="finetune: poly after a short warm-up")
    )
    warmup: int = Field(
        0, ge=0, description="iterations of linear warm-up; finetune: 0 is 5 % of the stage"
    )
    peak: float = Field(
        1.0, gt=0, le=1, description="finetune only: highest rate, as a share of the optimizer's"
    )
    power: float = Field(0.9, gt=0, description="poly and finetune only")
    step_size: int = Field(2500, gt=0, description="step only: iterations between drops")
    gamma: float = Field(0.1, gt=0, le=1, description="step only: factor of a drop")
    min_lr: float = Field(
        0.0, ge=0, description="final learning rate; warmup_constant_cosine: first one too"
    )
    decay_start: float = Field(
        0.5, ge=0, lt=1, description="warmup_constant_cosine only: share of the stage before decay"
    )


class StageSettings(Strict):
    """What a stage changes of the training settings."""

    optimizer: OptimizerSettings | None = None
    schedule: ScheduleSettings | None = None
    reuse: str | None = Field(
        None, description="run folder or checkpoint whose result of this stage is taken instead"
    )


class TrainingSettings(Strict):
    """The iteration budget and how a step is taken."""

    iterations: int = Field(6000, ge=1, description="iterations of all stages together")
    patch: list[int] = Field(
        default_factory=lambda: [96, 96, 96], description="voxels; two numbers train on 2D slices"
    )
    labeled_batch: int = Field(2, ge=1, description="labeled patches per iteration")
    unlabeled_batch: int = Field(2, ge=0, description="unlabeled patches per iteration")
    foreground_fraction: float = Field(
        0.5, ge=0, le=1, description="share of labeled patches centered on a structure"
    )
    optimizer: OptimizerSettings = Field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = Field(default_factory=ScheduleSettings)
    stages: dict[str, StageSettings] = Field(default_factory=dict)
    augment: AugmentSettings = Field(default_factory=AugmentSettings)
    region_loss: bool = Field(
        False,
        description="make losses of labels from the dataset's regions: Dice and binary "
        "cross-entropy of summed probabilities; false: from its labels",
    )
    gradient_clip: float | None = Field(None, gt=0, description="largest gradient norm")
    accumulate: int = Field(1, ge=1, description="batches per optimizer step")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field("auto")
    validate_every: int = Field(200, ge=1, description="iterations between validations")
    log_every: int = Field(10, ge=1, description="iterations between logged steps")
    checkpoint_every: int = Field(500, ge=1, description="iterations between checkpoints")
    loggers: list[Literal["tensorboard", "mlflow", "wandb"]] = Field(
        ["tensorboard"],
        description="where numbers and pictures are shown; mlflow and wandb are extras",
    )
    early_stop: int | None = Field(
        None, ge=1, description="stop a stage after so many validations without a better one"
    )
    nonfinite: Literal["skip", "stop"] = Field(
        "skip", description="what to do with an iteration whose loss or gradient is not finite"
    )
    nonfinite_limit: int = Field(10, ge=1, description="so many of them in a row stop the run")
    workers: int | Literal["auto"] = Field("auto", description="loader processes")
    compile: bool | Literal["auto"] = Field(
        "auto",
        description="compile the networks with torch.compile; auto: on a CUDA card, from 5000 "
        "batches on",
    )
    channels_last: bool | Literal["auto"] = Field(
        "auto",
        description="memory layout of the networks; auto: on a CUDA card in bf16 or fp16, for "
        "networks without InstanceNorm",
    )
    cache_on_device: bool | Literal["auto"] = Field(
        "auto",
        description="hold all training cases in the device's memory; auto: on a CUDA card, if "
        "they take at most a quarter of what is free and leave enough for a step",
    )

    @field_validator("patch")
    @classmethod
    def _patch(cls, value: list[int]) -> list[int]:
        if len(value) not in (2, 3) or any(v < 1 for v in value):
            raise ValueError("must be two or three positive numbers of voxels")
        return value

    @property
    def spatial_dims(self) -> int:
        """2 for slices, 3 for volumes."""
        return len(self.patch)

    def optimizer_of(self, stage: str) -> OptimizerSettings:
        """Return the optimizer of a stage: its own, or that of all."""
        override = self.stages.get(stage)
        return (override and override.optimizer) or self.optimizer

    def schedule_of(self, stage: str) -> ScheduleSettings:
        """Return the learning-rate schedule of a stage: its own, or that of all."""
        override = self.stages.get(stage)
        return (override and override.schedule) or self.schedule
