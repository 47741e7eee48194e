"""Give the scans of a dataset unique ids and patients."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from medssl.data.datasets.case import Case
from medssl.data.datasets.decathlon_items import Item, unsafe_name
from medssl.data.datasets.patient_guess import PatientGuess, guess_patients
from medssl.data.datasets.patient_names import one_spelling, patients_by_name
from medssl.data.datasets.patient_table import is_table, read_patient_table
from medssl.errors import MedSSLError

WHERE = "data.patients"
PATTERN_FIX = (
    "write a pattern whose first group is the patient, such as '(patient\\d+)_', or name a CSV "
    "file with the columns case,patient"
)


class CaseRegistry:
    """Give every scan a unique id; recognize a file that was seen before.

    Patients are given by :meth:`assign_patients`, once all scans are known.
    """

    def __init__(self, where: Path) -> None:
        self.where = where
        self._training: dict[str, Case] = {}
        self._seen: dict[str, Case] = {}
        self._in_unlabeled: set[str] = set()
        self._items: dict[str, Item] = {}

    def _case(self, item: Item, case_id: str) -> Case:
        if case_id in self._items:
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
        case = Case(case_id, item.images, item.label, item.patient or case_id, item.meta)
        self._items[case_id] = item
        self._seen.setdefault(os.path.realpath(item.images[0]), case)
        return case

    def add_training(self, item: Item) -> Case:
        """Add a scan under its own id, which must be free."""
        case = self._case(item, item.id)
        self._training[os.path.realpath(item.images[0])] = case
        return case

    def add(self, item: Item) -> Case:
        """Add a scan; if its id is taken, the folder's name is put before it."""
        taken = item.id in self._items
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

    def assign_patients(self, patients: str | None) -> Patients:
        """Find out whose scans all added cases are; see :class:`Patients`.

        Raises:
            MedSSLError: ``data.patients`` is no pattern or table, or fits no case.
        """
        return Patients(self._items, patients)


class Patients:
    """Whose scan each case is: as ``data.patients`` says, else the dataset, else the id.

    Args:
        items: the scans by case id.
        patients: a table or a pattern.

    Attributes:
        notes: what deviates.
        guess: what ids look like where nothing is said or certain; None if like nothing.
    """

    def __init__(self, items: Mapping[str, Item], patients: str | None) -> None:
        self.notes: list[str] = []
        said = {}
        if patients is not None:
            table = read_patient_table(Path(patients).expanduser()) if is_table(patients) else {}
            lookup = table.get if table else _pattern(patients)
            said = {i: p for i, item in items.items() if (p := lookup(i) or lookup(item.id))}
            known = {*items, *(item.id for item in items.values())}
            others = [name for name in table if name not in known]
            self._note_missing(list(items), said, patients, others)
        said |= {i: v.patient for i, v in items.items() if i not in said and v.patient is not None}
        # The id without the folder that tells two apart: scans of a patient may lie in two.
        names = {i: item.id for i, item in items.items() if i not in said}
        by_name = patients_by_name(names.values())
        self._of = self._spelled_alike({**{i: by_name[name] for i, name in names.items()}, **said})
        self.guess: PatientGuess | None = None
        if patients is None:
            self.guess = guess_patients(one_spelling(by_name), said)

    def of(self, cases: Sequence[Case]) -> tuple[Case, ...]:
        """Return the cases with their patients."""
        return tuple(replace(case, patient=self._of[case.id]) for case in cases)

    def _spelled_alike(self, patients: dict[str, str]) -> dict[str, str]:
        spelled = one_spelling(patients)
        others = {n: spelled[i] for i, n in patients.items() if n != spelled[i]}
        if others:
            other, first = min(others.items())
            more = f" ({len(others)} such pairs)" if len(others) > 1 else ""
            self.notes.append(
                f"patients '{first}' and '{other}' differ in letter case or in characters "
                f"that are not seen: they are taken for one{more}"
            )
        return spelled

    def _note_missing(
        self, ids: Sequence[str], said: Mapping[str, str], patients: str, others: Sequence[str]
    ) -> None:
        missing = [i for i in ids if i not in said]
        if not missing:
            return
        kind = "table names" if is_table(patients) else "pattern matches"
        if len(missing) == len(ids):
            raise MedSSLError(
                f"the {kind} no case id (the first is '{missing[0]}')",
                where=WHERE,
                fix=PATTERN_FIX,
            )
        self.notes.append(
            f"{WHERE}: the {kind} all cases but "
            f"{len(missing)} (first: {missing[0]}): their patients are as without it"
            # A slip in a name, perhaps; a table of more cases than these is nothing to talk of.
            + (f"; {len(others)} that it names are not here ({others[0]})" if others else "")
        )


def _pattern(text: str) -> Callable[[str], str | None]:
    try:
        compiled = re.compile(text)
    except re.error as error:
        raise MedSSLError(
            f"{text!r} is not a regular expression: {error}", where=WHERE, fix=PATTERN_FIX
        ) from None
    if compiled.groups < 1:
        raise MedSSLError(f"{text!r} has no group", where=WHERE, fix=PATTERN_FIX)

    def patient(name: str) -> str | None:
        found = compiled.search(name)
        return (found[1] or None) if found is not None else None

    return patient
