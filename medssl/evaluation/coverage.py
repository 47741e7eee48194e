"""How often the intervals hold what they claim: figures that were measured, to be stated with them.

``coverage.json`` beside this module is made by ``benchmarks/coverage.py --write``, which draws
20,000 studies of n patients from each of several distributions, and, for what real
cross-validations of a toy task held, by ``benchmarks/crossval_coverage.py --write``;
``docs/verdict.md`` shows both.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

COVERAGE_FILE = Path(__file__).with_name("coverage.json")


@dataclass(frozen=True)
class Measured:
    """Measured coverage of the t interval for a number of patients.

    Attributes:
        patients: of the simulated studies: as many as asked for, or the next smaller number.
        worst, best: share of studies whose interval held the truth, over the distributions.
        worst_where, best_where: the distributions, in a few words.
    """

    patients: int
    worst: float
    best: float
    worst_where: str
    best_where: str


@cache
def _figures() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(COVERAGE_FILE.read_text(encoding="utf-8"))
    return content


def measured_coverage(patients: int) -> Measured | None:
    """Return what was measured for so many patients; None for fewer than were simulated."""
    content = _figures()
    table = content["coverage"]
    sizes = [int(n) for n in next(iter(table.values()))]
    below = [n for n in sizes if n <= patients]
    if not below:
        return None
    row = {name: rows[str(below[-1])]["t"] for name, rows in table.items()}
    worst, best = min(row, key=row.__getitem__), max(row, key=row.__getitem__)
    what = {name: text.split(":")[0] for name, text in content["what"].items()}
    return Measured(below[-1], row[worst], row[best], what[worst], what[best])


def coverage_sentence(patients: int) -> str:
    """Say in one sentence how far an interval from so many patients can be believed."""
    found = measured_coverage(patients)
    if found is None:
        return "Intervals from fewer than three patients were not tried in simulations."
    return (
        "Intervals are made to hold the true mean in 95 of 100 studies; in simulated studies of "
        f"{found.patients} patients they held it in {100 * found.worst:.0f} "
        f"({found.worst_where}) to {100 * found.best:.0f} ({found.best_where})."
    )


def crossval_sentence() -> str:
    """Say in one sentence how often the intervals of real cross-validations held the truth."""
    found = _figures()["crossval"]
    gain, dice = (found["what"][what] for what in ("gain", "supervised"))
    held = {what: 100 * row["held"] / row["draws"] for what, row in found["what"].items()}
    return (
        f"In {gain['draws']} real cross-validations of a toy task ({found['patients']} patients, "
        f"{found['folds']} folds) the interval of the gain held the gain of these models on new "
        f"patients in {held['gain']:.0f} %, the interval of Dice in {held['supervised']:.0f} % "
        f"(out-of-fold Dice minus that of new patients: {dice['bias']:+.3f} on average)."
    )
