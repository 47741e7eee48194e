"""What calibration gives to prediction: the temperature, volume errors, and what is usual.

The file ``RUN/calibration.json`` is described in :mod:`medssl.uncertainty.temperature`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medssl.errors import MedSSLError
from medssl.inference.expected_dice import ExpectedDice
from medssl.inference.unusual import Reference

FORMAT = 1


@dataclass(frozen=True)
class Calibrated:
    """What a calibration belongs to; for anything else it means nothing.

    Attributes:
        checkpoint: ``best`` or ``last``; for the reader.
        tta: whether predictions are means over mirror images.
        largest_component: whether only the largest piece of each structure is kept.
        weights: SHA-256 of each run's checkpoint file.
        each: whether it holds for each run by itself, and so for some of them, too.
        decide: ``classes`` or ``regions``.
    """

    checkpoint: str
    tta: bool
    largest_component: bool
    weights: tuple[str, ...]
    each: bool = False
    decide: str = "classes"

    def difference(self, other: Calibrated) -> str | None:
        """Say in a few words what differs from another predictor, None if nothing that matters."""
        if not self.each and len(self.weights) != len(other.weights):
            return f"{len(self.weights)} run(s), not {len(other.weights)}"
        some = self.each and set(other.weights) <= set(self.weights)
        if not some and sorted(self.weights) != sorted(other.weights):
            return "other weights"
        if self.tta != other.tta:
            return f"prediction {'with' if self.tta else 'without'} --tta"
        if self.largest_component != other.largest_component:
            return f"prediction {'with' if self.largest_component else 'without'} largest component"
        if self.decide != other.decide:
            return f"predictions that {self.decide} decide"
        return None

    def as_dict(self) -> dict[str, Any]:
        """Return the content for calibration.json."""
        return {
            "checkpoint": self.checkpoint,
            "tta": self.tta,
            "largest_component": self.largest_component,
            "decide": self.decide,
            "members": len(self.weights),
            "weights": list(self.weights),
        }


@dataclass(frozen=True)
class VolumeError:
    """By what factor a structure's true volume differs from the predicted one.

    Attributes:
        low_factor, high_factor: the interval's ends over the predicted volume.
        level: share of true volumes that lie inside, for cases like those it was learned from.
        n: calibration cases.
    """

    low_factor: float
    high_factor: float
    level: float
    n: int


@dataclass(frozen=True)
class Calibration:
    """Calibration of one predictor.

    Attributes:
        temperature: see :func:`medssl.ops.uncertainty.tempered`; of all members together.
        of: what it belongs to.
        volumes: by structure.
        reference: None where there were too few cases.
        temperatures: of each member by itself, by the hash of its weights, where the folds of a
            cross-validation were calibrated one by one; a bundle's networks have theirs in them.
        dice: what Dice to expect; None where nobody learned it, or of too few patients.
        looks: how the members are looked at when a prediction is assessed, see
            :class:`medssl.inference.decision.Deciding`; 0 unless folds were calibrated.
    """

    temperature: float
    of: Calibrated
    volumes: Mapping[str, VolumeError] = field(default_factory=dict)
    reference: Reference | None = None
    temperatures: Mapping[str, float] = field(default_factory=dict)
    dice: ExpectedDice | None = None
    looks: int = 0

    @property
    def of_folds(self) -> bool:
        """Whether it was learned from the folds of a cross-validation, one by one."""
        return self.looks > 0

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Calibration:
        """Take what prediction needs from the content of calibration.json.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: it is something else.
        """
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}")
        of, temperature = content["predictor"], float(content["temperature"])
        weights, folds = tuple(str(w) for w in of["weights"]), content.get("folds")
        each = () if folds is None else folds["temperatures"]  # none in a bundle
        temperatures = dict(zip(weights, each, strict=bool(each)))
        for one in (temperature, *temperatures.values()):
            if not 0 < float(one) < math.inf:
                raise ValueError(f"temperature {one}")
        reference, dice = content["reference"], None if folds is None else folds["dice"]
        return cls(
            temperature,
            Calibrated(
                str(of["checkpoint"]),
                bool(of["tta"]),
                bool(of["largest_component"]),
                weights,
                each=folds is not None,
                decide=str(of.get("decide", "classes")),  # older ones do not say
            ),
            {
                str(name): VolumeError(
                    float(v["low_factor"]), float(v["high_factor"]), float(v["level"]), int(v["n"])
                )
                for name, v in content["volume"].items()
            },
            None if reference is None else Reference.from_dict(reference),
            {weight: float(one) for weight, one in temperatures.items()},
            None if dice is None else ExpectedDice.from_dict(dice),
            0 if folds is None else max(1, int(folds["looks"])),
        )


def read_calibration(path: Path) -> Calibration:
    """Read calibration.json.

    Raises:
        MedSSLError: it cannot be read or is something else.
    """
    try:
        return Calibration.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MedSSLError(
            f"the calibration cannot be read ({type(error).__name__}: {error})",
            where=path,
            fix="run `medssl calibrate` again, or remove the file",
        ) from None


def portable(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what may leave with a bundle: no case, no patient, no file."""
    keys = ("format", "temperature", "volume", "reference")
    folds = content.get("folds")
    predictor: Sequence[str] = ("checkpoint", "tta", "largest_component")
    return {
        **{key: content[key] for key in keys},
        "predictor": {
            **{key: content["predictor"][key] for key in predictor},
            "decide": content["predictor"].get("decide", "classes"),
            "weights": [],
        },
        "ece": {key: content["ece"][key] for key in ("before", "after")},
        "n_cases": content["n_cases"],
        "n_patients": content["n_patients"],
        # The temperatures are in the bundle's networks.
        **({} if folds is None else {"folds": _portable_folds(folds)}),
    }


def _portable_folds(folds: Mapping[str, Any]) -> dict[str, Any]:
    dice = folds["dice"]
    keys = ("slopes", "centers", "scales", "mean", "error", "patients")
    return {
        "temperatures": [],
        "looks": folds["looks"],
        "dice": None if dice is None else {key: dice[key] for key in keys},
    }
