"""``unlabeled.csv``: what a training made of each unlabeled scan, the worst first.

Columns: ``case``, its id; ``weight`` in [0, 1], how much the scan counts in training, where 0 is
left out; then what was measured of it, by whoever writes the table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medssl.files import write_csv

FILE = "unlabeled.csv"


def write_unlabeled(folder: Path, rows: Sequence[Mapping[str, Any]], *, by: str) -> Path:
    """Write the table into a folder, whole or not at all.

    Args:
        folder: of the run or round.
        rows: of ``case``, ``weight``, and what was measured.
        by: name of the column that says how good a scan is: the lowest stand first, and before
            them those without a value.

    Raises:
        MedSSLError: the disk refuses.
    """

    def place(row: Mapping[str, Any]) -> tuple[float, float, str]:
        value = row.get(by)
        value = -math.inf if value is None or math.isnan(value) else float(value)
        return value, float(row["weight"]), str(row["case"])

    columns = list(dict.fromkeys(["case", "weight", *(key for row in rows for key in row)]))
    write_csv(folder / FILE, sorted(rows, key=place), columns=columns)
    return folder / FILE
