"""A cross-validation laid out for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from medssl.comparison.output import format_comparison
from medssl.evaluation.summary_table import format_table

WORST = 3


def format_crossval(summary: Mapping[str, Any]) -> RenderableType:
    """Lay a finished cross-validation out: figures, the patients that gain least, the verdict.

    Args:
        summary: what ``crossval.json`` holds.
    """
    if summary["verdict"] is None:
        whole = summary["out_of_fold"]
        title = f"{summary['name']}: {summary['n_patients']} patients, each out of fold"
        return Group(format_table(whole, title=title))
    words = [
        f"{entry['patient']} {entry['gain']:+.3f} (fold_{entry['fold']}, Dice {entry['dice']:.3f})"
        for entry in summary["patients"][:WORST]
    ]
    least = Text(f"patients that gain least: {', '.join(words)}", "dim")
    apart = summary.get("apart")
    more = [Text(apart["sentence"], "dim")] if apart else []
    return Group(format_comparison(summary), least, *more)
