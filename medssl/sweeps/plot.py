"""The label-efficiency plot: Dice and gain over labels alone against the number of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medssl.files import new_file

COLORS = ("#555555", "#00a08a", "#d1495b", "#3d6fd9", "#e09f3e", "#8a5cc2", "#5f8f3f", "#b0577e")


def draw_sweep(summary: Mapping[str, Any], path: Path) -> None:
    """Draw Dice (left) and, where methods were paired, their gain (right) on a log axis of labels.

    Bars are the intervals of the summary, small dots the single runs; methods are moved sideways a
    little so that bars do not cover each other.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = summary["points"]
    methods = list(dict.fromkeys(p["method"] for p in points))
    gains = [p for p in points if "gain" in p]
    figure = Figure(figsize=(11 if gains else 6, 4.2), dpi=110)
    FigureCanvasAgg(figure)
    left = figure.add_subplot(1, 2 if gains else 1, 1)
    right = figure.add_subplot(1, 2, 2) if gains else None
    for index, method in enumerate(methods):
        color = COLORS[index % len(COLORS)]
        shift = 2 ** (0.06 * (index - (len(methods) - 1) / 2))
        own = [p for p in points if p["method"] == method]
        x = [position(p) * shift for p in own]
        bounds = [(p["dice"], p["low"], p["high"]) for p in own]
        _bars(left, x, bounds, color, method)
        for place, point in zip(x, own, strict=True):
            runs = point["dice_per_run"]
            left.plot([place] * len(runs), runs, ".", color=color, alpha=0.5, markersize=4)
        own = [p for p in own if "gain" in p]
        if right is not None and own:
            bounds = [(p["gain"]["difference"], p["gain"]["low"], p["gain"]["high"]) for p in own]
            _bars(right, [position(p) * shift for p in own], bounds, color, method)
    what = "test" if summary["split"] == "test" else "out-of-fold"
    left.set_ylabel(f"mean {what} Dice, {summary['n_cases']} cases")
    if right is not None:
        right.axhline(0, color="black", linewidth=0.8)
        right.set_ylabel("gain in Dice over labels alone, paired")
    for axes in (left, right):
        if axes is not None:
            _label_axis(axes, points)
    figure.suptitle(
        f"{Path(summary['recipe']).stem}: bars are {summary['interval'].split(',')[0]}", fontsize=10
    )
    figure.tight_layout()
    with new_file(path) as file:
        figure.savefig(file, format="png")


def position(point: Mapping[str, Any]) -> float:
    """Return where a point lies on the axis: its number of labels; of ``all``, the cases."""
    labeled = point["labeled"]
    return float(labeled if isinstance(labeled, int) else point["labeled_cases"] or 1)


def _bars(
    axes: Any, x: list[float], bounds: Sequence[tuple[float, ...]], color: str, name: str
) -> None:
    middle, low, high = np.array(bounds, dtype=float).T
    # Without an interval (one patient) there is only the point.
    sizes = np.nan_to_num(np.stack((middle - low, high - middle))).clip(min=0)
    axes.errorbar(x, middle, yerr=sizes, fmt="-o", color=color, label=name, capsize=3, markersize=4)


def _label_axis(axes: Any, points: list[Mapping[str, Any]]) -> None:
    ticks = {position(p): str(p["labeled"]) for p in points}
    ticks = {k: f"all\n({k:.0f})" if v == "all" else v for k, v in ticks.items()}
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.minorticks_off()
    axes.set_xlim(min(ticks) / 1.25, max(ticks) * 1.25)
    axes.set_xlabel("labeled patients")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
