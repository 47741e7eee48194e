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


def chosen_members(path: Path, *, members: int | None, fold: int | None) -> tuple[Path, ...]:
    """Return the runs that predict together, where fewer than all are wanted.

    Args:
        path: of a cross-validation, or of anything else if nothing is chosen.
        members: the first so many folds; None: all.
        fold: this one alone, counted from 0.

    Raises:
        MedSSLError: both or something impossible is asked for, or see :func:`members_of`.
    """
    option, chosen = ("--members", members) if fold is None else ("--fold", fold)
    if chosen is None:
        return members_of(path)
    if None not in (members, fold):
        raise MedSSLError(
            "--members and --fold choose two different things", fix="leave one of them out"
        )
    if not is_crossval(path):
        raise MedSSLError(
            f"{option} is for the folder of a cross-validation",
            where=path,
            fix=f"leave out {option}, or name the folder that `medssl crossval` wrote",
        )
    every = members_of(path)
    if fold is None and 1 <= chosen <= len(every):
        return every[:chosen]
    if fold is not None and 0 <= fold < len(every):
        return (every[fold],)
    span = f"0 to {len(every) - 1}" if fold is not None else f"1 to {len(every)}"
    raise MedSSLError(
        f"{option} {chosen}: the cross-validation has {len(every)} folds",
        where=path,
        fix=f"give {span}",
    )
