"""The result of a check on the terminal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from medssl.data.checks.run import CheckReport
from medssl.data.datasets.problem import Problem

SHOWN = 5
"""So many files with the same fault are listed; the others are counted."""

STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


def format_problems(report: CheckReport) -> Table:
    """Return the table of problems, the most severe first."""
    table = Table(box=box.SIMPLE_HEAD, title_justify="left", expand=False)
    table.add_column("")
    table.add_column("file", overflow="fold", ratio=3)
    table.add_column("cause", overflow="fold", ratio=5)
    table.add_column("fix", overflow="fold", ratio=5)
    for group in group_problems(report.problems):
        for problem in group[:SHOWN]:
            fix = problem.fix
            if report.is_repairable(problem) and "--repair" not in fix:
                fix += " (--repair does it)"
            table.add_row(
                Text(problem.severity, style=STYLES[problem.severity]),
                Text(relative(problem.file, report.dataset.root)),
                Text(problem.what),
                Text(fix),
            )
        if len(group) > SHOWN:
            more = f"... and {len(group) - SHOWN} more of this kind (--json or --html lists all)"
            table.add_row("", Text(more, style="dim"), "", "")
    return table


def group_problems(problems: Sequence[Problem]) -> list[list[Problem]]:
    """Put problems of one severity and check together, in their order."""
    groups: dict[tuple[str, str], list[Problem]] = defaultdict(list)
    for problem in problems:
        groups[problem.severity, problem.check].append(problem)
    return list(groups.values())


def relative(path: Path, root: Path) -> str:
    """Return a path as seen from the dataset, or whole if it lies elsewhere."""
    try:
        return path.relative_to(root).as_posix()
    except ValueError:
        return str(path)


def plural(number: int, word: str) -> str:
    """Return ``1 error`` or ``2 errors``."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def verdict(report: CheckReport) -> str:
    """Say in one line what was found and whether training can start."""
    counts = ", ".join(plural(report.count(s), s) for s in ("error", "warning", "note"))
    start = "training can start" if report.can_train else "training cannot start"
    return f"{plural(len(report.facts), 'case')}: {counts}; {start}"


def describe_memory(report: CheckReport) -> str:
    """Say in one line what preprocessing will need."""
    need = report.memory
    if need is None:
        return "no image could be read"
    return (
        f"preprocessing needs about {_gigabytes(need.ram_gb)} of memory ({need.free_ram_gb:.0f} GB "
        f"free; largest case: {need.case}) and {_gigabytes(need.cache_gb)} of disk "
        f"({need.free_disk_gb:.0f} GB free)"
    )


def _gigabytes(value: float) -> str:
    return f"{value:.1f} GB" if value >= 1 else f"{max(1, round(1000 * value))} MB"
