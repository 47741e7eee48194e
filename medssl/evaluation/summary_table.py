"""A summary laid out for the terminal."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from medssl.evaluation.failures import failure_cell, failure_sentence
from medssl.evaluation.summary import SHARES, VOXEL_METRICS

_NAMED = 5
_COUNTS = {
    "n": "cases",
    "n_missed": "missed",
    "n_false_positive": "false\npos.",
    "n_absent": "absent",
}


def format_summary(summary: Mapping[str, Any]) -> list[RenderableType]:
    """Lay out all of an evaluation: its table, the policy behind it, and boundaries if it has any.

    Args:
        summary: as :func:`medssl.workflows.evaluate.evaluate_run` returns it.
    """
    title = None
    if "split" in summary:
        title = f"{summary['run']}: {summary['split']} cases, {summary['checkpoint']} checkpoint"
    table = format_table(summary, title=title)
    table.caption, caption = None, table.caption
    parts: list[RenderableType] = [table, Text(str(caption), style="dim")]
    if "boundaries" in summary:
        from medssl.evaluation.boundaries import format_boundaries

        parts.append(format_boundaries(summary))
    return parts


def summary_text(summary: Mapping[str, Any]) -> str:
    """Return what :func:`format_summary` lays out as plain text of at most 120 columns."""
    text = io.StringIO()
    # A notebook has the file, too; names of structures are text, whatever brackets they hold.
    console = Console(file=text, width=120, force_jupyter=False, markup=False, emoji=False)
    for part in format_summary(summary):
        console.print(part)
    return text.getvalue()


def format_table(summary: Mapping[str, Any], *, title: str | None = None) -> Table:
    """Lay a summary out: a line per structure, the policy and the failures below.

    Dice comes with its interval; the other intervals are in the JSON. The patients behind a mean
    stand in the column of failures; cases have one of their own only where they are not the
    patients. Columns of counts that are zero throughout are left out, but for the missed
    structures. Fits on 80 columns (with the voxel metrics, false positives and
    absent structures together it needs 96).

    Args:
        summary: what :func:`medssl.evaluation.summary.summarize` returned.
        title: printed above.
    """
    entries = [*summary["structures"].items(), ("mean", summary["overall"])]
    metrics = list(summary["overall"]["metrics"])
    several = summary["n_patients"] != summary["n_cases"]
    shown = {"n": several, "n_missed": True}
    counts = [k for k in _COUNTS if shown.get(k, summary["overall"][k])]
    failures = summary["overall"]["failures"]
    caption = (
        f"{summary['policy']}\n[ ]: {summary['interval']}.\n{summary['coverage']}\n"
        f"{failure_sentence(failures, 'mean Dice')}; per structure in column "
        f"Dice <{failures['threshold']:g}, of n patients."
    )
    caption = "\n".join((caption, *(f"{line}." for line in lineage_lines(summary))))
    table = Table(title=title, caption=caption, caption_justify="left", box=box.SIMPLE_HEAD)
    table.padding, table.pad_edge, table.show_edge = (0, 1, 0, 0), False, False
    table.add_column("structure", overflow="fold", min_width=9)
    headings = [_heading(m, summary) for m in metrics]
    headings.append(f"Dice\n<{failures['threshold']:g}\nof n")
    for heading in headings + [_COUNTS[k] for k in counts]:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, entry in entries:
        if entry is summary["overall"]:
            table.add_section()
        cells = [_metric_text(m, entry["metrics"][m]) for m in metrics]
        cells.append(failure_cell(entry["failures"]))
        table.add_row(name, *cells, *(str(entry[key]) for key in counts))
    return table


def lineage_lines(summary: Mapping[str, Any]) -> list[str]:
    """Say whose images, not labels, were seen in training, and what nobody can say; without stops.

    Args:
        summary: of an evaluation; see :mod:`medssl.runs.lineage`.
    """
    lines = []
    seen = summary.get("transductive")
    if seen:
        listed = ", ".join(seen[:_NAMED]) + (", ..." if len(seen) > _NAMED else "")
        lines.append(
            f"Transductive: images of {len(seen)} of {summary['n_patients']} patients ({listed}) "
            "were used in training, their labels were not; new patients may score lower"
        )
    if summary.get("unknown_ancestors"):
        listed = ", ".join(summary["unknown_ancestors"])
        lines.append(f"Nobody recorded whose labels were seen by {listed}: perhaps these patients'")
    return lines


def _heading(metric: str, summary: Mapping[str, Any]) -> str:
    name, _, rest = metric.partition("_")
    if metric in VOXEL_METRICS:
        return f"{name.upper()}\nmedpy\nvox"
    if metric == "nsd" and summary["nsd_tolerance"] is not None:
        return f"NSD\n{summary['nsd_tolerance']:g} {summary['unit']}"
    title = {"dice": "Dice", "iou": "IoU"}.get(name, name.upper())
    return f"{title}\n{rest}" if rest else title


def _metric_text(metric: str, entry: Mapping[str, Any]) -> str:
    digits = 3 if metric in SHARES else 2
    mean, low, high = (_number(entry[key], digits) for key in ("mean", "low", "high"))
    if metric != "dice" or mean == "-":
        return mean
    return f"{mean}\n[{low} {high}]" if low != "-" else f"{mean}\nno interval"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"
