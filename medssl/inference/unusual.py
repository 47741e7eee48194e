"""Tell cases that are unlike those a run was calibrated on.

A confident network can be wrong about an image of another kind, so the image and the shape of the
prediction are compared with those of the calibration cases, feature by feature.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

FLOOR = 0.02
"""Least standard deviation of a feature: a share that was always 0 may be 0.01 for once."""
_TOP = 3
_CAP = 50.0
_MARGIN = 1.25


@dataclass(frozen=True)
class Normal:
    """A feature over the calibration cases: mean, standard deviation, least and largest value."""

    mean: float
    std: float
    low: float
    high: float


@dataclass(frozen=True)
class Reference:
    """What the calibration cases look like.

    In calibration.json under ``reference``: ``n`` (cases), ``threshold`` and ``features`` (name ->
    mean, std, low, high).

    Attributes:
        features: by name.
        threshold: score above which a case is flagged: 1.25 times the highest score that a
            calibration case has against the others.
        n: number of calibration cases.
    """

    features: Mapping[str, Normal]
    threshold: float
    n: int

    def deviations(self, features: Mapping[str, float]) -> dict[str, float]:
        """Return by how many standard deviations each known feature is off, signed, cut at 50.

        A feature that the case lacks, such as the intensity in a structure that was not found,
        does not count.
        """
        widen = math.sqrt(1 + 1 / self.n)  # the mean, too, is only known from n cases
        out = {}
        for name, normal in self.features.items():
            if name in features:
                step = (features[name] - normal.mean) / (max(normal.std, FLOOR) * widen)
                out[name] = max(-_CAP, min(_CAP, step))
        return out

    def score(self, features: Mapping[str, float]) -> float:
        """Return how unlike a case is: root mean square of its three largest deviations."""
        return _score(self.deviations(features))

    def reason(self, features: Mapping[str, float]) -> str:
        """Say which feature is most out of line, and what it was in the calibration cases."""
        deviations = self.deviations(features)
        if not deviations:
            return "nothing to compare"
        name = max(deviations, key=lambda key: abs(deviations[key]))
        normal, value = self.features[name], features[name]
        low, high = normal.low, normal.high
        if name.startswith(("volume of", "size along")):  # kept as logarithms
            shift = 1.0 if name.startswith("volume") else 0.0
            value, low, high = (math.exp(v) - shift for v in (value, low, high))
        return f"{name} is {value:.4g}, in the calibration cases {low:.4g} to {high:.4g}"

    def as_dict(self) -> dict[str, Any]:
        """Return the content for calibration.json."""
        features = {
            name: {"mean": f.mean, "std": f.std, "low": f.low, "high": f.high}
            for name, f in self.features.items()
        }
        return {"n": self.n, "threshold": self.threshold, "features": features}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Reference:
        """Read back what :meth:`as_dict` gave.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        features = {
            str(name): Normal(*(float(f[key]) for key in ("mean", "std", "low", "high")))
            for name, f in content["features"].items()
        }
        return cls(features, float(content["threshold"]), int(content["n"]))


def learn_reference(cases: Sequence[Mapping[str, float]]) -> Reference:
    """Learn what is usual from the features of the calibration cases.

    Raises:
        ValueError: fewer than three cases.
    """
    if len(cases) < 3:
        raise ValueError("three cases are the least to tell what is usual")
    scores = [
        _usual([other for j, other in enumerate(cases) if j != i]).score(case)
        for i, case in enumerate(cases)
    ]
    usual = _usual(cases)
    return Reference(usual.features, _MARGIN * max(scores), usual.n)


def _usual(cases: Sequence[Mapping[str, float]]) -> Reference:
    features = {}
    for name in dict.fromkeys(key for case in cases for key in case):
        values = np.array([case[name] for case in cases if name in case])
        if len(values) > 1:
            spread = float(values.std(ddof=1))
            features[name] = Normal(
                float(values.mean()), spread, float(values.min()), float(values.max())
            )
    return Reference(features, math.inf, len(cases))


def _score(deviations: Mapping[str, float]) -> float:
    largest = sorted((abs(d) for d in deviations.values()), reverse=True)[:_TOP]
    return math.sqrt(sum(d * d for d in largest) / len(largest)) if largest else 0.0
