"""Pages and tables of what `evidence.py` has measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from arms import ADAM, ALONE, AS_LONG, DEFAULT, OPTIMIZERS, TOY, TWIN

from medssl.evaluation.statistics import Interval, paired_interval

Rows = Sequence[Mapping[str, Any]]
MEMBERS, ONE_MEMBER = "hippocampus-8-members", "one member"
"""Group of `members.py`, and what it holds the others against."""
DISTILLED = "hippocampus-4-distilled-development"
"""Group of `distilled.py`, held against one member, too."""
MIXED, WHOLE = "_cutmix", "_none"
"""Ends of the names of arms that differ in mixing alone."""
REFERENCES = {
    "hippocampus-8-nnunet": "nnU-Net",
    "hippocampus-8-nnunet-unmodified": "nnU-Net",
    OPTIMIZERS: ADAM,
    DISTILLED: ONE_MEMBER,
    MEMBERS: ONE_MEMBER,
    f"{MEMBERS}-development": ONE_MEMBER,
}
"""Arm that others are held against in groups where it is not that of the page."""
BEGIN, END = "<!-- {}: made by benchmarks/{} page -->", "<!-- end of {} -->"


def patients(rows: Rows) -> np.ndarray:
    """Return Dice of ``(runs, patients)``: the mean of each patient's structures."""
    return np.array([np.nanmean(list(row["dice"].values()), axis=0) for row in rows])


def gain(rows: Rows, others: Rows) -> Interval:
    """Return the paired gain of some runs over others on the same patients."""
    return paired_interval(patients(rows), patients(others), bounds=(-1.0, 1.0))


def said(interval: Interval) -> str:
    """Return mean and bounds of a difference."""
    return f"{interval.mean:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"


def by_arm(rows: Rows, reference: str) -> dict[str, list[Mapping[str, Any]]]:
    """Return the runs of each arm of a group, the reference first."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda r: (r["arm"] != reference, r["arm"], r["seed"])):
        found.setdefault(row["arm"], []).append(row)
    return found


def table(rows: Rows, reference: str = ALONE) -> list[str]:
    """Return the rows of one group in Markdown, the reference first; times where runs have one."""
    arms = by_arm(rows, reference)
    over = "labels alone" if reference == ALONE else f"`{reference}`"
    ranked = any("auroc" in row for row in rows)
    timed = any("minutes" in row for row in rows)
    columns = ["arm", "labels", "Dice (seeds)", f"gain over {over}", "each structure"]
    columns += (
        ["AUROC of `unlabeled.csv`"] * ranked + ["iterations"] + ["minutes, quickest run"] * timed
    )
    lines = [_line(columns), "|" + "---|" * len(columns)]
    others = arms.get(reference)
    for name, found in arms.items():
        each = patients(found).mean(1)
        dice = f"{each.mean():.4f}"
        if len(each) > 1:
            dice += f" ({', '.join(f'{value:.4f}' for value in each)})"
        held = None if name == reference else others
        more = "" if held is None else said(gain(found, held))
        cells = [f"`{name}`", str(found[0]["labels"]), dice, more, _structures(found, held)]
        if ranked:
            scores = [f"{row['auroc']:.2f}" for row in found if "auroc" in row]
            cells.append(", ".join(scores))
        cells.append(str(found[0]["iterations"]))
        if timed:
            spent = [row["minutes"] for row in found if "minutes" in row]
            least = min(spent, default=0.0)  # a machine that others use only adds
            time = f"{least:.0f}" if least >= 1 else f"{least:.1f}"
            cells.append(f"{time} ({found[0]['precision']})" if spent else "")
        lines.append(_line(cells))
    return lines


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _structures(rows: Rows, others: Rows | None) -> str:
    means = []
    for name in rows[0]["dice"]:
        value = np.nanmean([row["dice"][name] for row in rows])
        if others is not None:
            value -= np.nanmean([row["dice"][name] for row in others])
        means.append(f"{name} {value:{'+.3f' if others is not None else '.3f'}}")
    return ", ".join(means)


def groups(rows: Rows, reference: str) -> list[str]:
    """Return a section for each group."""
    lines: list[str] = []
    for group, found in groupby(sorted(rows, key=lambda r: r["group"]), key=lambda r: r["group"]):
        of_group = list(found)
        count = patients(of_group[:1]).shape[1]
        what = "images" if group == TOY else "patients"
        held = REFERENCES.get(group, reference)
        lines += [f"## {group}", "", f"{count} {what}.", "", *table(of_group, held), ""]
        lines += [*_verdicts(of_group), ""] if reference == DEFAULT else []
        lines += _mixed(of_group)
        data, _, labels = group.partition("-")
        most = [row for row in rows if row["group"] == f"{data}-all"] if labels.isdigit() else []
        lines += [*_shares(of_group, most), ""] if most else []
    return lines


def _shares(rows: Rows, most: Rows) -> list[str]:
    """Say which share of the way from a group's labels alone to all labels each arm goes."""
    arms, top = by_arm(rows, ALONE), patients(most).mean()
    if ALONE not in arms:
        return []
    start, told = patients(arms.pop(ALONE)).mean(), []
    for name, found in arms.items():
        told.append(f"`{name}` {(patients(found).mean() - start) / (top - start):.0%}")
    where = f"all {most[0]['labels']} labels alone ({top:.4f}; same network and budget)"
    return [f"Of the way to {where}: {', '.join(told)}."] if told else []


def _mixed(rows: Rows) -> list[str]:
    """Say what mixing adds to each method that was trained with it and without, and to all."""
    arms, told = by_arm(rows, ALONE), []
    methods = [name[: -len(MIXED)] for name in arms if name.endswith(MIXED)]
    pairs = {name: (arms[f"{name}{MIXED}"], arms.get(f"{name}{WHOLE}", [])) for name in methods}
    pairs = {name: pair for name, pair in pairs.items() if len(pair[0]) == len(pair[1])}
    if not pairs:
        return []
    told = [f"`{name}` {said(gain(*pair))}" for name, pair in pairs.items()]
    every = [[row for pair in pairs.values() for row in pair[side]] for side in (0, 1)]
    return [f"Mixing adds to {', '.join(told)}; in all {said(gain(*every))}.", ""]


def _verdicts(rows: Rows) -> list[str]:
    """Say of the default of an ablation what it was asked."""
    arms, told = by_arm(rows, DEFAULT), []
    for name in ("bcp", "preset fixmatch", ALONE):
        if DEFAULT in arms and name in arms:
            told.append(f"`{name}` {said(gain(arms[DEFAULT], arms[name]))}")
    return [f"The default minus {', '.join(told)}."] if told else []


def whole_page(rows: Rows) -> str:
    """Return the page of evidence."""
    lines = [
        "# The evidence",
        "",
        "Made by `python benchmarks/evidence.py page` from `evidence.json`, which "
        "`benchmarks/evidence.py run` fills. Dice is the mean over structures on the native grid",
        "of patients whom no run saw; the arms of a table have patients, network, augmentation "
        "and last checkpoint in common,",
        "but for what an arm is named after. Intervals: 95 %, paired over patients and, with "
        "several seeds, over runs. Groups named development",
        "are where choices were made: no test patient takes part in them. Time is that of one core "
        "unless threads are named.",
        "In group hippocampus-8-nnunet (`nnunet.py`, all mirrored) nnU-Net 2.8.1 has its own plan "
        "at half its widths, where it is called unmodified at its own;",
        "`supervised` takes as many iterations, `bcp` as much processor time. "
        f"`{TWIN}` has {AS_LONG[0].partition('=')[2]} iterations, which take the time",
        "of 3000 of `bcp`; it ran on another machine, in fp32. Optimizers were compared on the "
        "small network.",
        "",
        *groups(rows, ALONE),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


def between(text: str, name: str, lines: Sequence[str], script: str = "evidence.py") -> str:
    """Return a text with the lines between its marks made anew; without marks as it is.

    Args:
        text: of a page.
        name: of the marks.
        lines: what stands between.
        script: that makes them, as the first mark says.
    """
    begin, end = BEGIN.format(name, script), END.format(name)
    if begin not in text:
        return text
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n" + "\n".join(lines).strip("\n") + f"\n{end}{after}"
