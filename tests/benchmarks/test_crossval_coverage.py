"""Coverage of real cross-validations: script, package, docs and what a report says agree."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from medssl.evaluation.coverage import COVERAGE_FILE, coverage_sentence, crossval_sentence

ROOT = Path(__file__).resolve().parents[2]

_spec = importlib.util.spec_from_file_location(
    "crossval_coverage", ROOT / "benchmarks" / "crossval_coverage.py"
)
assert _spec is not None
assert _spec.loader is not None
script = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = script
_spec.loader.exec_module(script)

STORED = json.loads(COVERAGE_FILE.read_text())
PAGE = (ROOT / "docs" / "verdict.md").read_text(encoding="utf-8")


def test_the_page_shows_the_stored_figures() -> None:
    table = PAGE.split(script.START)[1].split(script.END)[0].strip()
    assert table == script.markdown(STORED["crossval"])


def test_what_a_report_states_is_within_two_points_of_the_tables() -> None:
    """Both sentences are read as a reader would, and looked up in the tables of the page."""
    table = PAGE.split(script.START)[1].split(script.END)[0]
    shown = [float(share) for share in re.findall(r"\*\*(\d+) %", table)]
    gain, _, dice = shown
    said = re.search(r"in (\d+) %, the interval of Dice in (\d+) %", crossval_sentence())
    assert said is not None
    assert float(said[1]) == pytest.approx(gain, abs=2)
    assert float(said[2]) == pytest.approx(dice, abs=2)
    for patients in (3, 8, 20):
        said = re.search(r"held it in (\d+) .* to (\d+) ", coverage_sentence(patients))
        assert said is not None
        simulated = [100 * rows[str(patients)]["t"] for rows in STORED["coverage"].values()]
        assert float(said[1]) == pytest.approx(min(simulated), abs=2)
        assert float(said[2]) == pytest.approx(max(simulated), abs=2)


def test_figures_by_hand() -> None:
    rows = [
        {"draw": str(i), "what": what, "truth": "0.5", "mean": mean, "low": low, "high": high}
        for what in script.WHAT
        for i, (mean, low, high) in enumerate((("0.6", "0.4", "0.8"), ("0.8", "0.6", "1.0")))
    ]
    found = script.figures_of(rows)["what"]["gain"]
    assert (found["draws"], found["held"]) == (2, 1)
    assert found["bias"] == pytest.approx(0.2)
    assert found["error"] == pytest.approx(np.sqrt((0.01 + 0.09) / 2), abs=1e-4)
    assert found["width"] == pytest.approx(0.4)


def test_a_toy_patient_is_the_same_again_and_dice_is_dice() -> None:
    image, label = script.toy_patient(3)
    again, _ = script.toy_patient(3)
    assert image.shape == label.shape == script.SHAPE
    assert np.array_equal(image, again)
    assert not np.array_equal(image, script.toy_patient(4)[0])
    full, half = np.ones((1, 2, 2, 2), bool), np.zeros((1, 2, 2, 2), bool)
    half[0, 0] = True
    assert script.dice_of(half, full) == pytest.approx([2 / 3])
