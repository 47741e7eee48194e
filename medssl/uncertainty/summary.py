"""A calibration for the reader: a few lines, and a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medssl.files import new_file

BEFORE, AFTER, NEUTRAL = "#d1495b", "#00a08a", "#555555"


def format_calibration(content: Mapping[str, Any]) -> str:
    """Return the figures of calibration.json in a few lines."""
    folds = content.get("folds")
    lines = [_temperatures(content), *_lines(content)]
    if folds is not None:
        lines.append(_dice(folds))
    if content["held_out"]:
        lines += _lines(content["held_out"])
    for name, entry in content["volume"].items():
        lines.append(
            f"true volume of {name}: {entry['low_factor']:.2f} to {entry['high_factor']:.2f} times "
            f"the predicted one in {entry['level']:.0%} of cases like these"
        )
    return "\n".join(lines)


def _temperatures(content: Mapping[str, Any]) -> str:
    if content.get("folds") is None:
        return f"temperature {content['temperature']:.3f}"
    each = content["folds"]["temperatures"]
    return f"temperature of each fold {', '.join(f'{t:.3f}' for t in each)}"


def _dice(folds: Mapping[str, Any]) -> str:
    dice = folds["dice"]
    if dice is None:
        return f"  no Dice is predicted: {folds['no_dice']}"
    return (
        f"  predicted Dice is off by {_text(dice['error'], 3)} "
        f"{_interval(dice, 'error_', 3)} on average; saying the others' mean to everybody, by "
        f"{_text(dice['error_of_mean'], 3)}"
    )


def _lines(figures: Mapping[str, Any]) -> list[str]:
    ece, quality = figures["ece"], figures["quality"]
    return [
        f"{figures['n_cases']} cases ({figures['cases_from']}):",
        f"  expected calibration error {_text(ece['before'], 4)} before, {_text(ece['after'], 4)} "
        f"after; change {_text(ece['difference'], 4)} {_interval(ece, 'difference_', 4)}",
        f"  rank correlation of quality and Dice {_text(quality['spearman'], 2)} "
        f"{_interval(quality, '', 2)}",
    ]


def _interval(entry: Mapping[str, Any], prefix: str, digits: int) -> str:
    ends = [entry[f"{prefix}{end}"] for end in ("low", "high")]
    if None in ends:
        why = entry.get("no_interval")
        return f"(no interval: {why})" if why else "(no interval)"
    return f"[{_text(ends[0], digits)}, {_text(ends[1], digits)}]"


def _text(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def draw_calibration(content: Mapping[str, Any], path: Path) -> None:
    """Draw what calibration.json says, of the cases held out where there are some.

    Left: the share of right voxels against their mean confidence, without and with the temperature;
    the size of a dot grows with the number of voxels. Right: a dot per case; of folds that were
    calibrated one by one what Dice was predicted of each by the rule of the others.

    Args:
        content: of calibration.json.
        path: of the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figures = content["held_out"] or content
    figure = Figure(figsize=(8.4, 3.8), dpi=110)
    FigureCanvasAgg(figure)
    _reliability(figure.add_subplot(1, 2, 1), figures)
    folds = content.get("folds")
    right = figure.add_subplot(1, 2, 2)
    if folds is None or folds["dice"] is None:
        _quality(right, figures["quality"])
    else:
        _predicted(right, folds["dice"])
    what = f"{figures['n_cases']} cases ({figures['cases_from']})"
    how = f", temperature {content['temperature']:.2f}" if folds is None else ""
    figure.suptitle(f"{what}{how}", fontsize=10)
    figure.tight_layout()
    with new_file(path) as file:
        figure.savefig(file, format="png")


def _reliability(axes: Any, figures: Mapping[str, Any]) -> None:
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8)
    for name, color in (("before", BEFORE), ("after", AFTER)):
        bins = [b for b in figures["reliability"][name] if b["count"]]
        most = max(b["count"] for b in bins)
        x, y = [b["confidence"] for b in bins], [b["accuracy"] for b in bins]
        axes.plot(x, y, color=color, linewidth=1.2, label=f"{name}: {figures['ece'][name]:.3f}")
        axes.scatter(x, y, [8 + 50 * b["count"] / most for b in bins], color=color)
    least = min(b["confidence"] for b in bins)
    axes.set_xlim(max(0.0, least - 0.1), 1.01)
    axes.set_ylim(max(0.0, least - 0.1), 1.01)
    axes.set_xlabel("mean confidence of voxels")
    axes.set_ylabel("share that is right")
    axes.legend(title="expected calibration error", fontsize=8, title_fontsize=8, loc="upper left")
    axes.grid(alpha=0.3)


def _predicted(axes: Any, dice: Mapping[str, Any]) -> None:
    known = [c for c in dice["cases"] if None not in (c["predicted"], c["dice"])]
    x, y = [c["predicted"] for c in known], [c["dice"] for c in known]
    ends = [min(*x, *y) - 0.02, max(*x, *y) + 0.02]
    axes.plot(ends, ends, color="black", linewidth=0.8)
    axes.scatter(x, y, s=14, color=NEUTRAL)
    axes.set_xlabel("predicted Dice, learned from the other patients")
    axes.set_ylabel("measured Dice")
    axes.set_title(f"off by {dice['error']:.3f} on average", fontsize=9)
    axes.grid(alpha=0.3)


def _quality(axes: Any, quality: Mapping[str, Any]) -> None:
    points = [
        (c["quality"], c["dice"]) for c in quality["cases"] if None not in (c["quality"], c["dice"])
    ]
    if points:
        axes.scatter(*zip(*points, strict=True), s=14, color=NEUTRAL)
    axes.set_xlabel("quality: expected Dice")
    axes.set_ylabel("measured Dice")
    if quality["spearman"] is not None and quality["low"] is not None:
        axes.set_title(
            f"rank correlation {quality['spearman']:.2f} "
            f"[{quality['low']:.2f}, {quality['high']:.2f}]",
            fontsize=9,
        )
    axes.grid(alpha=0.3)
