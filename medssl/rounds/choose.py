"""Which scans to label next: pure rules over what a model says of them.

Every rule takes a scan of a patient who has no label as long as there is one: a second frame of one
heart teaches little that the first did not.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, get_args

import numpy as np

Rule = Literal["combined", "uncertainty", "diversity", "spread", "random"]
RULES: tuple[Rule, ...] = get_args(Rule)
DRAWN: tuple[Rule, ...] = ("spread", "random")
"""Rules by which every scan is as likely to be chosen as any other."""

CUT = 5.0
"""Deviations beyond so many spreads make a scan no more different: a broken one is not typical."""


@dataclass(frozen=True)
class Candidates:
    """What the rules know of the scans that may be chosen, and of those that are labeled.

    Attributes:
        errors: ``(n,)`` expected error of each, 0 to 1: 1 minus the expected Dice.
        points: ``(n, features)`` where each lies among the others, see :func:`as_points`.
        labeled: ``(m, features)`` of the scans that have a label; m may be 0.
        patients: whose scan each is.
        labeled_patients: those that have a label already.
    """

    errors: np.ndarray
    points: np.ndarray
    labeled: np.ndarray
    patients: Sequence[Hashable]
    labeled_patients: frozenset[Hashable] = frozenset()


def choose(rule: Rule, candidates: Candidates, count: int, *, seed: int = 0) -> list[int]:
    """Return the places of the scans to label, the most wanted first; fewer if there are fewer.

    Args:
        rule: ``random`` draws; ``spread`` draws scans that differ, see :func:`systematic_sample`;
            ``uncertainty`` takes those with the largest expected error;
            ``diversity`` takes those that the others are most like, see :func:`most_covering`;
            ``combined`` does so with each scan counting by the place of its expected error among
            all, 1 for the largest, 1/n for the smallest.
        candidates: to choose from.
        count: how many, at least 1.
        seed: of ``random`` and ``spread``.
    """
    n = len(candidates.errors)
    if rule in DRAWN:
        rng = np.random.default_rng(seed)
        order = one_a_patient(rng.permutation(n).tolist(), candidates)
        return order[:count] if rule == "random" else _spread(order, candidates, count, rng)
    if rule == "uncertainty":
        order = np.argsort(-candidates.errors, kind="stable").tolist()
        return one_a_patient(order, candidates)[:count]
    # By places: how far expected errors lie apart depends on how well the model is calibrated.
    places = np.searchsorted(np.sort(candidates.errors), candidates.errors, side="right") / n
    weights = np.ones(n) if rule == "diversity" else places
    return most_covering(candidates, weights, count)


def one_a_patient(order: Sequence[int], candidates: Candidates) -> list[int]:
    """Put the first scan of each patient before every second one, and so on; order stays else."""
    return sorted(order, key=_turns(order, candidates).__getitem__)


def _turns(order: Sequence[int], candidates: Candidates) -> dict[int, int]:
    """Return how many scans of its patient are labeled or come before each scan."""
    labels = dict.fromkeys(candidates.labeled_patients, 1)
    turns = {}
    for place in order:
        patient = candidates.patients[place]
        turns[place] = labels.get(patient, 0)
        labels[patient] = turns[place] + 1
    return turns


def _spread(
    order: Sequence[int], candidates: Candidates, count: int, rng: np.random.Generator
) -> list[int]:
    """Take turns whole as long as they fit, and draw the rest from the next one."""
    chosen: list[int] = []
    for _, same in groupby(order, key=_turns(order, candidates).__getitem__):
        turn, left = list(same), count - len(chosen)
        if len(turn) > left:
            drawn = systematic_sample(candidates.points[turn], left, rng)
            return [*chosen, *(turn[i] for i in drawn)]
        chosen += turn
    return chosen


def systematic_sample(points: np.ndarray, count: int, rng: np.random.Generator) -> list[int]:
    """Draw points far apart, so that each is drawn with the same probability, ``count / n``.

    The points are put in a row in which neighbors are alike (from the first, always on to the
    nearest that is left), and every ``n / count``-th is taken, from a random start.

    Args:
        points: ``(n, features)``, in random order.
        count: how many, at most n.
        rng: draws the start.

    Source: Madow, On the theory of systematic sampling II, Annals of Mathematical Statistics 20
    (1949).
    """
    if not count:
        return []
    n, row = len(points), [0]
    left = np.arange(1, n)
    while len(left):
        nearest = int(np.argmin(_distances(points[left], points[row[-1]])))
        row.append(int(left[nearest]))
        left = np.delete(left, nearest)
    starts = (rng.random() + np.arange(count)) * n / count
    return [row[int(place)] for place in starts]


def most_covering(candidates: Candidates, weights: np.ndarray, count: int) -> list[int]:
    """Choose scans one by one, so that every scan has one like it among the labeled ones.

    Each time that scan is taken which most lowers the sum, over all candidates, of weight times
    distance to the nearest scan that is labeled or chosen (greedy k-medians). Unlike taking the
    farthest one, it takes what many others are like before what is merely odd.

    Args:
        candidates: to choose from.
        weights: ``(n,)`` how much each counts, 0 or more.
        count: how many.
    """
    points, n = candidates.points, len(candidates.points)
    nearest = _nearest(points, candidates.labeled)
    turns = np.array([p in candidates.labeled_patients for p in candidates.patients], dtype=int)
    left, chosen = np.ones(n, dtype=bool), []
    places: dict[Hashable, list[int]] = {}
    for place, patient in enumerate(candidates.patients):
        places.setdefault(patient, []).append(place)
    for _ in range(min(count, n)):
        free = np.flatnonzero(left & (turns == turns[left].min()))
        gains = [
            float(weights @ np.maximum(nearest - _distances(points, points[i]), 0.0)) for i in free
        ]
        best = int(free[int(np.argmax(gains))])
        chosen.append(best)
        left[best] = False
        turns[places[candidates.patients[best]]] += 1
        nearest = np.minimum(nearest, _distances(points, points[best]))
    return chosen


def as_points(
    features: Sequence[Mapping[str, float]], labeled: Sequence[Mapping[str, float]] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Turn named features of scans into points whose axes count alike.

    Each feature is measured from its median over all scans, in units of its median deviation, cut
    off at `CUT`; a missing one counts as the median. Features that never vary are left out.

    Args:
        features: of the candidates, such as :mod:`medssl.inference.features` gives.
        labeled: of the labeled scans.

    Returns:
        ``(n, features)`` and ``(m, features)``.
    """
    rows = [*features, *labeled]
    names = sorted({name for row in rows for name in row})
    values = np.array([[row.get(name, np.nan) for name in names] for row in rows], dtype=float)
    values = values.reshape(len(rows), len(names))
    values[:, ~np.isfinite(values).any(axis=0)] = 0.0
    centered = np.nan_to_num(values - np.nanmedian(values, axis=0), posinf=np.inf, neginf=-np.inf)
    spread = np.median(np.abs(centered), axis=0)
    flat = spread == 0  # more than half are alike: the others are measured by their mean deviation
    spread[flat] = np.abs(centered[:, flat]).clip(max=1e300).mean(axis=0)
    vary = spread > 0
    points = (centered[:, vary] / spread[vary]).clip(-CUT, CUT)
    points /= max(1.0, points.shape[1]) ** 0.5
    return points[: len(features)], points[len(features) :]


def _nearest(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the distance of each point to the nearest other; where there is none, to the farthest
    point there is, so that the first choice is the middle of all."""
    if len(others):
        return np.min([_distances(points, other) for other in others], axis=0)
    farthest = max((float(_distances(points, p).max()) for p in points), default=0.0)
    return np.full(len(points), farthest)


def _distances(points: np.ndarray, point: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points - point, axis=1)
