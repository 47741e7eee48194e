"""What a method made of each unlabeled case, written into the run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medssl.methods.base import Method
from medssl.runs.unlabeled_csv import write_unlabeled


def write_case_table(method: Method, folder: Path, ids: Sequence[str]) -> None:
    """Write what a method made of each unlabeled case, if it says so, the least believed first.

    Args:
        method: see :meth:`medssl.methods.base.Method.unlabeled_table`.
        folder: of the run.
        ids: of the cases, in their order.
    """
    figures = method.unlabeled_table()
    if not figures:
        return
    columns = {name: values.tolist() for name, values in figures.items()}
    weights = columns.pop("trust")
    rows = [
        {"case": case, "weight": weights[k], **{name: v[k] for name, v in columns.items()}}
        for k, case in enumerate(ids)
    ]
    write_unlabeled(folder, rows, by="score")
