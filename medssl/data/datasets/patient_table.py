"""Read ``data.patients`` where it is a table: whose scan each case is."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from medssl.data.images.names import split_extension
from medssl.errors import MedSSLError

TABLES = (".csv", ".tsv", ".txt")
MAX_BYTES = 100_000_000
FIX = "write a first line `case,patient`, then one line a case, such as `scan_017,P003`"


def is_table(patients: str) -> bool:
    """Tell whether ``data.patients`` names a file; anything else is a pattern."""
    return patients.strip().lower().endswith(TABLES)


def read_patient_table(path: Path) -> dict[str, str]:
    """Return the patient of each case.

    Columns are separated by commas, semicolons or tabs; others than ``case`` and ``patient`` are
    passed over. A case may be given as the name of its image file.

    Raises:
        MedSSLError: the file is missing or no table, a line lacks a value, or a case has two
            patients; names the line.
    """
    found: dict[str, str] = {}
    for number, case, patient in _rows(path):
        if not case or not patient:
            raise MedSSLError(
                f"the line has no {'case' if not case else 'patient'}",
                where=f"{path}:{number}",
                fix="complete the line, or remove it",
            )
        if found.setdefault(case, patient) != patient:
            raise MedSSLError(
                f"case '{case}' has two patients: '{found[case]}' and '{patient}'",
                where=f"{path}:{number}",
                fix="keep one of the lines",
            )
    if not found:
        raise MedSSLError("the table has no case", where=path, fix=FIX)
    return found


def _rows(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield the line number, the case and the patient of each line below the first."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise MedSSLError("the file is far too big for a table", where=path, fix=FIX)
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise MedSSLError(
            "data.patients names a table that is neither beside the recipe, nor in the working "
            "folder, nor in the dataset's",
            where=path,
            fix=f"correct the path (--set data.patients=FILE), or {FIX}",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise MedSSLError(
            f"the table cannot be read: {error}", where=path, fix="save it as UTF-8 text"
        ) from None
    lines = text.splitlines()
    first = lines[0] if lines else ""
    separator = max(",;\t", key=first.count)
    names = [name.strip().strip('"').lower() for name in first.split(separator)]
    missing = [name for name in ("case", "patient") if name not in names]
    if missing:
        raise MedSSLError(
            f"the table has no column '{missing[0]}' in its first line", where=f"{path}:1", fix=FIX
        )
    at = names.index("case"), names.index("patient")
    try:
        for number, row in enumerate(csv.reader(lines[1:], delimiter=separator), start=2):
            if any(value.strip() for value in row):
                case, patient = (row[i].strip() if i < len(row) else "" for i in at)
                yield number, split_extension(Path(case).name)[0], patient
    except csv.Error as error:
        raise MedSSLError(f"is no table: {error}", where=path, fix=FIX) from None
