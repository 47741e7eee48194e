"""Criteria that choose among runs without labels: by hand, and held against Dice by hand."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def choosing(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import choosing_runs

    return choosing_runs


@pytest.mark.parametrize("distance", [1.0, 4.0])
def test_separability_of_two_equal_clouds_is_a_quarter_of_the_squared_distance(
    choosing: ModuleType, distance: float
) -> None:
    g = torch.Generator().manual_seed(0)
    label = torch.arange(8000) % 2
    features = torch.randn(8000, 1, generator=g) + distance * label.unsqueeze(1)
    scatter = choosing.Scatter(2)
    for part in torch.arange(8000).split(2000):  # several passes count as one
        logits = 9.0 * torch.nn.functional.one_hot(label[part], 2).T.unsqueeze(0)
        scatter.add(features[part].T.unsqueeze(0), logits)
    assert scatter.fisher() == pytest.approx(distance**2 / 4, rel=0.08)
    assert scatter.sureness() == pytest.approx(63.5 / 64)


def test_the_margin_is_in_deviations(choosing: ModuleType) -> None:
    """Of structure 1 half of the voxels at .6 and half at .9: centres and deviation by hand."""
    probs = torch.tensor([[0.4, 0.6], [0.4, 0.6], [0.1, 0.9], [0.1, 0.9]])
    scatter = choosing.Scatter(2)
    scatter.add(torch.zeros(1, 1, 4), probs.log().T.unsqueeze(0))
    assert scatter.margin() == pytest.approx(2, rel=1e-4)


def rows() -> list[dict[str, Any]]:
    found = []
    for group, scores in (("a", [0.7, 0.8, 0.9]), ("b", [0.5, 0.6, 0.4])):
        for number, value in enumerate(scores):
            row = {"group": group, "run": number, "dice": value, "last": True}
            found.append({**row, "good": value + (group == "b"), "bad": -value})
    found.append({**found[0], "last": False, "dice": 0.75, "good": 5.0, "bad": -2.0})
    return found


def test_what_a_criterion_is_worth(choosing: ModuleType) -> None:
    last = [row for row in rows() if row["last"]]
    assert choosing.correlation(last, "good") == pytest.approx(1), "within groups alone"
    assert choosing.correlation(last, "bad") == pytest.approx(-1)
    assert choosing.regret(last, "good") == (0, pytest.approx(0.1))
    assert choosing.regret(last, "bad") == (pytest.approx(0.2), pytest.approx(0.1))
    assert choosing.over_the_last(rows(), "good") == (pytest.approx(0.05), 1, 1)
    assert choosing.over_the_last(rows(), "bad") == (0, 0, 1)
    assert np.isnan(choosing.over_the_last(last, "good")[0])
    lines = choosing.table([row | {"confidence": row["good"]} for row in rows()])
    assert len(lines) == 2 + len(choosing.CRITERIA)
    confident = next(line for line in lines if line.startswith("| confidence"))
    assert "| 6 | +1.00 | 0.0000 | 0.1000 | +0.0500 (1 of 1) |" in confident


def test_dice_and_majority_by_hand(choosing: ModuleType) -> None:
    one, two, three = (np.array(x) for x in ([0, 1, 1, 2], [0, 1, 0, 2], [1, 1, 0, 0]))
    assert choosing.dice(one, two, 3) == pytest.approx((2 / 3 + 1) / 2)
    assert choosing._majority([one, two, three], 3).tolist() == [0, 1, 0, 2]
