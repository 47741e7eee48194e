"""Find the folders of recipes and data specs that come with medssl."""

from __future__ import annotations

from pathlib import Path

from medssl.errors import MedSSLError

SITE = "site"
"""Where the documentation is built, and the name under which it ships."""


def shipped_folder(kind: str) -> Path:
    """Return the folder of shipped files, in a checkout as well as in an installed wheel.

    Args:
        kind: ``recipes``, ``data_specs`` or ``site``.

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


def documentation() -> Path:
    """Return the first page of the documentation: of the site that ships, or was built.

    Raises:
        MedSSLError: this installation has none; says how to build it.
    """
    try:
        return shipped_folder(SITE) / "index.html"
    except MedSSLError as missing:
        raise MedSSLError(
            "the documentation site is not part of this installation",
            where=missing.where,
            fix="read docs/ in the sources, or build it there: "
            'pip install ".[docs]" && mkdocs build --strict',
        ) from None
