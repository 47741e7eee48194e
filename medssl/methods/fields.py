"""How a setting is declared, and the types that settings share."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

Value = TypeVar("Value")

Preset = Literal["official", "corrected"]
Mode = Literal["train", "eval"]
Who = Literal["student", "teacher"]
Auto = Literal["auto"]
"""A value that follows from the recipe; no resolved record holds it."""
Off = Literal["off"]
"""Not used."""
Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Natural = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


def setting(default: Value, section: str, **limits: Any) -> Value:
    """Declare a setting of a method; the docstring below it says what it is, with its unit.

    Args:
        default: of preset ``corrected``.
        section: where the paper speaks of it, ``published code``, or ``medssl``.
        limits: as pydantic takes them, such as ``ge=0``, where no type above has them.
    """
    value: Value = Field(default, json_schema_extra={"section": section}, **limits)
    return value
