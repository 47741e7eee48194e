"""Find the folders of recipes and data specs that come with medssl."""

from __future__ import annotations

from pathlib import Path

from medssl.errors import MedSSLError


def shipped_folder(kind: str) -> Path:
    """Return the folder of shipped files, in a checkout as well as in an installed wheel.

    Args:
        kind: ``recipes`` or ``data_specs``.

    Raises:
        MedSSLError: the installation is incomplete.
    """
    package = Path(__file__).resolve().parents[1]
    installed = package / "_share" / kind
    if installed.is_dir():
        return installed
    # Only a checkout has pyproject.toml here; site-packages may hold a stranger's `recipes` folder.
    if (package.parent / "pyproject.toml").is_file() and (package.parent / kind).is_dir():
        return package.parent / kind
    raise MedSSLError(
        f"the folder of shipped {kind} is missing from this installation",
        where=installed,
        fix="reinstall medssl",
    )
