"""Tell whether unlabeled cases look unlike the labeled ones, and which of them the most.

Unlabeled images help as far as they are of the kind that the labels teach. The measure is the
Frechet distance between the groups' normal distributions of simple features (extent, spacing,
histogram, sharpness); patients exchanged between the groups at random say what distance is chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np
from nibabel import orientations

from medssl.data.checks.case_facts import CaseFacts
from medssl.data.datasets.problem import Problem, Severity

MIN_CASES = 4
"""Smaller groups have no distribution to compare."""

PERMUTATIONS = 200
FEW_WAYS = 2000
"""Ways to divide the patients, below which only a plain difference can be told from chance."""
APART = 1.5
"""Groups differ if their distance exceeds that of every permutation and some feature's mean lies
this far apart, in spreads of the labeled cases."""

FAR = 4.5
"""Own distance, in spreads of the labeled cases, beyond which a single case is unlike them."""

FEATURES = (
    *("log2 extent, left-right", "log2 extent, front-back", "log2 extent, up-down"),
    *("log2 spacing, left-right", "log2 spacing, front-back", "log2 spacing, up-down"),
    *("5th percentile", "25th percentile", "median", "75th percentile", "95th percentile"),
    *("sharpness, left-right", "sharpness, front-back", "sharpness, up-down"),
)
UNIT_FEATURES = ("5th percentile in HU/1000", "median in HU/1000", "95th percentile in HU/1000")

_FLOORS = np.array([0.15] * 3 + [0.1] * 3 + [0.05] * 5 + [0.25] * 3 + [0.05] * 3)
"""Differences smaller than these say nothing, however alike the labeled cases are."""


@dataclass(frozen=True)
class Shift:
    """The comparison of two groups of cases.

    Attributes:
        group: ``unlabeled`` or ``test``.
        distance: squared Frechet distance in spreads of the features.
        chance: the largest squared distance of groups drawn at random.
        differs: the features whose means differ most, with the difference in spreads.
        cases: own distance of every case of the group, the farthest first.
        ways: in how many ways so many patients can be divided into groups of these sizes.
    """

    group: str
    distance: float
    chance: float
    differs: tuple[tuple[str, float], ...]
    cases: tuple[tuple[str, float], ...]
    ways: int = FEW_WAYS

    @property
    def strength(self) -> str:
        """What the comparison can tell, in words; empty where there are patients enough."""
        if self.ways >= FEW_WAYS:
            return ""
        return (
            f"with so few patients there are {self.ways} divisions to compare with: chance cannot "
            f"be made less likely than 1 in {self.ways}, and a small difference stays unseen"
        )

    @property
    def stands_out(self) -> bool:
        """Whether the groups differ by more than chance, and by an amount that matters."""
        return self.distance > self.chance and abs(self.differs[0][1]) > APART

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain values."""
        return {
            "group": self.group,
            "frechet_distance": round(self.distance, 3),
            "largest_by_chance": round(self.chance, 3),
            "stands_out": self.stands_out,
            "strength": self.strength,
            "features": {name: round(value, 2) for name, value in self.differs},
            "cases": {name: round(value, 2) for name, value in self.cases},
        }


def features(facts: CaseFacts, *, has_unit: bool) -> np.ndarray:
    """Return the features of one case, logarithms to base 2.

    Args:
        has_unit: intensities mean the same in every scan (CT), so that their values count, too.
    """
    order = np.argsort(orientations.io_orientation(facts.affine)[:, 0])
    spacing = np.asarray(facts.spacing)[order]
    extent = spacing * np.asarray(facts.shape)[order]
    levels = np.asarray(facts.levels[:7])
    scaled = (levels[1:6] - levels[0]) / max(levels[6] - levels[0], 1e-12)
    rough = np.log2(np.maximum(facts.rough, 1e-4))
    parts = [np.log2(extent), np.log2(spacing), scaled, rough]
    if has_unit:
        parts.append(levels[[1, 3, 5]] / 1000)
    return np.concatenate(parts)


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the squared Frechet distance of normal distributions fitted to ``(N, F)`` and
    ``(M, F)`` samples: ``|m1 - m2|^2 + trace(C1 + C2 - 2 (C1 C2)^(1/2))``."""
    means = first.mean(0) - second.mean(0)
    c1, c2 = (np.cov(x, rowvar=False).reshape(x.shape[1], -1) for x in (first, second))
    values, vectors = np.linalg.eigh(c1)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ c2 @ root), 0)).sum()
    return max(0.0, float(means @ means + np.trace(c1) + np.trace(c2) - 2 * cross))


def compare_groups(
    labeled: Sequence[CaseFacts], others: Sequence[CaseFacts], group: str, *, has_unit: bool
) -> Shift | None:
    """Compare a group of cases with the labeled ones; None if either is too small."""
    labeled, others = ([f for f in fs if f.levels] for fs in (labeled, others))
    if min(len(labeled), len(others)) < MIN_CASES:
        return None
    table = np.stack([features(f, has_unit=has_unit) for f in (*labeled, *others)])
    floors = _FLOORS[: table.shape[1]]
    n = len(labeled)
    pooled = table / np.maximum(table.std(0), floors)
    distance = frechet_distance(pooled[:n], pooled[n:])
    _, patients = np.unique([f.case.patient for f in (*labeled, *others)], return_inverse=True)
    rng = np.random.default_rng(0)
    chance = 0.0
    for _ in range(PERMUTATIONS):
        # Whole patients change sides: scans of one patient are alike.
        place = np.argsort(rng.permutation(patients.max() + 1))
        order = np.argsort(place[patients], kind="stable")
        # The groups themselves are no chance, and with few patients they come up by themselves.
        if {*order[:n]} in ({*range(n)}, {*range(n, len(order))}):
            continue
        shuffled = pooled[order]
        chance = max(chance, frechet_distance(shuffled[:n], shuffled[n:]))
    ways = comb(int(patients.max()) + 1, len(np.unique(patients[:n])))
    center = np.median(table[:n], 0)
    spread = np.maximum(1.4826 * np.median(np.abs(table[:n] - center), 0), floors)
    own = np.sqrt(np.mean(((table[n:] - center) / spread) ** 2, axis=1))
    means = (table[n:].mean(0) - table[:n].mean(0)) / spread
    names = (*FEATURES, *UNIT_FEATURES)[: table.shape[1]]
    differs = sorted(zip(names, means.tolist(), strict=True), key=lambda d: -abs(d[1]))
    cases = sorted(((f.case.id, float(d)) for f, d in zip(others, own, strict=True)), key=_by_size)
    return Shift(group, distance, chance, tuple(differs), tuple(cases), ways)


def _by_size(entry: tuple[str, float]) -> tuple[float, str]:
    return -entry[1], entry[0]


def shift_problems(shift: Shift, files: dict[str, Any]) -> list[Problem]:
    """Turn a comparison into problems.

    Args:
        shift: the comparison.
        files: image file of each case id.
    """
    severity: Severity = "warning" if shift.group == "unlabeled" else "note"
    found = []
    if shift.stands_out:
        listed = ", ".join(f"{name} ({value:.1f})" for name, value in shift.cases[:5])
        why = ", ".join(f"{n} {v:+.1f}" for n, v in shift.differs[:3])
        found.append(
            Problem(
                severity,
                files[shift.cases[0][0]],
                f"the {len(shift.cases)} {shift.group} cases look unlike the labeled ones (squared "
                f"Frechet distance {shift.distance:.1f}, by chance at most {shift.chance:.1f}); in "
                f"spreads of the labeled cases: {why}. Farthest: {listed}"
                + (f" ({shift.strength})" if shift.strength else ""),
                "look at the farthest ones; take out what is of another kind, or add labels there",
                "shift",
                shift.cases[0][0],
            )
        )
        return found
    usual = shift.cases[len(shift.cases) // 2][1]
    for name, value in shift.cases:
        if value > FAR:
            found.append(
                Problem(
                    severity,
                    files[name],
                    f"this {shift.group} case looks unlike the labeled ones: {value:.1f} spreads "
                    f"from them (half of the {shift.group} cases: less than {usual:.1f})",
                    "look at it; take it out if it is of another kind",
                    "shift",
                    name,
                )
            )
    return found
