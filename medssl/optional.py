"""Packages that are not among the required ones."""

from __future__ import annotations

import importlib
from types import ModuleType

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
