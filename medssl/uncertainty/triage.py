"""Which case to look at or annotate next: the strange first, then the uncertain and different."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medssl.inference.assessment import Assessment
from medssl.inference.expected_dice import ExpectedDice
from medssl.inference.unusual import Reference

_CUT = 5.0
"""Deviations beyond so many standard deviations make two cases no more different."""
_SIMILAR = 0.5


@dataclass(frozen=True)
class Ranked:
    """One line of a ranking.

    Attributes:
        case: id.
        flag: ``unusual`` for a case unlike the calibration cases, else empty.
        quality: mean expected Dice, NaN where there is none.
        unusual: see :meth:`medssl.inference.unusual.Reference.score`.
        similar_to: the case ranked before it that is most like it, if one is rather like it.
        why: one line for the reader.
        predicted_dice: what the folds of a cross-validation are expected to reach; NaN where
            nobody knows.
        agreement: how far they agree, 0 to 1; NaN where they are not several.
    """

    case: str
    flag: str
    quality: float
    unusual: float
    similar_to: str
    why: str
    predicted_dice: float = math.nan
    agreement: float = math.nan


def rank_cases(
    cases: Mapping[str, Assessment], reference: Reference, dice: ExpectedDice | None = None
) -> list[Ranked]:
    """Rank cases by what a look at them, or their annotation, is worth.

    First come the cases unlike the calibration cases, the strangest first: their quality score may
    be confident nonsense. Of the others, the next is always the one with the largest product of
    uncertainty (its place from the best expected Dice, 1 at the worst) and novelty (distance to the
    nearest of those already ranked, over the median distance, at most 1). Where folds of a
    cross-validation predict together, their agreement takes the place of the expected Dice.

    Args:
        cases: assessments by case id.
        reference: of the calibration.
        dice: of the same, to say what the folds are expected to reach; it does not rank.
    """
    scores = {name: reference.score(one.features) for name, one in cases.items()}
    strange = sorted(
        (name for name in cases if scores[name] > reference.threshold),
        key=lambda name: (-scores[name], name),
    )
    ranked = [
        _line(
            name,
            cases[name],
            scores[name],
            flag="unusual",
            why=f"unlike the calibration cases: {reference.reason(cases[name].features)}",
            dice=dice,
        )
        for name in strange
    ]
    usual = sorted(name for name in cases if name not in set(strange))
    places = _places({name: _standing(cases[name]) for name in usual})
    for name, similar in _greedy(usual, cases, reference, places):
        why = _unsure(cases[name], places[name], len(usual), dice)
        if similar:
            why += f"; much like {similar}, which comes first"
        line = _line(name, cases[name], scores[name], similar_to=similar, why=why, dice=dice)
        ranked.append(line)
    return ranked


def _greedy(
    names: Sequence[str],
    cases: Mapping[str, Assessment],
    reference: Reference,
    places: Mapping[str, int],
) -> list[tuple[str, str]]:
    """Return names in order, each with the earlier one it resembles, or an empty text."""
    if not names:
        return []
    points = _points([cases[name] for name in names], reference)
    typical = _median_distance(points)
    unsure = np.array([1 - (places[name] - 1) / len(names) for name in names])
    nearest = np.full(len(names), np.inf)
    neighbor = np.full(len(names), -1)
    left = np.ones(len(names), dtype=bool)
    order = []
    for _ in names:
        novelty = np.minimum(nearest / typical, 1.0)
        # Where all are duplicates of earlier ones, the least sure still comes first.
        score = np.where(left, unsure * np.maximum(novelty, 1e-6), -1.0)
        chosen = int(score.argmax())
        similar = neighbor[chosen] if nearest[chosen] < _SIMILAR * typical else -1
        order.append((names[chosen], names[similar] if similar >= 0 else ""))
        left[chosen] = False
        distance = np.linalg.norm(points - points[chosen], axis=1)
        closer = distance < nearest
        nearest[closer], neighbor[closer] = distance[closer], chosen
    return order


def _points(cases: Sequence[Assessment], reference: Reference) -> np.ndarray:
    """Return ``(cases, features)`` deviations; a missing feature counts as usual."""
    rows = [reference.deviations(case.features) for case in cases]
    names = list(reference.features)
    values = np.array([[row.get(name, 0.0) for name in names] for row in rows])
    return values.reshape(len(cases), len(names)).clip(-_CUT, _CUT)


def _median_distance(points: np.ndarray, most: int = 500) -> float:
    """Return the median distance of two cases, of evenly spread ones where there are many."""
    some = points[:: max(1, math.ceil(len(points) / most))]
    pairs = [np.linalg.norm(some[i + 1 :] - some[i], axis=1) for i in range(len(some) - 1)]
    median = float(np.median(np.concatenate(pairs))) if pairs else 0.0
    return median if median > 0 else 1.0


def _places(quality: Mapping[str, float]) -> dict[str, int]:
    """Number cases from the worst, 1, to the best; one without quality is the worst."""
    order = sorted(quality, key=lambda n: (-1.0 if math.isnan(quality[n]) else quality[n], n))
    return {name: place for place, name in enumerate(order, start=1)}


def _unsure(case: Assessment, place: int, total: int, dice: ExpectedDice | None) -> str:
    known = [s for s in case.structures if s.expected_dice is not None]
    if not known:
        return "no structure was found"
    if case.agreement is not None:
        nth = "" if place == 1 else f"{_ordinal(place)} "
        text = f"the folds agree to a Dice of {case.agreement:.2f}, {nth}lowest of {total}"
        predicted = None if dice is None else dice.of(case.members)
        if dice is not None and predicted is not None:
            text += f"; Dice to be expected {predicted:.2f}, give or take {dice.error:.2f}"
        return text
    worst = min(known, key=lambda s: s.expected_dice or 0.0)
    nth = "" if place == 1 else f"{_ordinal(place)} "
    text = f"expected Dice {_quality(case):.2f}, {nth}lowest of {total}"
    if len(case.structures) > 1:
        text += f"; least sure of {worst.name} ({worst.expected_dice:.2f})"
    return text


def _ordinal(place: int) -> str:
    if place % 100 in (11, 12, 13):
        return f"{place}th"
    return f"{place}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(place % 10, 'th') }"


def _standing(case: Assessment) -> float:
    """Return what a case is ranked by, NaN where there is nothing."""
    return _quality(case) if case.agreement is None else case.agreement


def _quality(case: Assessment) -> float:
    return math.nan if case.quality is None else case.quality


def _line(
    name: str,
    case: Assessment,
    unusual: float,
    *,
    flag: str = "",
    similar_to: str = "",
    why: str,
    dice: ExpectedDice | None,
) -> Ranked:
    predicted = None if dice is None else dice.of(case.members)
    return Ranked(
        name,
        flag,
        _quality(case),
        unusual,
        similar_to,
        why,
        math.nan if predicted is None else predicted,
        math.nan if case.agreement is None else case.agreement,
    )
