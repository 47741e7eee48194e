"""Paths as callers write them: as text or as path objects, one or several; and in a command."""

from __future__ import annotations

import os
import shlex
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


def command(*words: AnyPath) -> str:
    """Return a command line to be copied: each word is quoted where a shell would divide it.

    Example:
        >>> command("train", "runs/my first", "--resume")
        "medssl train 'runs/my first' --resume"
    """
    return shlex.join(["medssl", *(os.fspath(word) for word in words)])
