"""The folder of a cross-validation as one model: its folds, which predict together."""

from __future__ import annotations

import json
from pathlib import Path

from medssl.errors import MedSSLError
from medssl.runs.folder import open_run
from medssl.runs.lineage import CROSSVAL


def is_crossval(path: Path) -> bool:
    """Tell whether a folder is that of a cross-validation."""
    return (path / CROSSVAL).is_file()


def members_of(path: Path) -> tuple[Path, ...]:
    """Return the runs that predict together: the folds of a cross-validation, or the run itself.

    The labeled-only twins and further repeats are not among them.

    Raises:
        MedSSLError: the folds are not all trained, or the file that names them is damaged.
    """
    if not is_crossval(path):
        return (path,)
    record = path / CROSSVAL
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        finished = content["status"] == "finished"
        names = [str(name) for name in content["members"]]
    except (OSError, ValueError, KeyError, TypeError):
        finished, names = False, []
    if not finished or not names:
        raise MedSSLError(
            "the cross-validation is not finished",
            where=record,
            fix="go on with the same `medssl crossval` command, or name one of its folds",
        )
    return tuple(open_run(path / name).path for name in names)
