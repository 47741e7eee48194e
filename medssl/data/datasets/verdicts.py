"""What was found in files that were read to the end, so that the next start need not read them."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from medssl.data.datasets.case import Case, LabelMap
from medssl.data.datasets.known_files import KnownFiles
from medssl.data.datasets.problem import Problem
from medssl.data.images.geometry import Unit
from medssl.errors import MedSSLError
from medssl.files import write_json

logger = logging.getLogger(__name__)

CHECK_VERSION = 2
"""Raise it whenever the check of a case finds something else in the same files."""


class Verdicts:
    """Verdicts about cases without errors, one small file each.

    A verdict is found again by path and hash of every file, see :class:`KnownFiles`, so a file that
    is replaced or edited is read again. Errors are not kept: what is broken is looked at anew.

    Args:
        folder: where they are kept, made when first needed; None keeps nothing.
        labels, channels, min_shape, unit: what a case was checked against.
        files: what is known of files; None: nothing.
    """

    def __init__(
        self,
        folder: Path | None,
        labels: LabelMap,
        channels: int,
        min_shape: Sequence[int] | None = None,
        unit: Unit = "mm",
        *,
        files: KnownFiles | None = None,
    ) -> None:
        self.folder = folder
        self._files = files or KnownFiles(None)
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
        try:
            facts = [(str(p.resolve()), self._files.digest(p)) for p in case.images]
            if case.label is not None:
                facts.append((str(case.label.resolve()), self._files.whole(case.label)))
        except MedSSLError:
            return None
        content = json.dumps([self._against, case.label is not None, facts])
        return self.folder / f"{hashlib.sha256(content.encode()).hexdigest()}.json"
