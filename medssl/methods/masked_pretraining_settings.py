"""Settings of ``masked_pretraining``; the method: :mod:`medssl.methods.masked_pretraining`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from medssl.methods.fields import Auto, Count, Share, setting
from medssl.methods.plan_hints import PlanHints
from medssl.methods.settings import MethodSettings, Sections, Stage

LEAST_EDGE, BLOCKS = 4, 8
"""Smallest planned edge of a block in voxels, and how many of them along a side."""


class MaskedPretrainingSettings(MethodSettings):
    """Settings of ``masked_pretraining``."""

    paper = "MAE as in nnssl (Wald et al., ICCV 2025); VolF: Wang et al., 2023 (arXiv 2306.16925)"
    segments = False
    contract = ({"pretext": "mae"}, {"pretext": "volf"})
    plan_hints = PlanHints("learns images without labels; another method starts from its run")

    pretext: Literal["mae", "volf"] = setting("mae", "nnssl")
    """Masked blocks are filled in, or two fused scans are taken apart."""
    mask_share: Share = setting(0.6, "nnssl")
    """Share of the blocks that are masked (mae)."""
    block: Auto | list[Count] = setting("auto", "nnssl")
    """Edge of a block in voxels along each axis (mae); auto is an eighth of the patch."""
    min_edge: Count = setting(4, "VolF, sec. 3")
    """Smallest edge of a box in voxels (volf)."""

    def from_recipe(self, recipe: Sections) -> dict[str, Any]:
        """Return the edge of a block that suits the patch; sides of few voxels have few blocks."""
        if self.block != "auto":
            return {}
        patch = recipe.training.patch
        return {"block": [min(n, max(LEAST_EDGE, round(n / BLOCKS))) for n in patch]}

    def stages(self, iterations: int) -> list[Stage]:
        """Spend the whole budget on images alone."""
        return [Stage("train", iterations, streams=("unlabeled",))]

    def check_recipe(self, recipe: Sections) -> Iterator[str]:
        """Refuse blocks of other dimensions, and a mask that masks nothing or everything."""
        patch = recipe.training.patch
        if self.block != "auto" and len(self.block) != len(patch):
            yield f"method.block {self.block} has to have a number for each of {len(patch)} axes"
        elif self.block != "auto" and any(e > n for e, n in zip(self.block, patch, strict=True)):
            yield f"method.block {self.block} does not fit into a patch of {list(patch)}"
        if self.pretext == "mae" and self.mask_share in (0, 1):
            yield "method.mask_share has to lie between 0 and 1: there is nothing to learn"
