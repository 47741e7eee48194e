"""A comparison on the terminal and in files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from medssl.comparison.paired import MEAN
from medssl.evaluation.failures import failure_cell, failure_sentence
from medssl.evaluation.summary import SHARES
from medssl.files import write_csv, write_json


def write_comparison(result: Mapping[str, Any], output: Path) -> list[Path]:
    """Write ``compare.csv``, ``compare.json`` and ``compare.png`` into ``output``.

    Raises:
        MedSSLError: the folder cannot be written.
    """
    from medssl.comparison.plot import draw_comparison

    write_csv(output / "compare.csv", result["rows"])
    write_json(output / "compare.json", {k: v for k, v in result.items() if k != "rows"})
    draw_comparison(result, output / "compare.png")
    return [output / f"compare.{kind}" for kind in ("csv", "json", "png")]


def format_comparison(result: Mapping[str, Any]) -> RenderableType:
    """Lay a comparison out for the terminal: experiments, differences, verdict, cautions."""
    parts: list[RenderableType] = [_experiments_table(result)]
    parts += [_pair_table(pair, result) for pair in result["comparisons"]]
    notes = [f"[ ]: {result['interval']}.", result["coverage"]]
    notes.append(f"W/T/L: cases won, tied, lost; {result['tie']}.")
    notes += [f"{e['name']}: {failure_sentence(e['failures'])}." for e in result["experiments"]]
    parts.append(Text("\n".join(notes), "dim"))
    for verdict in result["verdicts"]:
        style = {"gain": "bold green", "harm": "bold red"}.get(verdict["code"], "bold")
        parts.append(Text(f"\n{verdict['sentence']}", style))
        parts += [Text(f"  caution: {c}") for c in verdict["cautions"]]
    parts += [Text(f"warning: {w}", "yellow") for w in result["warnings"]]
    return Group(*parts)


def _table(title: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    table.padding, table.pad_edge, table.show_edge = (0, 1, 0, 0), False, False
    return table


def _experiments_table(result: Mapping[str, Any]) -> Table:
    cases, patients = result["n_cases"], result["n_patients"]
    table = _table(f"{result['split']}: {cases} cases of {patients} patients")
    distance = next(m for m in result["metrics"] if m.startswith("hd95"))
    below = f"Dice\n<{result['experiments'][0]['failures']['threshold']:g}"
    headings = ("runs", "labeled\ncases", "Dice\n± over runs", below, _heading(distance))
    table.add_column("experiment")
    for heading in headings:
        table.add_column(heading, justify="right")
    for heading in ("s per\niter.", "train\nmin", "peak\nGB", "param.\nM"):
        table.add_column(heading, justify="right")
    for experiment in result["experiments"]:
        cost, metrics = experiment["cost"], experiment["metrics"]
        spread = number(experiment["dice_std_over_runs"], 3)
        table.add_row(
            experiment["name"],
            str(len(experiment["runs"])),
            str(experiment["labeled_cases"]),
            number(metrics["dice"], 3) + (f" ±{spread}" if spread != "-" else ""),
            failure_cell(experiment["failures"]),
            number(metrics[distance], 2),
            number(cost["seconds_per_iteration"], 3),
            number(cost["training_seconds"] / 60, 1),
            number(cost["peak_memory_bytes"] / 1e9, 2),
            number(cost["parameters"] / 1e6, 2),
        )
    return table


def _pair_table(pair: Mapping[str, Any], result: Mapping[str, Any]) -> Table:
    table = _table(f"\n{pair['experiment']} minus {pair['baseline']}")
    table.add_column("structure")
    metrics = result["metrics"]
    for heading in ("Dice", "W/T/L", *(_heading(m) for m in metrics[1:])):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, entry in pair["structures"].items():
        if name == MEAN:
            table.add_section()
        # Intervals of Dice and HD95 only, to fit on 80 columns; the others are in compare.json.
        cells = [_difference(m, entry["metrics"][m], interval=i < 2) for i, m in enumerate(metrics)]
        outcome = f"{entry['win']}/{entry['tie']}/{entry['loss']}"
        table.add_row(name, cells[0], outcome, *cells[1:])
    return table


def _difference(metric: str, value: Mapping[str, float], *, interval: bool) -> str:
    digits = 3 if metric in SHARES else 2
    if math.isnan(value["difference"]):
        return "-"
    text = f"{value['difference']:+.{digits}f}"
    if interval and not math.isnan(value["low"]):
        text += f" [{value['low']:+.{digits}f} {value['high']:+.{digits}f}]"
    return text


def _heading(metric: str) -> str:
    name, _, unit = metric.partition("_")
    title = name.upper().replace("DICE", "Dice")
    return f"{title}\n{unit.replace('_', ' ')}" if unit else title


def number(value: float | None, digits: int) -> str:
    """Return a number as text, ``-`` where there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"
