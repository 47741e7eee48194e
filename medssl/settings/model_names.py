"""Tell a bundle from a run, or find one by its name, without loading what reads either."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from medssl.paths import AnyPath

logger = logging.getLogger(__name__)

DESCRIPTION = "medssl.json"
"""In the folder of an installed model: what it was installed from."""


def is_bundle(path: Path) -> bool:
    """Tell whether a folder looks like a MONAI bundle."""
    return (path / "configs" / "metadata.json").is_file()


def models_folder() -> Path:
    """Return where models are installed: ``$MEDSSL_MODELS``, or below ``~/.local/share``."""
    own = os.environ.get("MEDSSL_MODELS")
    return Path(own or Path.home() / ".local" / "share" / "medssl" / "models").expanduser()


def is_installed_model(path: Path) -> bool:
    """Tell whether a folder is that of a model that `medssl install` made."""
    return is_bundle(path) and (path / DESCRIPTION).is_file()


def installed_models() -> dict[str, Path]:
    """Return the folders of installed models by name."""
    return {p.name: p for p in sorted(models_folder().glob("*")) if is_installed_model(p)}


def find_model(source: AnyPath) -> Path:
    """Return the folder of a run, a bundle, or an installed model given by its name.

    A file or folder of that name comes first, and a warning says so where both are there.
    """
    path = Path(source)
    if len(path.parts) != 1 or path.name in ("", ".", ".."):
        return path
    installed = models_folder() / path.name
    if not is_installed_model(installed):
        return path
    if path.exists():
        logger.warning("%s is a folder here; the installed model is %s", path, installed)
        return path
    return installed
