"""Keep patients out of what a run writes about itself: ``privacy: strict``."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medssl.data.datasets.case import Dataset

_FILE = re.compile(r"[^\s'\"]+\.(?:nii|nrrd|nhdr|mha|mhd|dcm|h5|npy|mat)(?:\.gz)?\b", re.I)
_ABSOLUTE = re.compile(r"(?<![\w.])(?:~|[A-Za-z]:)?[/\\][^\s'\",;:()\[\]]+")
_RELATIVE = re.compile(r"(?:[\w.+-]+/){2,}[\w.+-]*|\.{1,2}/[\w.+/-]+")
_SHORT_NUMBER = re.compile(r"\d{1,3}")
"""Ids such as 7 name nobody outside of the data, and replacing them would spoil every figure."""


class Redactor:
    """Replace case ids, patients, file names and paths in text.

    Args:
        dataset: whose cases and folder are known by name; what merely looks like a path or an
            image file is replaced too.
    """

    def __init__(self, dataset: Dataset) -> None:
        root = dataset.root
        paths = {str(root), os.path.abspath(root), os.path.realpath(root)}
        names: set[str] = set()
        for case in (*dataset.training, *dataset.unlabeled, *dataset.test):
            names |= {case.id, case.patient}
            for file in (*case.images, *([] if case.label is None else [case.label])):
                paths |= {str(file), str(file.parent)}
                names.add(file.name)
        self._paths = _any_of(paths - {"."}, r"(?<![\w/]){}(?:/[^\s'\",;:()]*)?")
        self._names = _any_of(
            {n for n in names if n and not _SHORT_NUMBER.fullmatch(n)}, r"(?<!\w){}(?!\w)"
        )

    def text(self, message: str) -> str:
        """Return the message without anything that may tell whose scan it is about."""
        for pattern in (self._paths, _FILE, _ABSOLUTE, _RELATIVE):
            message = pattern.sub("<file>", message)
        return self._names.sub("<case>", message)

    def value(self, value: Any) -> Any:
        """Return plain data with every text in it redacted; keys stay."""
        if isinstance(value, str | Path):
            return self.text(str(value))
        if isinstance(value, Mapping):
            return {key: self.value(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        return value


def _any_of(texts: set[str], around: str) -> re.Pattern[str]:
    """Return a pattern for any of the texts, the longest first; one that never matches if none."""
    if not texts:
        return re.compile(r"(?!)")
    choices = "|".join(re.escape(t) for t in sorted(texts, key=lambda t: (-len(t), t)))
    return re.compile(around.format(f"(?:{choices})"))
