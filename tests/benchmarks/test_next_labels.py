"""The table of the study of rules, from results made by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_whole_starts_are_compared_with_random(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    next_labels = __import__("next_labels")
    sys.modules.pop("next_labels")
    found = {
        next_labels.key_of(start, rule, size): {"dice": {"a": 0.5 + 0.1 * start, "b": dice}}
        for start in (0, 1)
        for rule, dice in (
            ("combined", 0.7 + 0.02 * start),
            ("uncertainty", 0.6),
            ("diversity", 0.6),
            ("spread", 0.6),
            ("random", 0.6),
        )
        for size in (8, 12, 16)
    }
    found["2/first/4"] = {"dice": {"a": 0.9, "b": 0.9}}  # a start that is not finished
    lines = next_labels.table(found).splitlines()
    assert lines[0] == "starts: 2; runs: 31"
    combined = next(line for line in lines if line.startswith("| combined"))
    # Means 0.6 and 0.66; over random +0.05 and +0.06, whose t interval of two is 12.7 wide.
    assert combined.split(" | ")[1].startswith("0.6300 [")
    assert "+0.0550 [-0.0085, +0.1185] over random" in combined
