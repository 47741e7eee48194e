"""Text, JSON, CSV and arrays: one writer and one spelling of numbers for each."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.files.atomic import FIX, WHAT, new_file, refusals

if TYPE_CHECKING:
    import numpy as np


def write_bytes(path: Path, data: bytes, *, what: str = WHAT, fix: str = FIX) -> None:
    """Write bytes, whole or not at all.

    Raises:
        MedSSLError: the disk refuses.
    """
    with new_file(path, what=what, fix=fix) as file:
        file.write(data)


def write_text(path: Path, text: str, *, what: str = WHAT, fix: str = FIX) -> None:
    r"""Write a text file in UTF-8, whole or not at all.

    A file name that is no text to the system, such as one in another encoding, is written with
    escapes (``\udce4``), which JSON reads back.

    Raises:
        MedSSLError: the disk refuses.
    """
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"), what=what, fix=fix)


def write_json(path: Path, content: Any, *, what: str = WHAT, fix: str = FIX) -> None:
    """Write strict JSON, whole or not at all: NaN and infinity become null, paths their text.

    Raises:
        MedSSLError: the disk refuses.
    """
    write_text(path, json_text(content) + "\n", what=what, fix=fix)


def json_text(content: Any) -> str:
    """Return strict JSON: NaN and infinity become null, paths their text."""
    return json.dumps(_strict(content), indent=1, ensure_ascii=False, allow_nan=False, default=str)


def _strict(value: Any) -> Any:
    """Return a value without NaN, infinity and numpy's scalars."""
    if getattr(value, "ndim", None) == 0:  # numpy's
        value = value.item()
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Append a record to a file of one JSON object a line; NaN stays NaN there.

    Raises:
        MedSSLError: the disk refuses.
    """
    left = as_line(record).encode()
    with refusals(path), path.open("ab", buffering=0) as file:
        start = file.seek(0, os.SEEK_END)
        try:
            while left:
                left = left[file.write(left) :]
        except OSError:
            file.truncate(start)  # no half of a line, to which the next would be added
            raise


def as_line(record: Mapping[str, Any]) -> str:
    """Return a record as a line of `append_line`."""
    return json.dumps(record, allow_nan=True) + "\n"


def write_csv(
    path: Path, rows: Sequence[Mapping[str, Any]], *, columns: Sequence[str] | None = None
) -> None:
    """Write a table, whole or not at all, its numbers with up to six decimals.

    Args:
        rows: mappings; a key that a row lacks, None and NaN are empty cells.
        columns: which keys, and in which order; by default all, as they come.

    Raises:
        MedSSLError: the disk refuses.
    """
    names = list(dict.fromkeys(key for row in rows for key in row)) if columns is None else columns
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([cell(row.get(name)) for name in names] for row in rows)
    write_text(path, buffer.getvalue())


def cell(value: Any) -> Any:
    """Return a value as it stands in a table: ``0.25``, ``1234567.8``, nothing for NaN."""
    if not isinstance(value, Real) or isinstance(value, Integral):
        return value
    if not math.isfinite(value):
        return "" if math.isnan(value) else str(float(value))
    text = f"{float(value):.6f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array as ``.npy``, whole or not at all.

    Raises:
        MedSSLError: the disk refuses.
    """
    import numpy as np

    with new_file(path) as file:
        np.save(file, array, allow_pickle=False)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], *, compressed: bool = False) -> None:
    """Write arrays by name as ``.npz``, whole or not at all.

    Raises:
        MedSSLError: the disk refuses.
    """
    import numpy as np

    with new_file(path) as file:
        save: Any = np.savez_compressed if compressed else np.savez
        save(file, **arrays)
