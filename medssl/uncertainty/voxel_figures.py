"""The figures of calibration.json that are about voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medssl.data.datasets.case import LabelMap
from medssl.uncertainty import temperature as calibration

ECE = (
    f"voxels sorted by the probability of their most probable class into {calibration.BINS} equal "
    "parts of [0, 1]; mean over voxels of the gap between mean probability and share of right ones"
)
"""Definition of the expected calibration error, in words for the reader."""


@dataclass(frozen=True)
class Sample:
    """Voxels of one case: log-probabilities ``(N, K)`` float32 and true classes ``(N,)``."""

    log_probs: np.ndarray
    labels: np.ndarray


def voxel_figures(
    samples: Sequence[Sample],
    temperatures: Sequence[float],
    patients: Sequence[str],
    label_map: LabelMap,
    definition: str,
) -> dict[str, Any]:
    """Measure calibration without and with a temperature.

    Args:
        samples: of the cases.
        temperatures: the one that each case is measured with.
        patients: of each case.
        label_map: names of the classes.
        definition: in words, for the reader.

    Returns:
        The keys ``n_cases`` to ``reliability`` of calibration.json that are about voxels.
    """
    before = [calibration.tempered_log(s.log_probs, 1.0) for s in samples]
    pairs = list(zip(samples, temperatures, strict=True))
    after = [calibration.tempered_log(s.log_probs, t) for s, t in pairs]

    def sums(logs: Sequence[np.ndarray], judge: Any) -> np.ndarray:
        return np.stack(
            [calibration.bin_sums(*judge(x, s.labels)) for x, s in zip(logs, samples, strict=True)]
        )

    first, second = sums(before, calibration.top_label), sums(after, calibration.top_label)
    change = calibration.ece_change(first, second, patients)
    structures = {}
    for index, name in enumerate(label_map.names[1:], start=1):
        judge = calibration.one_class(index)
        structures[name] = {
            "label": label_map.values[index],
            "ece_before": calibration.ece_of_sums(sums(before, judge).sum(axis=0)),
            "ece_after": calibration.ece_of_sums(sums(after, judge).sum(axis=0)),
        }
    counts = [len(s.labels) for s in samples]
    means = [
        [
            calibration.negative_log_likelihood(s.log_probs, s.labels, t)
            for s, t in zip(samples, ts, strict=True)
        ]
        for ts in ([1.0] * len(samples), temperatures)
    ]
    return {
        "n_cases": len(samples),
        "n_patients": len(set(patients)),
        "voxels": sum(counts),
        "ece": {
            "definition": definition,
            "bins": calibration.BINS,
            "before": change.before,
            "after": change.after,
            "difference": change.after - change.before,
            "level": 0.95,
            **{
                f"{name}_{end}": value
                for name in ("before", "after", "difference")
                for end, value in zip(
                    ("low", "high"), getattr(change, f"{name}_interval"), strict=True
                )
            },
        },
        "nll": {
            name: float(np.average(values, weights=[c for c in counts if c]))
            for name, values in zip(("before", "after"), means, strict=True)
        },
        "structures": structures,
        "reliability": {"before": _curve(first), "after": _curve(second)},
    }


def _curve(sums: np.ndarray) -> list[dict[str, float]]:
    curve = calibration.reliability(sums.sum(axis=0))
    edges = np.linspace(0, 1, calibration.BINS + 1)
    return [
        {
            "low": float(edges[i]),
            "high": float(edges[i + 1]),
            "count": int(curve.voxels[i]),
            "confidence": float(curve.confidence[i]),
            "accuracy": float(curve.accuracy[i]),
        }
        for i in range(calibration.BINS)
    ]
