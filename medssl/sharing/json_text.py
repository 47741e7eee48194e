"""JSON from a stranger: no number that is none, no key twice, no depth without a bottom."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from medssl.sharing.archive import Refused

DEEPEST, MOST_VALUES = 20, 200_000


def parse_json(data: bytes, what: str) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        what: it is, for the message.

    Raises:
        Refused: it is not strict JSON, no object, too deep, or holds too much.
    """
    try:
        found = json.loads(
            data.decode("utf-8"),
            parse_constant=_no_number,
            parse_float=_finite,
            object_pairs_hook=_once,
        )
    except (ValueError, RecursionError, MemoryError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:80]
        raise Refused(f"{what} is no strict JSON ({reason})") from None
    if not isinstance(found, dict):
        raise Refused(f"{what} is no JSON object")
    left, level = [found], 0
    count = 0
    while left:
        level, count = level + 1, count + len(left)
        if level > DEEPEST:
            raise Refused(f"{what} is nested more than {DEEPEST} levels deep")
        if count > MOST_VALUES:
            raise Refused(f"{what} holds more than {MOST_VALUES} values")
        left = [item for value in left for item in _inside(value)]
    return found


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a key stands twice")
    return out


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is no number")
    return number
