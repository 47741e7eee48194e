"""The Dice to be expected of a prediction, from what is known of each of its members.

Learned by ``medssl calibrate`` from a cross-validation: of each patient, from the fold that never
saw it (:mod:`medssl.uncertainty.dice_fit`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FEATURES = ("entropy", "volume", "mirrored")
"""What Dice is predicted from, see :mod:`medssl.inference.members`; their agreement is not."""
REACH = 3.0
"""Standard deviations beyond which a feature is not followed."""


@dataclass(frozen=True)
class ExpectedDice:
    """A linear rule from a member's numbers to the Dice it is expected to reach.

    Attributes:
        slopes: by feature: change in Dice for one standard deviation.
        centers, scales: mean and standard deviation of each feature in the patients it was learned
            from; a feature counts up to :data:`REACH` deviations off, no rule holds farther out.
        mean: mean Dice of these patients.
        error: mean absolute error over patients, each predicted by the others' rule.
        patients: how many there were.
    """

    slopes: Mapping[str, float]
    centers: Mapping[str, float]
    scales: Mapping[str, float]
    mean: float
    error: float
    patients: int

    def of_member(self, numbers: Mapping[str, float]) -> float | None:
        """Return what one member is expected to reach, 0 to 1; None if a number is missing."""
        if any(name not in numbers for name in self.slopes):
            return None
        out = self.mean
        for name, slope in self.slopes.items():
            step = (numbers[name] - self.centers[name]) / self.scales[name]
            out += slope * max(-REACH, min(REACH, step))
        return max(0.0, min(1.0, out))

    def of(self, members: Sequence[Mapping[str, float]]) -> float | None:
        """Return the mean over members of what each by itself is expected to reach."""
        known = [found for one in members if (found := self.of_member(one)) is not None]
        return sum(known) / len(known) if known else None

    def as_dict(self) -> dict[str, Any]:
        """Return the content for calibration.json."""
        return {
            "slopes": dict(self.slopes),
            "centers": dict(self.centers),
            "scales": dict(self.scales),
            "mean": self.mean,
            "error": self.error,
            "patients": self.patients,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ExpectedDice:
        """Read back what :meth:`as_dict` gave.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        slopes, centers, scales = (
            {str(name): float(content[key][name]) for name in content["slopes"]}
            for key in ("slopes", "centers", "scales")
        )
        numbers = (*slopes.values(), *centers.values(), *scales.values())
        if not all(map(math.isfinite, numbers)) or not all(v > 0 for v in scales.values()):
            raise ValueError("a rule for Dice with values that are no numbers")
        return cls(
            slopes,
            centers,
            scales,
            float(content["mean"]),
            float(content["error"]),
            int(content["patients"]),
        )
