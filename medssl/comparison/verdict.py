"""The verdict on two methods over the same patients: a pure function of their scores.

One rule, fixed before any score is seen: the interval of the mean gain in Dice decides. Above zero
it is evidence of a gain, below zero of harm, else of neither. Everything that makes the interval
say less than it seems to is a caution (:mod:`medssl.comparison.cautions`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from medssl.evaluation.sign_flip import MIN_PATIENTS, sign_flip_p
from medssl.evaluation.statistics import LEVEL, Interval, nanmean, paired_interval

GAIN, NONE, HARM = "gain", "none", "harm"
DICE_GAINS = (-1.0, 1.0)
FEWEST = 3
"""Two patients give no verdict: nobody has tried how often their intervals err."""
_EQUAL = 1e-9
_NAMED = 4
"""So many structures are named one by one in the sentence; of more, the two at the ends."""


@dataclass(frozen=True)
class PairedScores:
    """Dice of the same patients with two methods.

    Attributes:
        names: of the method, and of the baseline.
        patients: ids.
        structures: names.
        ours, baseline: ``(runs, patients, structures)``, NaN where a structure has no value in a
            patient; for a structure and patient either all runs of both have a value or none. The
            numbers of runs may differ.
        cost: training time of the method over that of the baseline; NaN where it is not known.
        trained: how both were trained, for the sentence; by default by how many runs.
    """

    names: tuple[str, str]
    patients: Sequence[str]
    structures: Sequence[str]
    ours: np.ndarray
    baseline: np.ndarray
    cost: float = math.nan
    trained: str = ""


IntervalOf = Callable[[np.ndarray, np.ndarray], Interval]
"""Makes the interval of a mean gain of ``(runs, patients)`` values of a method and its baseline."""


def over_patients(ours: np.ndarray, baseline: np.ndarray) -> Interval:
    """Return Student's t interval of the mean gain in Dice over runs and patients."""
    return paired_interval(ours, baseline, bounds=DICE_GAINS)


@dataclass(frozen=True)
class Verdict:
    """What the scores of the same patients say.

    Attributes:
        code: ``gain``, ``none`` or ``harm``.
        gain: mean over patients of the gain in Dice, mean over structures, with its interval.
        gaining, losing: patients whose own mean rises or falls.
        p: two-sided sign-flip p, NaN with fewer than six patients.
        structures: the gain of each structure, by name.
        worst: the patient that loses most, or gains least, and its gain.
        cost: training time over that of the baseline; NaN where it is not known.
        sentence: all of that in one.
    """

    code: str
    gain: Interval
    gaining: int
    losing: int
    p: float
    structures: dict[str, Interval]
    worst: tuple[str, float]
    cost: float
    sentence: str


def judge(low: float, high: float) -> str:
    """Return ``gain``, ``harm`` or ``none`` from an interval; one without ends is no evidence."""
    if low > 0:
        return GAIN
    return HARM if high < 0 else NONE


def code_of(gain: Interval, p: float) -> str:
    """Return the code of a gain: what the interval says.

    Where all patients gain alike to the last digit there is a mean and no interval; then the signs
    decide, if they are enough to (six patients).
    """
    if math.isnan(gain.low) and gain.n >= MIN_PATIENTS and p < 1 - LEVEL:
        return judge(gain.mean, gain.mean)
    return judge(gain.low, gain.high) if gain.n >= FEWEST else NONE


def verdict_over_patients(
    scores: PairedScores, *, interval_of: IntervalOf = over_patients
) -> Verdict:
    """Judge whether a method is better than its baseline.

    Args:
        scores: of the test patients, or of all labeled patients out of fold.
        interval_of: makes the intervals, where they are not those over runs and patients; for
            instance of repeated cross-validation.

    Raises:
        ValueError: no patient has a score.
    """
    means = [nanmean(x, axis=2) for x in (scores.ours, scores.baseline)]
    gain = interval_of(means[0], means[1])
    own = means[0].mean(0) - means[1].mean(0)
    known = np.flatnonzero(np.isfinite(own))
    if not known.size:
        raise ValueError("no patient has a score with both methods")
    p = sign_flip_p(own)
    lowest = int(known[own[known].argmin()])
    structures = {
        name: interval_of(scores.ours[..., i], scores.baseline[..., i])
        for i, name in enumerate(scores.structures)
        if np.isfinite(scores.ours[..., i]).any()
    }
    verdict = Verdict(
        code=code_of(gain, p),
        gain=gain,
        gaining=int((own > _EQUAL).sum()),
        losing=int((own < -_EQUAL).sum()),
        p=p,
        structures=structures,
        worst=(str(scores.patients[lowest]), float(own[lowest])),
        cost=scores.cost,
        sentence="",
    )
    runs = (len(scores.ours), len(scores.baseline))
    trained = "one run each" if runs == (1, 1) else f"{runs[0]} and {runs[1]} runs"
    return replace(verdict, sentence=sentence_of(verdict, scores.names, scores.trained or trained))


def sentence_of(verdict: Verdict, names: tuple[str, str], trained: str) -> str:
    """Say a verdict in one sentence; ``trained`` says by how many runs, or how else."""
    ours, baseline = names
    claim = {
        GAIN: f"Evidence of gain: {ours} has a higher mean Dice than {baseline}",
        HARM: f"Evidence of harm: {ours} has a lower mean Dice than {baseline}",
        NONE: f"No evidence of a difference between {ours} and {baseline} in mean Dice",
    }[verdict.code]
    gain, n = verdict.gain, verdict.gain.n
    base = f"{counted(n, 'patient')}, {trained}"
    if math.isnan(gain.low):
        interval = f"no interval from {base} ({gain.none})"
    else:
        interval = f"{gain.level:.0%} interval {interval_text(gain.low, gain.high)} over {base}"
    parts = [f"{verdict.gaining} of {counted(n, 'patient')} gain and {verdict.losing} lose"]
    if not math.isnan(verdict.p):
        parts[0] += f" (sign-flip p = {_p_text(verdict.p)})"
    parts += [_structures_text(verdict.structures)] if len(verdict.structures) > 1 else []
    parts.append(f"worst patient {verdict.worst[0]}: {verdict.worst[1]:+.4f}")
    if not math.isnan(verdict.cost):
        parts.append(f"{verdict.cost:.1f} times the training time")
    return f"{claim}: {gain.mean:+.4f}, {interval}; {'; '.join(parts)}."


def _structures_text(structures: dict[str, Interval]) -> str:
    known = sorted(structures.items(), key=lambda item: -item[1].mean)
    shown = known if len(known) <= _NAMED else [known[0], known[-1]]
    texts = [
        f"{name} {one.mean:+.4f}"
        + ("" if math.isnan(one.low) else f" {interval_text(one.low, one.high)}")
        + (f" ({counted(one.n, 'patient')})" if one.n != known[0][1].n else "")
        for name, one in shown
    ]
    if len(known) <= _NAMED:
        return ", ".join(texts)
    return f"{len(known)} structures, from {texts[0]} to {texts[1]}"


def _p_text(p: float) -> str:
    return f"{p:.2g}" if p >= 0.0001 else "0.0001 or less"


def interval_text(low: float, high: float, digits: str = ".4f") -> str:
    """Return ``[low, high]`` with signs."""
    return f"[{low:+{digits}}, {high:+{digits}}]"


def counted(number: int, noun: str) -> str:
    """Return ``1 patient``, ``2 patients``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
