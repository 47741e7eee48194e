"""The picture of a comparison: every case's difference, and the mean with its interval."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medssl.comparison.paired import MEAN, TIE
from medssl.files import new_file

GOOD, BAD, NEUTRAL = "#00a08a", "#d1495b", "#555555"
_COLUMNS = 3


def draw_comparison(result: Mapping[str, Any], path: Path) -> None:
    """Draw a panel per experiment: differences in Dice to the baseline, a dot per case.

    The band marks ties; the bar is the mean difference with its interval, green where it lies
    above zero, red where below.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pairs = result["comparisons"]
    names = [*result["structures"], MEAN]
    columns = min(len(pairs), _COLUMNS)
    lines = math.ceil(len(pairs) / columns)
    width = max(4.4, 1.1 * len(names) + 1.4)
    figure = Figure(figsize=(width * columns, 4.2 * lines), dpi=110)
    FigureCanvasAgg(figure)
    shared = None
    for index, pair in enumerate(pairs):
        axes = figure.add_subplot(lines, columns, index + 1, sharey=shared)
        shared = shared or axes
        _panel(axes, pair, names, result)
        if index % columns == 0:
            axes.set_ylabel(f"difference in {result['split']} Dice per case")
    figure.tight_layout()
    with new_file(path) as file:
        figure.savefig(file, format="png")


def _panel(axes: Any, pair: Mapping[str, Any], names: list[str], result: Mapping[str, Any]) -> None:
    rng = np.random.default_rng(0)  # where the dots lie sideways; carries no meaning
    axes.axhline(0, color="black", linewidth=0.8)
    axes.axhspan(-TIE, TIE, color="black", alpha=0.07, linewidth=0)
    for x, name in enumerate(names):
        values = [
            row["dice_difference"]
            for row in result["rows"]
            if row["experiment"] == pair["experiment"] and row["name"] == name
        ]
        side = x + rng.uniform(-0.22, 0.22, len(values)) - 0.08
        axes.plot(side, values, ".", color=NEUTRAL, alpha=0.45, markersize=5)
        dice = pair["structures"][name]["metrics"]["dice"]
        color = GOOD if dice["low"] > 0 else BAD if dice["high"] < 0 else NEUTRAL
        axes.plot([x + 0.3] * 2, [dice["low"], dice["high"]], color=color, linewidth=2.5)
        axes.plot([x + 0.3], [dice["difference"]], "o", color=color, markersize=6)
    outcomes = [pair["structures"][n] for n in names]
    labels = [
        f"{n}\n{o['win']}/{o['tie']}/{o['loss']}" for n, o in zip(names, outcomes, strict=True)
    ]
    axes.set_xticks(range(len(names)), labels, fontsize=8)
    axes.set_xlim(-0.5, len(names) - 0.4)
    axes.set_title(f"{pair['experiment']}\nminus {pair['baseline']}", fontsize=9)
    axes.grid(axis="y", alpha=0.3)
