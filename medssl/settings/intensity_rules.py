"""How intensities become network input: a spec's section, and rules by name, plugins' too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from medssl import plugins
from medssl.errors import did_you_mean
from medssl.strict import Strict

OWN_RULES = ("zscore", "minmax", "percentile", "percentile_zscore", "window", "none")
"""medssl's own; what each does stands at `Intensity.rule`."""

Rule = Callable[[np.ndarray, "Intensity"], np.ndarray]
"""From an image ``(C, X, Y, Z)`` float32, as read, and the spec's section ``intensity`` to an image
of the same shape, as the network sees it: finite, and the same for the same image."""

_PLUGGED: dict[str, Rule] = {}


def register_intensity_rule(name: str, rule: Rule) -> None:
    """Make an intensity rule available to data specs under ``name``; a plugin calls it.

    Args:
        name: as ``spec.intensity.rule`` names it.
        rule: see :data:`Rule`. It may be called on any image, so it needs nothing but numpy.
    """
    if name in OWN_RULES or name in _PLUGGED:
        raise ValueError(f"intensity rule {name!r} is registered twice")
    _PLUGGED[name] = rule
    plugins.note("intensity", name)


def plugged_rule(name: str) -> Rule | None:
    """Return the rule of a plugin; None for medssl's own.

    Raises:
        ValueError: there is none of that name.
    """
    if name in OWN_RULES:
        return None
    if name not in _PLUGGED:
        plugins.look_up("intensity", name)
    if name not in _PLUGGED:
        known = did_you_mean(name, (*OWN_RULES, *_PLUGGED))
        raise ValueError(f"unknown intensity rule: {known}{plugins.HINT}")
    return _PLUGGED[name]


class Intensity(Strict):
    """How raw intensities become network input."""

    rule: str = Field(
        "zscore",
        description="zscore per volume, minmax to [0, 1], percentile or window to [0, 1]; "
        "percentile_zscore clips between two percentiles, then zscore; none; or a plugin's",
    )
    lower: float | None = Field(None, description="window: lower value; percentile: lower percent")
    upper: float | None = Field(None, description="window: upper value; percentile: upper percent")
    nonzero: bool = Field(False, description="statistics over non-zero voxels only")
    exclude: Literal["none", "zero", "padding"] = Field(
        "none",
        description="percentile_zscore: voxels left out of the statistics, exact zeros or the one "
        "value that surrounds the scanned field",
    )

    @field_validator("rule")
    @classmethod
    def _known(cls, rule: str) -> str:
        plugged_rule(rule)
        return rule

    @model_validator(mode="after")
    def _bounds(self) -> Intensity:
        if self.rule == "window" and (self.lower is None or self.upper is None):
            raise ValueError("rule 'window' needs lower and upper")
        clips = self.rule == "percentile_zscore"
        if self.exclude != "none" and not clips:
            raise ValueError(f"exclude belongs to rule 'percentile_zscore', not {self.rule!r}")
        if self.nonzero and clips:
            raise ValueError("rule 'percentile_zscore' takes exclude: zero instead of nonzero")
        if self.lower is not None and self.upper is not None and self.lower >= self.upper:
            raise ValueError(f"lower ({self.lower:g}) must be below upper ({self.upper:g})")
        return self
