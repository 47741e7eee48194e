"""A self-training laid out for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medssl.paths import command
from medssl.pseudo_labels.plan import WHOLE


def said(entry: Mapping[str, Any]) -> str:
    """Say in a few sentences how a round did; ``entry`` is one of ``rounds`` of the record."""
    lines = [
        f"round {entry['round']}: {entry['kept']} scans labeled and {entry['left_out']} left out, "
        f"{entry['undecided']:.1%} of what a member calls a structure undecided."
    ]
    if entry["verdict"] is not None:
        lines += [entry["verdict"]["sentence"], entry["look"]]
    if entry["together"] is not None:
        lines.append(
            f"The members together, by the mean of their probabilities: {entry['together']:.4f}."
        )
    return " ".join(lines)


def format_selftrain(folder: Path, summary: Mapping[str, Any]) -> str:
    """Lay a finished self-training out: every round, why it ended, what to predict with.

    Args:
        folder: of the self-training.
        summary: what ``selftrain.json`` holds.
    """
    lines = [said(entry) for entry in summary["rounds"]]
    looks, best = summary["looks"], summary["result"]
    lines.append(f"ended: {summary['ended']}")
    if looks:
        lines.append(f"looks at the patients out of fold: {looks}")
    if best:
        model = folder / f"round_{best}" / (WHOLE if summary["whole"] else "")
        lines.append(command("predict", model, "IMAGES", "--output", "DIR"))
    else:
        lines.append("no round helped: keep the members")
    return "\n".join([*lines, f"written: {folder}/selftrain.json"])
