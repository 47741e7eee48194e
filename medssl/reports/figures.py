"""Figures of a report as SVG: curves of a training and box plots of its results."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medssl.reports.render import number

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")
"""Okabe and Ito's palette, which readers with color blindness can tell apart."""

# Groups of logged terms, what to call them, and how to read them.
GROUPS = (
    (
        "loss",
        "Losses",
        "Each loss term. The supervised part should fall and flatten; a term that stays at 0 does "
        "nothing.",
    ),
    (
        "pseudo",
        "Pseudo-labels",
        "How many pseudo-labels were accepted (kept), and how often the student already agrees "
        "with them. Acceptance near 0 means the unlabeled scans were hardly used; agreement near 1 "
        "means that there is little left to learn from them.",
    ),
    (
        "certainty",
        "Certainty of the teacher",
        "Mean weight or share of voxels that the teacher was trusted on.",
    ),
    ("policy", "Selection policy", "Entropy near 0 means that the policy has collapsed."),
    (
        "region",
        "Regions",
        "Shares of voxels: where networks disagree, are wrong, or the sources of a mixed image "
        "contradict each other.",
    ),
    (
        "autoencoder",
        "Autoencoder of masks",
        "Dice of repaired masks beside that of the corrupted ones: it helps if it is higher.",
    ),
    ("weight", "Ramps", "Weight of the unsupervised terms over the training."),
    ("validation", "Validation", "Mean Dice on the validation cases, on the network's grid."),
)
_SKIP = ("loss/total", "validation/seconds")


@dataclass(frozen=True)
class Picture:
    """An image for a page: ``uri`` is a data URI, ``alt`` says what there is to see."""

    title: str
    caption: str
    uri: str
    alt: str


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl; lines that a crash cut short are left out."""
    records = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                continue
    return [r for r in records if isinstance(r, dict) and "step" in r]


def training_curves(records: Sequence[Mapping[str, Any]]) -> list[Picture]:
    """Draw one figure per group of terms, with the stages marked."""
    pictures = []
    for prefix, title, caption in GROUPS:
        keys = sorted(
            {k for r in records for k in r if k.startswith(f"{prefix}/") and k not in _SKIP}
        )
        series = {}
        for key in keys:
            points = [(r["step"], r[key]) for r in records if _finite(r.get(key))]
            if points:
                series[key.partition("/")[2].replace("_", " ")] = points
        if series:
            uri = _draw_curves(series, _stages(records), logarithmic=prefix == "loss")
            alt = f"{title} over the iterations: {', '.join(series)}"
            pictures.append(Picture(title, caption, uri, alt))
    return pictures


def _stages(records: Sequence[Mapping[str, Any]]) -> list[tuple[int, str]]:
    """Return the first step and the name of every stage."""
    starts: dict[str, int] = {}
    for record in records:
        starts.setdefault(str(record.get("stage", "")), int(record["step"]))
    return [(step, name) for name, step in starts.items() if name]


def _draw_curves(
    series: Mapping[str, Sequence[tuple[float, float]]],
    stages: Sequence[tuple[int, str]],
    *,
    logarithmic: bool,
) -> str:
    figure, axes = _figure(7.2, 3.0)
    for color, (name, points) in zip(_cycle(len(series)), series.items(), strict=True):
        steps, values = np.array(points, dtype=float).T
        smooth = _smooth(values)
        if len(values) > 20:
            axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
        axes.plot(
            steps,
            smooth,
            color=color,
            label=name,
            linewidth=1.6,
            marker="o" if len(values) < 20 else None,
            markersize=3,
        )
    if logarithmic and all(v > 0 for points in series.values() for _, v in points):
        axes.set_yscale("log")
    for step, name in stages if len(stages) > 1 else ():
        axes.axvline(step, color="#999999", linewidth=0.8, linestyle=":")
        axes.text(
            step,
            1.01,
            f" {name}",
            transform=axes.get_xaxis_transform(),
            fontsize=8,
            color="#666666",
        )
    axes.set_xlabel("iteration")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return svg_uri(figure)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Return a centered running mean over a fortieth of the points."""
    width = max(1, len(values) // 40)
    if width == 1:
        return values
    kernel = np.ones(width) / width
    padded = np.pad(values, (width // 2, width - 1 - width // 2), mode="edge")
    return np.convolve(padded, kernel, mode="valid")


def box_plots(
    rows: Sequence[Mapping[str, Any]], metric: str, *, other: Sequence[Mapping[str, Any]] = ()
) -> Picture:
    """Draw one box per structure with every case as a point; ``other`` is a baseline beside it."""
    names = list(dict.fromkeys(str(row["name"]) for row in rows))
    figure, axes = _figure(7.2, 0.9 + 0.55 * len(names) * (2 if other else 1))
    ticks, labels = [], []
    rng = np.random.default_rng(0)
    for index, name in enumerate(names):
        for offset, (source, color) in enumerate(((rows, COLORS[0]), (other, COLORS[1]))):
            values = [r[metric] for r in source if r["name"] == name and _finite(r.get(metric))]
            if not values:
                continue
            place = -(index * (2.6 if other else 1.0) + offset)
            axes.boxplot(
                values,
                positions=[place],
                orientation="horizontal",
                widths=0.6,
                showfliers=False,
                medianprops={"color": color, "linewidth": 2},
                boxprops={"color": "#666666"},
            )
            jitter = rng.uniform(-0.18, 0.18, len(values))
            axes.scatter(values, place + jitter, s=10, color=color, alpha=0.6, linewidths=0)
            ticks.append(place)
            labels.append(name if not offset else "baseline")
    axes.set_yticks(ticks, labels)
    axes.set_xlabel(metric.replace("_", " "))
    axes.grid(alpha=0.25, axis="x")
    return Picture(
        f"{metric.replace('_', ' ')} per structure",
        "Box: middle half of the cases; line: median; every point is a case.",
        svg_uri(figure),
        f"Box plots of {metric} for {', '.join(names)}",
    )


def reliability_curve(bins: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Draw accuracy against confidence.

    Args:
        bins: per curve (for instance ``before`` and ``after``) its bins, each with
            ``confidence``, ``accuracy`` and ``count``.

    Returns:
        A data URI.
    """
    figure, axes = _figure(4.2, 3.6)
    axes.plot([0, 1], [0, 1], color="#999999", linestyle="--", linewidth=1)
    for color, (name, curve) in zip(_cycle(len(bins)), bins.items(), strict=True):
        kept = [b for b in curve if b["count"] > 0]
        axes.plot(
            [b["confidence"] for b in kept],
            [b["accuracy"] for b in kept],
            color=color,
            marker="o",
            markersize=3,
            label=name,
        )
    axes.set_xlabel("confidence")
    axes.set_ylabel("share of voxels that are right")
    axes.legend(fontsize=8, frameon=False)
    axes.grid(alpha=0.25)
    return svg_uri(figure)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def svg_uri(figure: Any) -> str:
    """Return a figure as a data URI; the same figure gives the same text."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "medssl", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    return data_uri(buffer.getvalue(), "image/svg+xml")


def data_uri(content: bytes, kind: str) -> str:
    """Embed a file into a page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _cycle(number: int) -> list[str]:
    return [COLORS[i % len(COLORS)] for i in range(number)]


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def calibration_picture(folder: Path) -> dict[str, Any] | None:
    """Return what `medssl calibrate` wrote, with its curve drawn, or None.

    The figures of cases that nothing was fitted on come before those of the calibration cases.
    """
    try:
        found = json.loads((folder / "calibration.json").read_text(encoding="utf-8"))
        figures = found.get("held_out") or found
        uri = reliability_curve(figures["reliability"])
        ece, quality = figures["ece"], figures["quality"]
        numbers = [number(ece["before"]), number(ece["after"])]
        ranks = [number(quality[key], 2) for key in ("spearman", "low", "high")]
        known = quality["low"] is not None
        span = f"[{ranks[1]}, {ranks[2]}]" if known else f"from {quality['n']} cases, no interval"
        caption = (
            f"{figures['n_cases']} cases ({figures['cases_from']}). On the diagonal, voxels called "
            f"80 % sure are right 8 times in 10. Expected calibration error {numbers[0]} before, "
            f"{numbers[1]} after; rank correlation of the quality score and Dice {ranks[0]} "
            f"{span}."
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found | {"picture": Picture("Calibration", caption, uri, "Reliability curve")}
