"""The methods by name."""

from __future__ import annotations

import difflib

from medssl.errors import MedSSLError
from medssl.methods import (  # noqa: F401  (fill the registry)
    anatomical,
    bcp,
    cps,
    fixmatch,
    mean_teacher,
    pseudo_supervisor,
    rail,
    supervised,
    uamt,
    umct,
)
from medssl.methods.base import (
    REGISTRY,
    Method,
)


def list_methods() -> list[str]:
    """Return the names of all methods."""
    return sorted(REGISTRY)


def get_method(name: str) -> type[Method]:
    """Return the class of a method.

    Raises:
        MedSSLError: no method has this name; the message suggests the nearest.
    """
    if name in REGISTRY:
        return REGISTRY[name]
    near = difflib.get_close_matches(name, list_methods(), n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise MedSSLError(
        f"unknown method {name!r}{hint}", fix=f"choose one of: {', '.join(list_methods())}"
    )
