"""Intensity rules by name: medssl's own, and those that a plugin adds to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from medssl import plugins
from medssl.errors import did_you_mean

if TYPE_CHECKING:
    from medssl.settings.spec import Intensity

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
