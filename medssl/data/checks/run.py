"""Run all checks over a dataset, case by case and then as a whole."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from medssl.data.checks.case_facts import CaseFacts, Role
from medssl.data.checks.duplicates import duplicate_problems
from medssl.data.checks.lists import list_problems
from medssl.data.checks.outliers import outlier_problems
from medssl.data.checks.per_case import case_problems
from medssl.data.checks.read_case import Painter, read_facts, read_thumbnail
from medssl.data.checks.resources import Resources, estimate_resources, resource_problems
from medssl.data.checks.shift import Shift, compare_groups, shift_problems
from medssl.data.checks.teeth import is_cbct, offset_problems
from medssl.data.datasets.case import Case, Dataset
from medssl.data.datasets.integrity import merge_headers
from medssl.data.datasets.problem import Problem
from medssl.files import default_cache_root
from medssl.progress import Done
from medssl.settings.spec import DataSpec

_ORDER = {"error": 0, "warning": 1, "note": 2}

INFLATION = 16
"""Bytes in memory per byte of the largest file, about: gzip shrinks images to a half or a third,
and float copies of what was stored are twice as large."""


@dataclass(frozen=True)
class CheckReport:
    """What was found in a dataset.

    Attributes:
        dataset: as read.
        problems: the most severe first.
        facts: what is known of each case.
        shifts: comparison of unlabeled and test cases with the labeled ones.
        memory: what preprocessing needs; None if nothing could be read.
    """

    dataset: Dataset
    problems: tuple[Problem, ...]
    facts: tuple[CaseFacts, ...]
    shifts: tuple[Shift, ...]
    memory: Resources | None

    @property
    def can_train(self) -> bool:
        """Whether nothing found stops training."""
        return not any(p.severity == "error" for p in self.problems)

    def count(self, severity: str) -> int:
        """Return how many problems have a severity."""
        return sum(p.severity == severity for p in self.problems)

    def is_repairable(self, problem: Problem) -> bool:
        """Tell whether ``--repair`` removes a problem from the copy."""
        if problem.check == "format":
            return True
        by_case = {f.case.id: f for f in self.facts}
        owner = by_case.get(problem.case)
        if problem.check == "duplicate":
            return owner is not None and owner.role == "unlabeled"
        return owner is not None and any(
            r.file == problem.file and problem.check in r.mends for r in owner.repairs
        )

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values, for scripts."""
        return {
            "dataset": str(self.dataset.root),
            "name": self.dataset.name,
            "can_train": self.can_train,
            "cases": dict(Counter(f.role for f in self.facts)),
            "counts": {s: self.count(s) for s in _ORDER},
            "problems": [
                {**asdict(p), "file": str(p.file), "repairable": self.is_repairable(p)}
                for p in self.problems
            ],
            "shift": [s.to_json() for s in self.shifts],
            "memory": None if self.memory is None else self.memory.to_json(),
        }


def check_dataset(
    dataset: Dataset,
    *,
    spec: DataSpec | None = None,
    cache_root: Path | None = None,
    painter: Painter | None = None,
    workers: int | None = None,
    on_progress: Done | None = None,
) -> CheckReport:
    """Read every case and return everything that is wrong with a dataset.

    A case that cannot be read is one of the problems; the others are checked all the same.

    Args:
        dataset: as read with ``keep_missing``, so that absent files are among the problems.
        spec: what is known of this kind of data; None: what dataset.json says.
        cache_root: where the cache would be written.
        painter: draws each case for a page.
        workers: threads; None: as many as there are processors and memory for.
        on_progress: called with each case's id when it was read.
    """
    facts: list[CaseFacts] = []
    for f in _read_all(dataset, painter, workers or _workers(dataset)):
        facts.append(f)
        if on_progress is not None:
            on_progress(f.case.id)
    modality = [*dataset.modality, *([spec.modality] if spec is not None else [])]
    cbct = is_cbct(modality)
    has_unit = not cbct and any(m.strip().upper() == "CT" for m in modality)
    problems = merge_headers([p for f in facts for p in f.problems])
    problems += [p for f in facts for p in case_problems(f, dataset.labels)]
    problems += list_problems(dataset)
    problems += duplicate_problems(facts, partial(read_thumbnail, unit=dataset.spatial_unit))
    problems += outlier_problems(
        facts, dataset.labels, has_unit=has_unit, unit=dataset.spatial_unit
    )
    if cbct:
        problems += offset_problems(facts)
    labeled = [f for f in facts if f.role == "labeled"]
    files = {f.case.id: f.case.images[0] for f in facts}
    shifts = []
    for group in ("unlabeled", "test"):
        others = [f for f in facts if f.role == group]
        shift = compare_groups(labeled, others, group, has_unit=has_unit)
        if shift is not None:
            shifts.append(shift)
            problems += shift_problems(shift, files)
    memory = estimate_resources(facts, spec, cache_root or default_cache_root())
    if memory is not None:
        problems += resource_problems(memory, files[memory.case])
    if not dataset.training:
        problems.append(
            Problem(
                "error",
                dataset.root / "dataset.json",
                "no case has a label: there is nothing to learn from",
                'list at least one item with a "label" under "training"',
                "no_label",
            )
        )
    ordered = sorted(problems, key=lambda p: (_ORDER[p.severity], p.check, str(p.file)))
    return CheckReport(dataset, tuple(ordered), tuple(facts), tuple(shifts), memory)


def _roles(dataset: Dataset) -> list[tuple[Case, Role]]:
    """Return every case once, in the order labeled, unlabeled, test."""
    lists: tuple[tuple[Role, Sequence[Case]], ...] = (
        ("labeled", dataset.training),
        ("unlabeled", dataset.unlabeled),
        ("test", dataset.test),
    )
    out: dict[tuple[Path, ...], tuple[Case, Role]] = {}
    for role, cases in lists:
        for case in cases:
            out.setdefault(case.images, (case, role))
    return list(out.values())


def _workers(dataset: Dataset) -> int:
    """Return how many cases may be in memory at once."""
    sizes = [p.stat().st_size for c, _ in _roles(dataset) for p in c.images if p.is_file()]
    largest = INFLATION * max(sizes, default=1)
    fitting = int(psutil.virtual_memory().available / 2 / max(largest, 1))
    return max(1, min(os.cpu_count() or 1, 8, fitting))


def _read_all(dataset: Dataset, painter: Painter | None, workers: int) -> Iterator[CaseFacts]:
    """Read cases in threads, in order, never more at once than there are workers.

    Threads, since decompression and array arithmetic leave the interpreter free.
    """
    todo = iter(_roles(dataset))
    with ThreadPoolExecutor(workers) as pool:
        waiting: list[Future[CaseFacts]] = []
        try:
            while True:
                while len(waiting) < workers and (entry := next(todo, None)) is not None:
                    case, role = entry
                    waiting.append(pool.submit(read_facts, case, role, dataset, painter=painter))
                if not waiting:
                    return
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()
