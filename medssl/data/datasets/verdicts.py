"""What was found in files that were read to the end, so that the next start need not read them."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from medssl.data.datasets.case import Case, LabelMap
from medssl.data.datasets.problem import Problem
from medssl.data.images.geometry import Unit
from medssl.errors import MedSSLError
from medssl.files import write_json

logger = logging.getLogger(__name__)

CHECK_VERSION = 2
"""Raise it whenever the check of a case finds something else in the same files."""


class Verdicts:
    """Verdicts about cases without errors, one small file each.

    A verdict is found again by path, size and time of change of every file, so a file that is
    replaced or edited is read again. Errors are not kept: a file that is broken is looked at anew.

    Args:
        folder: where they are kept, made when first needed; None keeps nothing.
        labels, channels, min_shape, unit: what a case was checked against.
    """

    def __init__(
        self,
        folder: Path | None,
        labels: LabelMap,
        channels: int,
        min_shape: Sequence[int] | None = None,
        unit: Unit = "mm",
    ) -> None:
        self.folder = folder
        shape = None if min_shape is None else list(min_shape)
        values = [labels.values, labels.ignore_value]
        self._against = [CHECK_VERSION, *values, channels, shape, unit]

    def get(self, case: Case) -> list[Problem] | None:
        """Return what was found in a case; None if it has to be read."""
        path = self._path(case)
        try:
            stored = [] if path is None else json.loads(path.read_text(encoding="utf-8"))
            found = [Problem(**{**p, "file": Path(p["file"])}) for p in stored]
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return None if path is None or any(p.severity == "error" for p in found) else found

    def keep(self, case: Case, found: Sequence[Problem]) -> None:
        """Keep what was found; a folder that cannot be written costs time only."""
        path = self._path(case)
        if path is None or any(p.severity == "error" for p in found):
            return
        try:
            write_json(path, [{**asdict(p), "file": p.file} for p in found])
        except MedSSLError as error:
            logger.info("checks cannot be remembered in %s: %s", path.parent, error.what)

    def _path(self, case: Case) -> Path | None:
        """Return where a verdict lies; None if nothing is kept, or a file is missing."""
        if self.folder is None:
            return None
        files = (*case.images, *([case.label] if case.label is not None else []))
        try:
            stats = [(p, p.stat()) for p in files]
        except OSError:
            return None
        facts = [(str(p.resolve()), s.st_size, s.st_mtime_ns) for p, s in stats]
        labeled = case.label is not None
        content = json.dumps([self._against, labeled, facts])
        return self.folder / f"{hashlib.sha256(content.encode()).hexdigest()}.json"
