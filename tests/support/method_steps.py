"""Every registered method in every preset, for tests over all of them."""

from __future__ import annotations

from typing import Any

import pytest

from medssl.methods.base import Method
from medssl.methods.registry import get_method, get_settings, list_methods
from medssl.testing.checks import all_settings
from medssl.testing.subject import NetworkMaker, Subject, small_network

EVERY = [(name, given) for name in list_methods() for given in all_settings(get_settings(name))]


def ident(value: Any) -> str | None:
    return "-".join(map(str, value.values())) or "default" if isinstance(value, dict) else None


ALL = pytest.mark.parametrize(("name", "settings"), EVERY, ids=ident)
DIMS = pytest.mark.parametrize("dims", [2, 3])


def make(
    name: str,
    settings: dict[str, Any],
    *,
    dims: int = 2,
    classes: int = 3,
    seed: int = 0,
    network: NetworkMaker = small_network,
) -> Method:
    """Build a registered method in train mode."""
    subject = Subject(name, get_method(name), settings, dims, classes)
    return subject.make(seed=seed, network=network)
