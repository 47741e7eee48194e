"""How atlases are registered and fused."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from medssl.strict import Strict


class AtlasSettings(Strict):
    """How atlases are registered to a scan, and how they vote on its label."""

    demons: int = Field(60, ge=0, description="iterations of diffeomorphic demons; 0: affine alone")
    smoothing: float = Field(1.0, gt=0, description="of the displacement, SD in voxels")
    count: int | None = Field(
        None, ge=1, description="the so many nearest atlases vote; null: all of them"
    )
    window: int = Field(5, ge=1, description="voxels across which images are compared")
    epsilon: float = Field(1e-3, gt=0, description="added to the mean squared difference")
    power: float = Field(2.0, ge=0, description="of the difference in a vote; 0: all alike")

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return self.model_dump(mode="json")
