"""Pages from templates: what is written into them is escaped, and nothing may be missing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from medssl.evaluation.failures import percent_up


def render(template: str, **values: Any) -> str:
    """Return a page from a template and its values."""
    environment = Environment(
        loader=PackageLoader("medssl.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.filters["heading"] = heading
    environment.filters["interval"] = interval
    environment.filters["percent_up"] = percent_up
    return environment.get_template(template).render(**values)


def number(value: Any, digits: int = 3) -> str:
    """Return a figure as pages show it; a dash where there is none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def interval(value: Mapping[str, Any]) -> str:
    """Return a mean with its interval, or with why there is none."""
    if value["low"] is None or value["high"] is None:
        why = value.get("no_interval")
        return number(value["mean"]) + (f" (no interval: {why})" if why else "")
    return f"{number(value['mean'])} [{number(value['low'])}, {number(value['high'])}]"


def heading(metric: str) -> str:
    """Return a metric's name for people, with its unit."""
    name, _, unit = metric.partition("_")
    known = {"dice": "Dice", "hd95": "HD95", "assd": "ASSD", "nsd": "Surface Dice"}
    return f"{known.get(name, name)} ({unit})" if unit else known.get(name, name)
