"""What a reader must know beside a verdict, and the verdict on repeats of one experiment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medssl.comparison.paired import MEAN, TIE
from medssl.comparison.verdict import FEWEST, GAIN, HARM, NONE, counted, interval_text, judge
from medssl.evaluation.sign_flip import MIN_PATIENTS
from medssl.evaluation.summary import SHARES

FEW_PATIENTS = 10
"""With fewer patients rare failures have probably not been seen."""


def verdicts_of(comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a verdict with its cautions for every pair; a single one if all runs are repeats."""
    if comparison["same_experiment"]:
        return [repeats_verdict(comparison)]
    return [pair["verdict"] | {"cautions": cautions_of(pair)} for pair in comparison["comparisons"]]


def cautions_of(pair: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know beside the verdict of an entry of ``comparisons``."""
    dice = pair["structures"][MEAN]["metrics"]["dice"]
    code = pair["verdict"]["code"]
    found = [*_confounded(pair), *_too_little(pair)]
    if code != NONE and abs(dice["difference"]) < TIE:
        found.append(f"the difference is below {TIE:g} Dice: shown, but it hardly matters")
    found += _contrary(pair, code)
    return found


def _confounded(pair: Mapping[str, Any]) -> list[str]:
    listed = pair["differences"]
    text = ", ".join(listed[:6]) + (f" and {len(listed) - 6} more" if len(listed) > 6 else "")
    if len(listed) == 1 and pair["differs_in"] != ["method"]:
        said = "the difference speaks about that, not about a method"
        return [f"the experiments differ in {text}: {said}"]
    if len(listed) > 1:
        return [
            f"confounded: the experiments differ in {text}: no single one of these explains the "
            "difference"
        ]
    return []


def _too_little(pair: Mapping[str, Any]) -> list[str]:
    found = []
    patients = pair["n_patients"]
    if patients < MIN_PATIENTS:
        found.append(
            f"only {counted(patients, 'patient')}: fewer than {MIN_PATIENTS} agree in sign by "
            "chance in more than 1 of 20 tries, so all rests on gains being alike in size"
        )
    elif patients < FEW_PATIENTS:
        found.append(
            f"only {counted(patients, 'patient')}: rare failures have probably not been seen"
        )
    names = [
        name
        for name, runs in zip((pair["experiment"], pair["baseline"]), pair["n_runs"], strict=True)
        if runs == 1
    ]
    if names:
        what = "does not cover the luck of training"
        if len(names) == 1:
            what = "covers the luck of training as if it varied like the other experiment's runs"
        found.append(
            f"one run only of {' and of '.join(names)}: the interval {what}; repeat with other "
            "seeds (--set seed=1)"
        )
    elif min(pair["n_runs"]) == 2:
        found.append(
            "two runs of an experiment: the interval covers only part of the luck of training"
        )
    return found


def _contrary(pair: Mapping[str, Any], code: str) -> list[str]:
    """Name structures and metrics with evidence of the opposite."""
    if pair["n_patients"] < FEWEST:
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
                f"{metric} is {what} {where}: {value['difference']:+.3g} "
                f"{interval_text(value['low'], value['high'], '.3g')}"
            )
    return found


def repeats_verdict(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """Return the verdict on runs of one experiment: never evidence, but a measure of luck."""
    (experiment,) = comparison["experiments"]
    dice, seeds = experiment["dice_per_run"], experiment["seeds"]
    what = f"the {len(dice)} runs are the same experiment ({experiment['name']})"
    listed = ", ".join(str(s) for s in seeds)
    same = len(set(seeds)) < len(seeds)
    how = f"with seeds {listed}" if same else f"and differ only by seed ({listed})"
    values = ", ".join(f"{v:.4f}" for v in dice)
    sentence = (
        f"No evidence of a difference: {what} {how}. Their mean Dice is {values} "
        f"(standard deviation {experiment['dice_std_over_runs']:.4f}): that much is luck, and a "
        "method has to beat it."
    )
    cautions = []
    if same:
        cautions.append("runs with equal seeds differ, if at all, by hardware and software only")
    for pair in comparison["comparisons"]:
        value = pair["structures"][MEAN]["metrics"]["dice"]
        if judge(value["low"], value["high"]) != NONE:
            cautions.append(
                f"over patients alone, {pair['experiment']} minus {pair['baseline']} is "
                f"{value['difference']:+.4f} {interval_text(value['low'], value['high'])}, which "
                "excludes zero: one run per "
                "method would have looked like evidence. Compare methods over several seeds"
            )
    return {
        "experiment": experiment["name"],
        "baseline": experiment["name"],
        "code": NONE,
        "sentence": sentence,
        "cautions": cautions,
    }
