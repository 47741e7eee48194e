"""The settings of a method as a table: what presets make of them, what they take and mean."""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from rich.table import Column, Table

from medssl.methods.registry import get_settings
from medssl.methods.settings import MethodSettings

_NAMES = {float: "number", int: "whole number", bool: "true or false", str: "text"}

MOST_COLUMNS = 5
"""Presets that have a column each; of more, all but the first share one."""


def method_table(name: str) -> Table:
    """Return the settings of a method, one a row.

    Raises:
        MedSSLError: there is no such method.
    """
    cls = get_settings(name)
    presets = _presets(cls)
    first, many = next(iter(presets)), len(presets) > MOST_COLUMNS
    columns = (first, "other presets") if many else tuple(presets)
    table = Table(
        Column("setting", no_wrap=True),
        *(*columns, "takes", "what it is", "paper"),
        title=f"{name}: {cls.paper}",
    )
    for key, field in cls.model_fields.items():
        if key in ("preset", "variant"):
            continue
        values = [_shown(getattr(settings, key)) for settings in presets.values()]
        if many:
            values = [values[0], _others(values, list(presets))]
        extra = field.json_schema_extra
        section = extra["section"] if isinstance(extra, dict) else ""
        meaning = " ".join((field.description or "").split())
        table.add_row(key, *values, takes(field), meaning, str(section))
    return table


def _presets(cls: type[MethodSettings]) -> dict[str, MethodSettings]:
    """Return the settings of each preset and variant; of a variant, without a bare preset that is
    none of its own.
    """
    whole = {name.partition("/")[0] for name in cls.presets if "/" in name}
    settings = cls()
    found = {getattr(settings, "preset", "default"): settings}
    for name in cls.presets:
        preset, _, variant = name.partition("/")
        if name not in whole or (variant == "" and "corrected" in cls.words("variant")):
            found[name] = cls(preset=preset, **({"variant": variant} if variant else {}))  # type: ignore[call-arg]
    return found


def _others(values: list[str], presets: list[str]) -> str:
    """Say which presets have which value, where it is not the first one's."""
    named: dict[str, list[str]] = {}
    for value, preset in zip(values, presets, strict=True):
        if value != values[0]:
            named.setdefault(value, []).append(preset)
    return "; ".join(f"{value}: {', '.join(which)}" for value, which in named.items()) or "-"


def takes(field: FieldInfo) -> str:
    """Say in words which values a setting takes."""
    return _takes(field.annotation, field.metadata)


def _takes(kind: Any, limits: list[Any]) -> str:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        inner = [limit for part in parts[1:] for limit in getattr(part, "metadata", [part])]
        return _takes(parts[0], [*limits, *inner])
    if origin in (Union, UnionType):
        return ", or ".join(_takes(part, limits) for part in parts)
    if origin is Literal:
        return ", ".join(map(str, parts))
    if origin is not None:
        inside = ", ".join(dict.fromkeys(_takes(p, []) for p in parts if p not in (Any, ...)))
        name = "list" if origin is tuple else str(origin.__name__)
        return f"{name} ({inside})" if inside else name
    bounds = _bounds(limits)
    return _NAMES.get(kind, "a value") + (f", {bounds}" if bounds else "")


def _bounds(limits: list[Any]) -> str:
    """Write limits such as ``0 to 1``."""
    found = {
        name: f"{getattr(limit, name):g}"
        for limit in limits
        for name in ("ge", "gt", "le", "lt")
        if getattr(limit, name, None) is not None
    }
    low = found.get("ge") or (f"above {found['gt']}" if "gt" in found else "")
    high = found.get("le") or (f"below {found['lt']}" if "lt" in found else "")
    if low and high:
        return f"{low} to {high}"
    return high or (low if low.startswith("above") else f"{low} or more" if low else "")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
