"""Settings of ``umct``; the method is in :mod:`medssl.methods.umct`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Literal

from pydantic import field_validator

from medssl.errors import MedSSLError
from medssl.methods.fields import Auto, BelowOne, Count, NotNegative, Off, Positive, setting
from medssl.methods.plan_hints import Advice, PlanHints, PublishedNetwork
from medssl.methods.settings import DiceSettings, Sections, Stage, first_stage
from medssl.networks.registry import check_patch
from medssl.ops import orientations as axes
from medssl.ops.variants import Granularity

Views = int | list[list[int]] | Auto
Fusion = Literal["mean", "ulf", "vote"]

MAX_ANISOTROPY = 2.0
"""Largest ratio of two voxel sides at which a volume may be seen along another axis."""


GAPS = "random gaps; how much the results then differ tells the uncertainty"
AS_PUBLISHED = "as published: it looks within slices first"
FEWER = Advice(
    "mc_samples", 4, "passes with gaps per view; the paper's 10 take longer", device="cpu"
)


class UMCTSettings(DiceSettings):
    """Settings of ``umct``. A view is an orientation: the patch with its axes in another order."""

    paper = "Xia et al., WACV 2020 (arXiv 1811.12506) and MedIA 2020 (arXiv 2006.16806)"
    scales = True
    regions = True
    plan_hints = PlanHints(
        "one network per view of the scan, each taught by the others",
        trained_networks=3,
        turns_volumes=True,
        dropout=(0.1, GAPS),
        network=PublishedNetwork("ahnet_r18", AS_PUBLISHED, {"dropout": (0.2, GAPS)}),
        advice=(FEWER,),
        # Stochastic passes run one after the other: two need as much memory as ten.
        measure_with={"mc_samples": 2},
    )

    views: Views = setting("auto", "sec. 3")
    """2, 3, 6, or a list of axis orders; auto: 3 for volumes, 2 for slices."""
    views_fraction: BelowOne = setting(0.8, "sec. 3")
    """Share of all iterations for stage `views`, each view alone."""
    mc_samples: Count = setting(10, "sec. 3")
    """K, dropout passes per view and iteration."""
    granularity: Granularity = setting("voxel", "sec. 3")
    """One uncertainty per voxel, class, ..."""
    members: Literal["samples", "eval"] = setting("samples", "sec. 3")
    """What is fused: mean of the K passes, or one pass without dropout."""
    target: Literal["hard", "soft"] = setting("hard", "sec. 3")
    """Class or probabilities."""
    lambda_cot: NotNegative = setting(0.2, "sec. 3")
    """Factor of the co-training loss."""
    loss: Literal["ce_dice", "dice"] = setting("ce_dice", "sec. 4")
    """1/2 CE + 1/2 Dice, or Dice."""
    dice_per_sample: bool = setting(True, "medssl")
    """Dice per patch instead of per batch."""
    dice_squared: bool = setting(False, "medssl")
    """Squared denominator (V-Net) or plain."""
    dice_background: bool = setting(True, "medssl")
    """Average over the background class too."""
    eps: Positive = setting(1e-6, "sec. 3")
    """In 1 / (uncertainty + eps)."""
    fusion: Fusion | int = setting("mean", "sec. 3")
    """At inference: mean, ulf, vote, or the number of a single view."""
    fusion_samples: Count | Auto = setting("auto", "sec. 3")
    """K of fusion ulf; auto: mc_samples."""
    pretrained_2d: str | Off = setting("off", "sec. 4")
    """File with torchvision's ResNet-18 weights, for network ahnet_r18."""
    allow_anisotropic: bool = setting(False, "medssl")
    """Accept anisotropic voxels and patches that are not cubes."""

    @field_validator("views")
    @classmethod
    def _permutations(cls, value: Views) -> Views:
        if isinstance(value, int) and value not in axes.ORIENTATION_COUNTS[3]:
            raise ValueError("must be 2, 3, 6 or a list of axis orders such as [[0, 1, 2], ...]")
        if isinstance(value, list):
            if len(value) < 2 or any(sorted(v) != list(range(len(value[0]))) for v in value):
                raise ValueError("must be two or more orders of all axes, such as [0, 2, 1]")
            if len({tuple(v) for v in value}) < len(value):
                raise ValueError("names the same order twice")
        return value

    @field_validator("fusion")
    @classmethod
    def _view_number(cls, value: Fusion | int) -> Fusion | int:
        if isinstance(value, int) and value < 0:
            raise ValueError("the number of a view counts from 0")
        return value

    def orientations(self, spatial_dims: int) -> tuple[axes.Orientation, ...]:
        """Return the orientation of each view of images with so many axes.

        Raises:
            ValueError: they have no such views.
        """
        if isinstance(self.views, list):
            if len(self.views[0]) != spatial_dims:
                raise ValueError(f"{self.views[0]} does not order {spatial_dims} axes")
            return tuple(tuple(v) for v in self.views)
        count = spatial_dims if self.views == "auto" else self.views
        return axes.standard_orientations(count, spatial_dims)

    def from_recipe(self, recipe: Sections) -> dict[str, Any]:
        """Take as many views as axes, and as many passes at inference as in training."""
        found: dict[str, Any] = {}
        if self.views == "auto":
            found["views"] = recipe.training.spatial_dims
        if self.fusion_samples == "auto":
            found["fusion_samples"] = self.mc_samples
        return found

    def stages(self, iterations: int) -> list[Stage]:
        """Divide the budget as ``views_fraction`` says; 0 leaves out the first stage."""
        first = first_stage(iterations, self.views_fraction)
        co_train = Stage("co_train", iterations - first)
        return [Stage("views", first, streams=("labeled",)), co_train] if first else [co_train]

    def check_recipe(self, recipe: Sections) -> Iterator[str]:
        """Refuse geometry without views, and 2D weights for a network that has no 2D form."""
        patch, network = recipe.training.patch, recipe.network
        try:
            orientations = self.orientations(len(patch))
        except ValueError as error:
            yield (
                f"method.views does not suit training.patch {patch}: {error}; coronal and sagittal "
                "views need volumes"
            )
            return
        count = len(orientations)
        if isinstance(self.fusion, int) and self.fusion >= count:
            yield f"method.fusion is view {self.fusion} but there are {count}, counted from 0"
        if self.pretrained_2d != "off" and network.name != "ahnet_r18":
            yield (
                f"method.pretrained_2d is for network ahnet_r18: {network.name!r} cannot start "
                "from 2D weights"
            )
        distorted = None if self.allow_anisotropic else self._distorted(recipe, orientations)
        if distorted:
            yield f"umct looks at {distorted}, or set method.allow_anisotropic: true"
            return
        for orientation in orientations:
            try:
                check_patch(network.name, axes.permuted(patch, orientation), network.settings)
            except MedSSLError as error:
                yield f"in view {list(orientation)}, {error.what}"
                return

    @staticmethod
    def _distorted(recipe: Sections, orientations: Sequence[axes.Orientation]) -> str | None:
        """Return what a view along another axis would distort or not fit, if there is something."""
        patch, spacing = recipe.training.patch, recipe.spec.spacing
        if len(patch) == 3 and isinstance(spacing, list):
            # Only axes that some view exchanges have to be alike.
            pairs = [
                p
                for o in orientations
                for p in zip(spacing, axes.permuted(spacing, o), strict=True)
            ]
            ratio = max((max(a / b, b / a) for a, b in pairs if a and b), default=1.0)
            if None not in spacing and ratio > MAX_ANISOTROPY:
                return (
                    f"the volume along other axes, and voxels of spec.spacing {spacing} are "
                    f"{ratio:.1f} times as long as wide: set a spacing with sides at most "
                    f"{MAX_ANISOTROPY:g} times each other"
                )
        if all(axes.permuted(patch, o) == patch for o in orientations):
            return None
        return (
            f"each patch along other axes, and training.patch {patch} is not a cube: use "
            f"{[sorted(patch)[len(patch) // 2]] * len(patch)} and a spec.spacing that is about the "
            "same along all axes"
        )

    def warn_recipe(self, recipe: Sections, overridden: Collection[str]) -> Iterator[str]:
        """Warn of settings that do nothing."""
        two = len(self.orientations(recipe.training.spatial_dims)) == 2
        if self.lambda_cot == 0:
            yield "method.lambda_cot is 0: the unlabeled images do nothing"
        if two:
            yield (
                "umct with two views teaches each by the other alone: uncertainty has nothing to "
                "weigh, and method.granularity does nothing"
            )
        if not two and self.mc_samples == 1:
            yield "method.mc_samples is 1: uncertainty is 0 and the views are plainly averaged"
