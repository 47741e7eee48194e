"""The parts of ``self_training`` by name, and which of them each paper puts together: its presets.

What a row leaves out is as in preset ``mixed``, which are the defaults of the settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from medssl.methods.settings import Tables

PresetName = Literal[
    "mixed",
    "fixmatch",
    "uda",
    "unimatch",
    "dual_teacher",
    "hssda",
    "consistent_teacher",
    "cw_bass",
    "reviewer",
    "elr",
    "soft_teacher",
    "open_set",
    "fedlabel",
]

Teacher = Literal["ema", "student", "slow", "dual", "global"]
Rule = Literal["fixed", "adaptive", "softmatch", "gmm", "two_level", "gate", "agreement", "none"]
Factor = Literal["confidence", "boundary", "soft_background", "case"]
Kind = Literal["cutmix", "shuffle", "cube", "paste"]


def _listed(value: Any) -> Any:
    """Read a single word as a list of it, and ``none`` as an empty one."""
    if value == "none":
        return ()
    return (value,) if isinstance(value, str) and value != "auto" else value


Factors = Annotated[tuple[Factor, ...], BeforeValidator(_listed)]
Kinds = Annotated[tuple[Kind, ...], BeforeValidator(_listed)]

FIXMATCH: Mapping[str, Any] = {
    "threshold": 0.95,
    "loss": "ce",
    "ramp_fraction": 0.0,
    "ema_decay": 0.999,
    "ema_warmup": False,
    "ema_buffers": "copy",
}
"""Values of FixMatch's paper that have the same names in method ``fixmatch``."""

PRESETS: Tables = {
    "fixmatch": {"view": "strong", "mixing": ()},
    "fixmatch/official": {"teacher": "student", "teacher_mode": "train", **FIXMATCH},
    "uda": {
        "threshold": 0.8,
        "view": "strong",
        "mixing": (),
        "target": "sharpened",
        "temperature": 0.4,
    },
    "unimatch": {"view": "strong", "views": 2, "mixing": ("cutmix",)},
    "dual_teacher": {
        "teacher": "dual",
        "arbiter": "student",
        "view": "by_turn",
        "mixing": ("cutmix",),
    },
    "hssda": {
        "selection": "two_level",
        "weight": ("confidence",),
        "view": "strong",
        "mixing": ("shuffle",),
    },
    "consistent_teacher": {"selection": "gmm", "view": "strong", "mixing": ()},
    "consistent_teacher/official": {"gmm_at": "peak"},
    "cw_bass": {"weight": ("confidence", "boundary"), "mixing": ()},
    "reviewer": {"teacher": "slow", "mixing": ("cutmix",)},
    "elr": {"mixing": ("cutmix",), "elr_weight": 1.0},
    "soft_teacher": {"threshold": 0.9, "weight": ("soft_background",), "mixing": ("cutmix",)},
    "open_set": {"weight": ("case",)},
    "fedlabel": {"teacher": "global"},
}
