"""Paths as callers write them: as text or as path objects, one or several."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

AnyPath = str | os.PathLike[str]
"""A path as a caller may write it."""


def as_paths(given: AnyPath | Iterable[AnyPath]) -> list[Path]:
    """Return one path or several as a list; a text is one path, not its letters.

    Example:
        >>> [path.name for path in as_paths("scans/a.nii.gz")]
        ['a.nii.gz']
    """
    if isinstance(given, str | os.PathLike):
        return [Path(given)]
    return [Path(path) for path in given]
