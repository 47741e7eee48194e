"""Packages that are not among the required ones, and what is imported when it is asked for."""

from __future__ import annotations

import importlib
import importlib.util
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
            f"this needs the package '{module.partition('.')[0]}', which is not installed",
            fix=f'install it with: pip install "medssl[{extra}]"',
        ) from None


def is_installed(module: str) -> bool:
    """Say whether a package is there, without importing it."""
    return importlib.util.find_spec(module) is not None


def module_if_there(module: str) -> ModuleType | None:
    """Import a package that only makes something quicker; None where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


def import_object(place: str) -> Any:
    """Return what ``"package.module:name"`` names, importing the module.

    Tables name classes this way where reading the table must not load what the classes need.

    Raises:
        ImportError: there is no such module.
        AttributeError: the module has no such name.
    """
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
