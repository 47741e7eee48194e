"""Settings of ``bcp``; the method is in :mod:`medssl.methods.bcp`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import ClassVar, Literal

from medssl.methods.fields import BelowOne, Mode, NotNegative, Positive, setting
from medssl.methods.plan_hints import Advice, Measured, PlanHints
from medssl.methods.settings import (
    DiceSettings,
    Sections,
    Stage,
    Tables,
    TeacherSettings,
    first_stage,
)
from medssl.ops.boxes import box_size
from medssl.ops.variants import DiceVariant

Pairing = Literal["acdc", "la", "pancreas"]

ACDC = {
    "pretrain_fraction": 10_000 / 40_000,
    "pretrain_loss": "region",
    "pretrain_pairing": "halves",
    "pairing": "acdc",
    "carry_optimizer": True,
    "mask_offset_inclusive": False,
    "mask_per_sample": False,
    "share_mask": True,
    "spec_pieces": False,
    "normalize": "region",
    "dice_smooth": 1e-10,
    "dice_background": True,
    "joint_forward": False,
    "teacher_mode": "train",
    "ema_warmup": False,
    "predict_with": "student",
}
LA = {
    "pretrain_fraction": 2_000 / 17_000,
    "pretrain_loss": "whole",
    "pairing": "la",
    "carry_optimizer": False,
    "threshold": 0.5,
    "dice_per_sample": True,
    "dice_squared": False,
    "dice_smooth": 1e-5,
    "ema_buffers": "keep",
}
PANCREAS = {
    **LA,
    # 60 and 200 epochs of 30 and 25 iterations; connectivity of the October 2023 upload.
    "pretrain_fraction": 1_800 / 6_800,
    "pairing": "pancreas",
    "carry_optimizer": True,
    "connectivity": 2,
}


KEEP_ALL = Advice(
    "largest_component", "off", "{pieces}: guesses keep all of theirs", several_pieces=True
)


class BCPSettings(TeacherSettings, DiceSettings):
    """Settings of ``bcp``."""

    paper = "Bai et al., CVPR 2023 (arXiv 2305.00673)"
    scales = True
    regions = True
    plan_hints = PlanHints(
        "pastes parts of labeled and unlabeled scans into each other",
        advice=(KEEP_ALL,),
        best=Measured(
            "measured best of ten, ahead of labels alone with 4, 8 and 16 labels",
            least_iterations=1000,  # with 800 it lost on slices of CT
            cost=2.4,  # hippocampus, DynUNet at full resolution, one core
        ),
    )
    presets: ClassVar[Tables] = {
        "official": ACDC,
        "official/acdc": {},
        "official/la": LA,
        "official/pancreas": PANCREAS,
    }

    variant: Literal["off", "acdc", "la", "pancreas"] = setting("off", "medssl")
    """Official only: whose code to follow."""
    pretrain_fraction: BelowOne = setting(0.25, "published code")
    """Share of all iterations for pre-training."""
    pretrain_loss: Literal["region", "whole"] = setting("whole", "published code")
    """Of pre-training: by region of the box, or of the whole image."""
    pretrain_pairing: Literal["halves", "cycle"] = setting("cycle", "published code")
    """Which patches are mixed: the halves of the batch, or each with the next."""
    pairing: Pairing = setting("acdc", "published code")
    """Which halves meet, as in that variant."""
    carry_optimizer: bool = setting(False, "published code")
    """Stage 2 goes on with the optimizer of stage 1."""
    start_from_best: bool = setting(True, "published code")
    """Stage 2 from the best of stage 1."""
    mask_ratio: float = setting(2 / 3, "sec. 3.1", gt=0, lt=1)
    """Beta, box side / patch side."""
    mask_offset_inclusive: bool = setting(True, "published code")
    """The last position of a box can be drawn."""
    mask_per_sample: bool = setting(True, "medssl")
    """A box for each sample of the batch."""
    share_mask: bool = setting(False, "published code")
    """Same boxes for both mixed images."""
    largest_component: Literal["off", "per_class"] = setting("per_class", "sec. 3.1")
    """Pieces of a pseudo-label that are kept."""
    spec_pieces: bool = setting(True, "medssl")
    """Keep as many as the data spec says."""
    connectivity: int = setting(3, "published code", ge=1, le=3)
    """1 face, 2 edge, 3 corner."""
    threshold: float | Literal["argmax"] = setting("argmax", "published code")
    """Most probable class (argmax), or a foreground class from this probability on."""
    weight_gt: NotNegative = setting(1.0, "eqs. 4-6")
    """Of ground-truth regions."""
    weight_pseudo: NotNegative = setting(0.5, "eqs. 4-6")
    """Alpha, of pseudo-labeled regions."""
    normalize: Literal["region", "source"] = setting("source", "medssl")
    """Voxels of a mean: of a region, or of all that have truth, or a guess."""
    dice_per_sample: bool = setting(False, "published code")
    """Dice per patch instead of per batch."""
    dice_squared: bool = setting(True, "published code")
    """Squared denominator (V-Net) or plain."""
    dice_smooth: Positive = setting(1e-5, "published code")
    """Added to the Dice's numerator and denominator."""
    dice_background: bool = setting(False, "published code")
    """Average over the background class too."""
    legacy_background_bug: bool = setting(False, "published code")
    """Background Dice over the whole image, as until October 2023."""
    joint_forward: bool = setting(True, "medssl")
    """Both mixed images in one pass."""
    teacher_mode: Mode = setting("eval", "published code")
    """Mode in which the teacher labels."""

    @property
    def dice(self) -> DiceVariant:
        """The Dice loss that is meant."""
        return replace(super().dice, legacy_background=self.legacy_background_bug)

    def stages(self, iterations: int) -> list[Stage]:
        """Divide the budget as ``pretrain_fraction`` says; 0 leaves out the first stage."""
        first = first_stage(iterations, self.pretrain_fraction)
        if first == 0:
            return [Stage("self_train", iterations)]
        second = Stage(
            "self_train",
            iterations - first,
            carry_optimizer=self.carry_optimizer,
            start_from_best=self.start_from_best,
        )
        return [Stage("pretrain", first, streams=("labeled",)), second]

    def check_recipe(self, recipe: Sections) -> Iterator[str]:
        """Refuse batches that cannot be paired, and boxes that do not fit the patch."""
        n, m = recipe.training.labeled_batch, recipe.training.unlabeled_batch
        official = self.preset == "official"
        if official and self.variant == "off":
            yield (
                "bcp's official preset follows one of three published codes: set method.variant to "
                "acdc, la or pancreas"
            )
        if official and n % 2:
            yield (
                "bcp's official preset pairs one half of the labeled batch with the other: "
                f"training.labeled_batch must be even, not {n}"
            )
        if official and n != m:
            yield (
                "bcp's official preset pairs labeled with unlabeled patches one to one: "
                f"training.labeled_batch ({n}) and training.unlabeled_batch ({m}) must be equal"
            )
        if self.pretrain_fraction > 0 and n < 2:
            yield (
                "bcp's pre-training pastes one labeled patch into another: "
                f"training.labeled_batch must be at least 2, not {n}"
            )
        try:
            box_size(recipe.training.patch, self.mask_ratio)
        except ValueError as error:
            yield f"training.patch and method.mask_ratio do not fit: {error}"

    def warn_recipe(self, recipe: Sections, overridden: Collection[str]) -> Iterator[str]:
        """Warn of settings that can do nothing, or that the data speak against."""
        spec, largest = recipe.spec, self.largest_component == "per_class"
        if self.weight_pseudo == 0:
            yield "method.weight_pseudo is 0: the unlabeled images teach nothing"
        if not largest and "connectivity" in overridden:
            yield "method.connectivity does nothing with largest_component: off"
        if self.legacy_background_bug and not self.dice_background:
            yield "method.legacy_background_bug does nothing without dice_background"
        if largest and spec.pieces and not self.spec_pieces:
            yield (
                "bcp keeps one piece of each pseudo-labeled structure as published, but "
                "spec.pieces says that some have several; set method.spec_pieces: true to keep them"
            )
        if largest and not (spec.largest_component or spec.pieces):
            yield (
                "bcp reduces each pseudo-labeled structure to its largest piece, but the data spec "
                "does not say that structures are one piece (spec.largest_component); if they are "
                "not, say how many each has (spec.pieces) or set method.largest_component: off"
            )
