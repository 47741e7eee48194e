"""The verdict of a comparison in plain words, and the cautions that belong to it.

The rule is one line: evidence if the 95 % interval of the difference in mean Dice excludes zero and
there are six patients or more, no evidence otherwise. Everything else that makes the interval say
less than it seems to is a caution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medssl.comparison.paired import MEAN, SHARES, TIE

GAIN, NONE, HARM = "gain", "none", "harm"
MIN_PATIENTS = 6
"""With fewer, even a difference of one sign in all patients is chance in more than 1 of 20 tries:
2 * 0.5^5 = 0.06 (two-sided sign test), whatever a percentile interval says."""
FEW_PATIENTS = 10
"""With fewer patients a percentile interval is much too narrow."""


def judge(low: float, high: float) -> str:
    """Return ``gain``, ``harm`` or ``none`` from an interval; one without bounds is no evidence."""
    if low > 0:
        return GAIN
    return HARM if high < 0 else NONE


def code_of(pair: Mapping[str, Any]) -> str:
    """Return the code of a pair's verdict."""
    dice = pair["structures"][MEAN]["metrics"]["dice"]
    return judge(dice["low"], dice["high"]) if pair["n_patients"] >= MIN_PATIENTS else NONE


def verdicts_of(comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a verdict with its cautions for every pair; a single one if all runs are repeats."""
    if comparison["same_experiment"]:
        return [repeats_verdict(comparison)]
    return [
        verdict_of(pair) | {"cautions": cautions_of(pair, comparison["arms"])}
        for pair in comparison["comparisons"]
    ]


def verdict_of(pair: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``code`` and the ``sentence`` for an arm and its baseline."""
    dice = pair["structures"][MEAN]["metrics"]["dice"]
    code = code_of(pair)
    arm, baseline = pair["arm"], pair["baseline"]
    patients, (runs_a, runs_b) = pair["n_patients"], pair["n_runs"]
    runs = "one run each" if runs_a == runs_b == 1 else f"{runs_a} and {runs_b} runs"
    base = f"{_counted(patients, 'patient')}, {runs}"
    if math.isnan(dice["low"]):
        interval = f"no interval from {base}"
    else:
        interval = f"95 % interval {_interval(dice)} over {base}"
    change = f"{dice['difference']:+.4f}"
    sentence = {
        GAIN: f"Evidence of gain: {arm} has a higher mean Dice than {baseline}: {change}, "
        f"{interval}.",
        HARM: f"Evidence of harm: {arm} has a lower mean Dice than {baseline}: {change}, "
        f"{interval}.",
        NONE: f"No evidence of a difference between {arm} and {baseline} in mean Dice: {change}, "
        f"{interval}.",
    }[code]
    return {"arm": arm, "baseline": baseline, "code": code, "sentence": sentence}


def cautions_of(pair: Mapping[str, Any], arms: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what a reader must know beside the verdict.

    Args:
        pair: an entry of ``comparisons``.
        arms: the entries of ``arms``; for the spread between their runs.
    """
    dice = pair["structures"][MEAN]["metrics"]["dice"]
    code = code_of(pair)
    spread = {a["name"]: a for a in arms}
    found = [*_confounded(pair), *_too_little(pair)]
    if code != NONE and abs(dice["difference"]) < TIE:
        found.append(f"the difference is below {TIE:g} Dice: shown, but it hardly matters")
    noise = run_noise([spread[pair["arm"]], spread[pair["baseline"]]])
    if code != NONE and abs(dice["difference"]) < 2 * noise:
        found.append(
            f"the difference is less than two standard errors ({noise:.4f} Dice) of what runs of "
            "one arm differ by: more seeds may take it away"
        )
    found += _contrary(pair, code)
    return found


def run_noise(arms: Sequence[Mapping[str, Any]]) -> float:
    """Return the standard error of the difference of two arms due to their runs alone.

    From the pooled standard deviation between runs of the arms that have several; 0 if none has.
    """
    known = [a["dice_per_run"] for a in arms if len(a["dice_per_run"]) > 1]
    if not known:
        return 0.0
    freedom = sum(len(v) - 1 for v in known)
    variance = sum(float(np.var(v)) * len(v) for v in known) / freedom
    return math.sqrt(variance * sum(1 / len(a["dice_per_run"]) for a in arms))


def _confounded(pair: Mapping[str, Any]) -> list[str]:
    listed = pair["differences"]
    text = ", ".join(listed[:6]) + (f" and {len(listed) - 6} more" if len(listed) > 6 else "")
    if len(listed) == 1 and pair["differs_in"] != ["method"]:
        return [f"the arms differ in {text}: the difference speaks about that, not about a method"]
    if len(listed) > 1:
        return [
            f"confounded: the arms differ in {text}: no single one of these explains the difference"
        ]
    return []


def _too_little(pair: Mapping[str, Any]) -> list[str]:
    found = []
    if pair["n_patients"] < MIN_PATIENTS:
        found.append(
            f"{_counted(pair['n_patients'], 'patient')} cannot give evidence: fewer than "
            f"{MIN_PATIENTS} agree by chance too often, whatever the interval says"
        )
    elif pair["n_patients"] < FEW_PATIENTS:
        found.append(
            f"only {_counted(pair['n_patients'], 'patient')}: an interval from fewer than "
            f"{FEW_PATIENTS} is too narrow"
        )
    names = [
        name
        for name, runs in zip((pair["arm"], pair["baseline"]), pair["n_runs"], strict=True)
        if runs == 1
    ]
    if names:
        found.append(
            f"one run only of {' and of '.join(names)}: the interval does not cover the luck of "
            "training; repeat with other seeds (--set seed=1)"
        )
    elif min(pair["n_runs"]) == 2:
        found.append("two runs of an arm: the interval covers only part of the luck of training")
    return found


def _contrary(pair: Mapping[str, Any], code: str) -> list[str]:
    """Name structures and metrics with evidence of the opposite."""
    if pair["n_patients"] < MIN_PATIENTS:
        return []
    found = []
    for name, entry in pair["structures"].items():
        for metric, value in entry["metrics"].items():
            own = judge(value["low"], value["high"])
            if metric not in SHARES:
                own = {GAIN: HARM, HARM: GAIN}.get(own, NONE)
            if own in (NONE, code) or (code == NONE and name != MEAN):
                continue
            what = {GAIN: "better", HARM: "worse"}[own]
            where = "on average" if name == MEAN else f"for {name}"
            found.append(
                f"{metric} is {what} {where}: {value['difference']:+.3g} {_interval(value, '.3g')}"
            )
    return found


def repeats_verdict(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """Return the verdict on runs of one arm: never evidence, but a measure of luck."""
    (arm,) = comparison["arms"]
    dice, seeds = arm["dice_per_run"], arm["seeds"]
    what = f"the {len(dice)} runs are the same experiment ({arm['name']})"
    listed = ", ".join(str(s) for s in seeds)
    same = len(set(seeds)) < len(seeds)
    how = f"with seeds {listed}" if same else f"and differ only by seed ({listed})"
    values = ", ".join(f"{v:.4f}" for v in dice)
    sentence = (
        f"No evidence of a difference: {what} {how}. Their mean Dice is {values} "
        f"(standard deviation {arm['dice_std_over_runs']:.4f}): that much is luck, and a method "
        "has to beat it."
    )
    cautions = []
    if same:
        cautions.append("runs with equal seeds differ, if at all, by hardware and software only")
    for pair in comparison["comparisons"]:
        value = pair["structures"][MEAN]["metrics"]["dice"]
        if judge(value["low"], value["high"]) != NONE:
            cautions.append(
                f"over patients alone, {pair['arm']} minus {pair['baseline']} is "
                f"{value['difference']:+.4f} {_interval(value)}, which excludes zero: one run per "
                "method would have looked like evidence. Compare methods over several seeds"
            )
    return {
        "arm": arm["name"],
        "baseline": arm["name"],
        "code": NONE,
        "sentence": sentence,
        "cautions": cautions,
    }


def _interval(value: Mapping[str, float], digits: str = ".4f") -> str:
    return f"[{value['low']:+{digits}}, {value['high']:+{digits}}]"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
