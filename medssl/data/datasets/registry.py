"""Give the scans of a dataset unique ids and patients."""

from __future__ import annotations

import os
import re
from pathlib import Path

from medssl.data.datasets.case import Case
from medssl.data.datasets.decathlon_items import Item, unsafe_name
from medssl.errors import MedSSLError

# Two frames of one heart are one patient. Only names that end in a number before the frame are
# taken apart: `patient012_frame01`, `sub7_ED`, but not `video_frame01`.
_FRAME = re.compile(r"^(?P<patient>.*\d)_(?:frame\d+|ED|ES)$")


class CaseRegistry:
    """Give every scan a unique id and a patient; recognize a file that was seen before."""

    def __init__(self, where: Path, pattern: str | None) -> None:
        self.where = where
        self._training: dict[str, Case] = {}
        self._seen: dict[str, Case] = {}
        self._in_unlabeled: set[str] = set()
        self._ids: set[str] = set()
        self._matched: list[str] = []
        self._unmatched: list[str] = []
        self._pattern = self._compile(pattern)

    @staticmethod
    def _compile(pattern: str | None) -> re.Pattern[str] | None:
        if pattern is None:
            return None
        fix = "write a pattern with one group, such as '(patient\\d+)_'"
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise MedSSLError(
                f"{pattern!r} is not a regular expression: {error}",
                where="data.patient_pattern",
                fix=fix,
            ) from None
        if compiled.groups < 1:
            raise MedSSLError(f"{pattern!r} has no group", where="data.patient_pattern", fix=fix)
        return compiled

    def _patient(self, item: Item) -> str:
        if self._pattern is not None:
            match = self._pattern.search(item.id)
            if match is not None and match[1]:
                self._matched.append(item.id)
                return match[1]
            self._unmatched.append(item.id)
        if item.patient is not None:
            return item.patient
        frame = _FRAME.match(item.id)
        return frame["patient"] if frame else item.id

    def _case(self, item: Item, case_id: str) -> Case:
        if case_id in self._ids:
            raise MedSSLError(
                f"two scans have the case id '{case_id}' (second: {item.images[0]})",
                where=self.where,
                fix='rename one file, or give the items different "id" values in dataset.json',
            )
        problem = unsafe_name(case_id)
        if problem is not None:
            shown = repr(case_id) if len(case_id) < 60 else f"{case_id[:50]!r}..."
            raise MedSSLError(
                f"a scan has the id {shown}: {problem}",
                where=self.where,
                fix='an id must be a valid file name: rename the file, or give the item an "id"',
            )
        case = Case(case_id, item.images, item.label, self._patient(item), item.meta)
        self._ids.add(case_id)
        self._seen.setdefault(os.path.realpath(item.images[0]), case)
        return case

    def add_training(self, item: Item) -> Case:
        """Add a scan under its own id, which must be free."""
        case = self._case(item, item.id)
        self._training[os.path.realpath(item.images[0])] = case
        return case

    def add(self, item: Item) -> Case:
        """Add a scan; if its id is taken, the folder's name is put before it."""
        taken = item.id in self._ids
        return self._case(item, f"{item.images[0].parent.name}_{item.id}" if taken else item.id)

    def add_unlabeled(self, item: Item) -> Case | None:
        """Add an unlabeled scan, or None if the same file is a training or unlabeled case."""
        key = os.path.realpath(item.images[0])
        if key in self._training or key in self._in_unlabeled:
            return None
        self._in_unlabeled.add(key)
        # A test image named explicitly as unlabeled stays the same case, so that it shows.
        known = self._seen.get(key)
        return known.without_label() if known is not None else self.add(item)

    def finish(self) -> list[str]:
        """Return what deviates; refuse a patient pattern that matched nothing."""
        if not self._unmatched:
            return []
        if not self._matched:
            raise MedSSLError(
                f"the pattern matches no case id (the first is '{self._unmatched[0]}')",
                where="data.patient_pattern",
                fix="write a pattern whose first group is the patient, such as '(patient\\d+)_'",
            )
        return [
            f"data.patient_pattern does not match {len(self._unmatched)} case ids "
            f"(first: {self._unmatched[0]}): each is its own patient"
        ]
