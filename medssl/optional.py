"""Packages that are not among the required ones, and what is imported when it is asked for."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from medssl.errors import MedSSLError


def optional_module(module: str, extra: str) -> ModuleType:
    """Import a package that is not among the required ones.

    Raises:
        MedSSLError: it is not installed; names the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MedSSLError(
            f"this format needs the package '{module.partition('.')[0]}', which is not installed",
            fix=f'install it with: pip install "medssl[{extra}]"',
        ) from None


def import_object(place: str) -> Any:
    """Return what ``"package.module:name"`` names, importing the module.

    Tables name classes this way where reading the table must not load what the classes need.

    Raises:
        ImportError: there is no such module.
        AttributeError: the module has no such name.
    """
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
