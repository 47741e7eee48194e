"""One thing wrong with one file, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Severity = Literal["error", "warning", "note"]
"""An error stops training; a warning makes its result doubtful; a note is good to know."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with one file, and what to do about it.

    Attributes:
        file: the file to look at; that of the rarer or the later one where several are involved.
        what: the cause in one sentence, with the values involved.
        fix: what to do, as an instruction.
        check: name of the check that found it, such as ``grid`` or ``duplicate``.
        case: id of the case, empty where it concerns the whole dataset.
    """

    severity: Severity
    file: Path
    what: str
    fix: str
    check: str = ""
    case: str = ""
