"""How a round did: the students of all folds against the round before, on patients out of fold."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.comparison.paired import MEAN
from medssl.cross_validation.crossval import FINISHED, FORMAT
from medssl.cross_validation.deal import NO_BASELINE, CrossvalSettings
from medssl.cross_validation.plan import CrossvalPlan, PlannedFold
from medssl.cross_validation.summary import summarize_crossval
from medssl.evaluation.summary import summarize
from medssl.files import write_json
from medssl.progress import Display
from medssl.runs.lineage import CROSSVAL
from medssl.runs.unlabeled_csv import FILE

if TYPE_CHECKING:
    from medssl.pseudo_labels.plan import Planner
    from medssl.pseudo_labels.teach import Teachers


def compare_rounds(
    planner: Planner, number: int, students: Sequence[PlannedFold], before: Sequence[PlannedFold]
) -> dict[str, Any]:
    """Judge a round as a cross-validation is judged, and write its ``crossval.json``.

    Args:
        planner: knows the folds.
        number: of the round; each is one look at the same patients.
        students: of its folds.
        before: what they are compared with: those of the round before, or one member each.

    Returns:
        ``dice`` of the students, ``before``, ``gain``, ``verdict`` and a sentence ``look``.
    """
    folder = planner.folder / f"round_{number}"
    named = f"round {number - 1}" if number > 1 else "one member"
    runs = [
        replace(run, folder=folder, fold=fold, method=name)
        for name, group in ((f"round {number}", students), (named, before))
        for fold, run in enumerate(group)
    ]
    dealt = planner.dealt
    plan = CrossvalPlan(
        folder,
        planner.loaded,
        CrossvalSettings(len(dealt.divisions[0]), NO_BASELINE),
        dealt.cases,
        dealt.divisions,
        tuple(runs),
        dealt.notes,
    )
    summary = summarize_crossval(plan)
    del summary["rows"]
    content = {"status": FINISHED, "format": FORMAT, **plan.described(), **summary}
    write_json(folder / CROSSVAL, content)
    ours, other = (one["metrics"]["dice"] for one in summary["experiments"])
    gain = summary["comparisons"][0]["structures"][MEAN]["metrics"]["dice"]["difference"]
    alone = "" if number == 1 else "; its interval is that of a first look"
    return {
        "dice": ours,
        "before": other,
        "gain": gain,
        "verdict": summary["verdict"],
        "look": f"Look {number} at these {summary['n_patients']} patients{alone}.",
    }


def together(
    teachers: Sequence[Teachers], output: Path, display: Display, remade: Sequence[bool]
) -> float | None:
    """Return the mean Dice of the members as one on the cases held out; None without any."""
    rows: list[dict[str, Any]] = []
    patients: dict[str, str] = {}
    for one, anew in zip(teachers, remade, strict=True):
        cases = one.plan.splits.test
        if cases:
            rows += one.together(output / f"fold_{one.fold}", display, anew=anew)
            patients |= {case.id: case.patient for case in cases}
    if not rows:
        return None
    found = summarize(rows, patients=patients, nsd_tolerance=None)
    return float(found["overall"]["metrics"]["dice"]["mean"])


def counted_scans(folders: Sequence[Path]) -> dict[str, Any]:
    """Return how many scans are ``kept`` in some fold and in none, how much is undecided."""
    rows = []
    for folder in folders:
        with (folder / FILE).open(encoding="utf-8", newline="") as file:
            rows += list(csv.DictReader(file))
    kept = {row["case"] for row in rows if float(row["weight"]) > 0}
    share = sum(float(row["undecided"]) for row in rows) / len(rows)
    gone = {row["case"] for row in rows} - kept
    return {"kept": len(kept), "left_out": len(gone), "undecided": share}
